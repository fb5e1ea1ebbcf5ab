"""Projects by id and name."""

from __future__ import annotations

from collections.abc import Sequence

from contree.app.projection import Change
from contree.domain.aggregate import Event
from contree.domain.project import ProjectCreated

INSERT = "INSERT INTO projects (project_id, name, created_at) VALUES ($1, $2, $3)"


class ProjectsProjection:
    """The table `projects`; tokens are shown with their project's name."""

    tables: tuple[str, ...] = ("projects",)
    ddl = """
CREATE TABLE IF NOT EXISTS projects (
    project_id uuid        PRIMARY KEY,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL
);
"""

    def apply(self, event: Event) -> Sequence[Change]:
        if not isinstance(event, ProjectCreated):
            return ()
        project_id = event.originator_id
        arguments = (project_id, event.name, event.timestamp)
        return (Change(statement=INSERT, arguments=arguments, row=("projects", project_id)),)
