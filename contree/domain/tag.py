"""The Tag aggregate: a name in a project that points to an image, and moves."""

from __future__ import annotations

import re
from uuid import UUID, uuid5

from contree.domain.aggregate import Aggregate, Created, Event, register
from contree.domain.context import Context
from contree.domain.errors import InvalidFieldError, NotFoundError

TAG_CHARS_MAX = 256
TAG_GRAMMAR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:[:/.][A-Za-z0-9_-]+)*")


def parse_tag(text: str, *, field: str = "tag") -> str:
    """Return `text` when it is a tag name. Raises InvalidFieldError naming `field`."""
    if len(text) > TAG_CHARS_MAX or not TAG_GRAMMAR.fullmatch(text):
        raise InvalidFieldError(
            field,
            f"a tag is up to {TAG_CHARS_MAX} letters, digits, '_' or '-', in segments joined by "
            "one of ':', '/', '.', beginning with a letter or digit",
        )
    return text


def tag_id_of(project_id: UUID, name: str) -> UUID:
    return uuid5(project_id, f"tag:{name}")


class TagAssigned(Created):
    """Recorded when a name is first used in a project."""

    TOPIC = "contree.tag.assigned"
    name: str
    image_id: UUID


class TagMoved(Event):
    """Recorded when a known name is pointed at an image (also after a removal)."""

    TOPIC = "contree.tag.moved"
    name: str
    image_id: UUID
    previous_image_id: UUID | None

    def apply(self, aggregate: Tag) -> None:
        aggregate.image_id = self.image_id


class TagRemoved(Event):
    """Recorded when a name stops pointing anywhere."""

    TOPIC = "contree.tag.removed"
    name: str
    previous_image_id: UUID

    def apply(self, aggregate: Tag) -> None:
        aggregate.image_id = None


class Tag(Aggregate):
    """A movable name. `image_id` is None after a removal."""

    TOPIC = "contree.tag"
    OVERWRITES = True

    def __init__(self, name: str, image_id: UUID) -> None:
        self.name = name
        self.image_id: UUID | None = image_id

    @classmethod
    def assign(cls, context: Context, *, name: str, image_id: UUID) -> Tag:
        name = parse_tag(name)
        tag_id = tag_id_of(context.project_id, name)
        return cls._begin(TagAssigned, context, tag_id, name=name, image_id=image_id)

    def move(self, context: Context, *, image_id: UUID) -> None:
        """Point at `image_id`; records nothing when it does already."""
        if self.image_id != image_id:
            previous = self.image_id
            self._record(
                TagMoved, context, name=self.name, image_id=image_id, previous_image_id=previous
            )

    def remove(self, context: Context) -> None:
        """Raise NotFoundError when the tag points nowhere."""
        if self.image_id is None:
            raise NotFoundError("tag", self.name)
        self._record(TagRemoved, context, name=self.name, previous_image_id=self.image_id)


register(Tag, TagAssigned, TagMoved, TagRemoved)
