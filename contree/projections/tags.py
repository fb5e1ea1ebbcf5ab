"""Where each tag points now; the images projection reads it, its history is the log's."""

from __future__ import annotations

from collections.abc import Sequence

from contree.app.projection import Change
from contree.domain.aggregate import Event
from contree.domain.tag import TagAssigned, TagMoved, TagRemoved

POINT = (
    "INSERT INTO tags (project_id, name, image_id, assigned_at) VALUES ($1, $2, $3, $4) "
    "ON CONFLICT (project_id, name) "
    "DO UPDATE SET image_id = EXCLUDED.image_id, assigned_at = EXCLUDED.assigned_at"
)
REMOVE = "DELETE FROM tags WHERE project_id = $1 AND name = $2"


class TagsProjection:
    """The table `tags`: one row a tag that points somewhere."""

    tables: tuple[str, ...] = ("tags",)
    # Collation "C": prefixes are found by the primary key, in the order of bytes.
    ddl = """
CREATE TABLE IF NOT EXISTS tags (
    project_id  uuid        NOT NULL,
    name        text        COLLATE "C" NOT NULL,
    image_id    uuid        NOT NULL,
    assigned_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, name)
);
CREATE INDEX IF NOT EXISTS tags_image_idx ON tags (project_id, image_id);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        match event:
            case TagAssigned() | TagMoved():
                statement = POINT
                arguments: tuple[object, ...] = (
                    event.project_id,
                    event.name,
                    event.image_id,
                    event.timestamp,
                )
            case TagRemoved():
                statement, arguments = REMOVE, (event.project_id, event.name)
            case _:
                return ()
        row = ("tags", (event.project_id, event.name))
        return (Change(statement=statement, arguments=arguments, row=row),)
