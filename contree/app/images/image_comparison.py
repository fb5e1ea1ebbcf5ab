"""What differs between two images, from what is recorded of their layers, without a VM.

Implemented by adapters.layers.diff; tests/contracts/test_image_comparison.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from contree.app.images.layer_comparison import LayerEntry


class ChangeKind(StrEnum):
    """What became of a path.

    TYPE      a file of another type is there
    MODIFIED  the content differs: a file's bytes, a link's target, a device's numbers
    METADATA  mode, owner or extended attributes differ, or if that was asked for the time; the
              content does not
    """

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"
    RENAMED = "renamed"
    TYPE = "type"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChange:
    """A path that two images do not have the same of.

    path       absolute; bytes decoded with surrogateescape
    from_path  of what was renamed, where it was
    """

    path: str
    kind: ChangeKind
    before: LayerEntry | None
    after: LayerEntry | None
    content_changed: bool
    from_path: str | None = None


class ImageComparer(Protocol):
    """Compares filesystems: both are diff_ids, bottom to top. No symbolic link is followed."""

    def changes(
        self,
        before: Sequence[str],
        after: Sequence[str],
        *,
        paths: Sequence[str] = ("/",),
        times: bool = False,
        beyond: str | None = None,
    ) -> AsyncGenerator[Sequence[ImageChange], None]:
        """Yield what differs, sorted by the bytes of the paths, in bounded memory.

        paths   absolute, normalised: of each the file itself and all below it
        times   also what differs in its time alone
        beyond  only paths that sort after this one

        Nothing is RENAMED here: that is told from what was added and removed. Content is compared
        by digest, in files with holes by what they hold. Raises NotFoundError when a layer is not
        in the store.
        """
        ...

    async def names(self, layers: Sequence[str], paths: Sequence[str]) -> bool:
        """Say whether any of the layers may change one of the paths or what is below it.

        Reads a few rows of their indexes: true is a reason to compare. Raises NotFoundError.
        """
        ...
