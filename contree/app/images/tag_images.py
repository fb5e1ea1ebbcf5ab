"""Point tags at images, and remove them."""

from __future__ import annotations

from uuid import UUID

from contree.app.access import Caller
from contree.app.clock import Clock
from contree.app.event_log import EventLog
from contree.app.reads import ImageReads, ImageRow
from contree.app.retries import retry_conflicts
from contree.domain.context import Context
from contree.domain.errors import NotFoundError
from contree.domain.tag import Tag, parse_tag, tag_id_of
from contree.domain.token import Permission


async def pointed_tag(log: EventLog, context: Context, *, name: str, image_id: UUID) -> Tag:
    """Return the project's tag `name`, decided to point at `image_id`, not yet appended."""
    tag = await log.load(Tag, tag_id_of(context.project_id, name))
    if tag is None:
        return Tag.assign(context, name=name, image_id=image_id)
    tag.move(context, image_id=image_id)
    return tag


class TagImages:
    def __init__(self, *, log: EventLog, images: ImageReads, clock: Clock) -> None:
        self._log = log
        self._images = images
        self._clock = clock

    async def assign(self, caller: Caller, image_id: UUID, tag: str) -> ImageRow:
        """Point `tag` at the image and return the image's row under that tag.

        Raises PermissionMissingError, InvalidFieldError, NotFoundError.
        """
        caller.require(Permission.SET_IMAGE_TAG)
        name = parse_tag(tag)
        await self._existing(caller, image_id)

        async def attempt() -> None:
            context = caller.context(self._clock.now())
            await self._log.append(
                await pointed_tag(self._log, context, name=name, image_id=image_id)
            )

        await retry_conflicts(attempt)
        row = await self._images.by_tag(caller.project_id, name)
        if row is None:  # another client removed it in this moment
            raise NotFoundError("tag", name)
        return row

    async def remove(self, caller: Caller, image_id: UUID, tag: str | None) -> None:
        """Remove `tag` from the image, or all its tags when None. An absent tag is no error."""
        caller.require(Permission.SET_IMAGE_TAG)
        if tag is not None:
            parse_tag(tag)
        await self._existing(caller, image_id)
        names = (
            [tag] if tag is not None else await self._images.tags_of(caller.project_id, image_id)
        )

        async def attempt() -> None:
            context = caller.context(self._clock.now())
            removed = []
            for name in names:
                found = await self._log.load(Tag, tag_id_of(caller.project_id, name))
                if found is not None and found.image_id == image_id:
                    found.remove(context)
                    removed.append(found)
            await self._log.append(*removed)

        await retry_conflicts(attempt)

    async def _existing(self, caller: Caller, image_id: UUID) -> None:
        if await self._images.get(caller.project_id, image_id) is None:
            raise NotFoundError("image", image_id)
