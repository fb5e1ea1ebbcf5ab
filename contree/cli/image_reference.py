"""Images as they are named on the command line: UUID, its beginning, or tag:NAME."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contree.bootstrap import Core
from contree.domain.errors import ContentErasedError, InvalidFieldError, NotFoundError
from contree.domain.project import project_id_of
from contree.domain.tag import parse_tag

TAG_PREFIX: Final = "tag:"
HELP: Final = "its UUID, the beginning of one, or tag:NAME with --project"

_BEGINNING: Final = re.compile(
    r"[0-9a-f]{4,8}|[0-9a-f]{8}-(?:[0-9a-f]{0,4}|(?:[0-9a-f]{4}-){1,2}[0-9a-f]{0,4}"
    r"|(?:[0-9a-f]{4}-){3}[0-9a-f]{0,12})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Referred:
    project_id: UUID
    image_id: UUID


async def referred(core: Core, text: str, project: str | None) -> Referred:
    """Return the image that `text` names, in the project named so or (None) in any.

    Raises InvalidFieldError, NotFoundError.
    """
    project_id = None if project is None else project_id_of(project)
    if text.startswith(TAG_PREFIX):
        if project_id is None:
            raise InvalidFieldError("project", "is missing: tags belong to a project, name it")
        tag = parse_tag(text.removeprefix(TAG_PREFIX), field="IMAGE")
        row = await core.images.by_tag(project_id, tag)
        if row is None:
            raise NotFoundError("tag", tag)
        return Referred(project_id=project_id, image_id=row.image_id)
    prefix = text.lower()
    if not _BEGINNING.fullmatch(prefix):
        raise InvalidFieldError(
            "IMAGE",
            f"'{text[:64]}' is no UUID, no 4 digits or more that one begins with, no tag:NAME",
        )
    found = await core.ancestry.beginning_with(prefix, project_id, limit=2)
    if not found:
        raise NotFoundError("image", text)
    if len(found) > 1:
        raise InvalidFieldError("IMAGE", f"'{text}' begins several ids, give more of it")
    image_id, owner = found[0]
    return Referred(project_id=owner, image_id=image_id)


async def readable(core: Core, text: str, project: str | None) -> Referred:
    """As `referred`, for who reads the image's files. Raises ContentErasedError too."""
    image = await referred(core, text, project)
    row = await core.projects.get(image.project_id)
    if row is not None and row.erased_at is not None:
        raise ContentErasedError(row.erased_at)
    return image
