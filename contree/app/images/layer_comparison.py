"""What two layers have and do not have in common, without unpacking either.

Implemented by adapters.layers.reading.comparison; tests/contracts/test_layer_comparison.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contree.app.images.layer_store import EntryType


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """What a layer says of one path. `type` None: it removes what was there.

    mode      permission bits, 0..0o7777
    sha256    of a regular file's content, hex; empty for all else
    sparse    the file is stored with holes: `sha256` is of what is stored and of where it lies
    opaque    a directory that hides what the layers below have in it
    """

    type: EntryType | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    size_bytes: int = 0
    sha256: str = ""
    sparse: bool = False
    symlink_to: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    opaque: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryDifference:
    """A path that the layers do not say the same of; None: it says nothing of it.

    path  absolute; bytes decoded with surrogateescape
    """

    path: str
    original: LayerEntry | None
    replay: LayerEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """equal_count: paths of which both say the same. `truncated`: there are more differences."""

    equal_count: int
    differences: Sequence[EntryDifference]
    truncated: bool


class LayerComparer(Protocol):
    """Compares what two runs left behind."""

    async def compare(
        self, original: str | None, replay: str | None, *, limit: int
    ) -> LayerComparison:
        """Compare two layers by diff_id, None being a run that changed nothing.

        Differences come in the order of their paths, at most `limit` of them. Raises NotFoundError
        when a layer is not in the store.
        """
        ...
