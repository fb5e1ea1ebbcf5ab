"""What an uploaded archive may cost: it is hostile, and small ones expand without end.

A bound on the ratio is not needed beside them: what is unpacked is passed on piece by piece, up to
the bytes that its run may leave behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from contree.app.content.archives import ArchiveEntry
from contree.domain.errors import LayerRefused

ENTRIES_MAX: Final = 500_000
"""Entries of one archive; a source tree of the Linux kernel has 90,000."""

NAMES_BYTES_MAX: Final = 64 * 1024**2
"""Of all names and link targets of an archive together: directories are remembered to the end."""

STREAM_SLACK_BYTES: Final = 1024**3
"""Headers and padding of ENTRIES_MAX entries; also bounds what follows the end of a tar."""

ZIP_READ_BYTES_MAX: Final = 8 * 1024**2
"""The central directory of a zip: Python reads it whole, and makes an object of each 46 bytes."""


@dataclass(slots=True)
class Account:
    """Counts what one archive has cost so far."""

    bytes_max: int
    entries: int = 0
    names_bytes: int = 0
    content_bytes: int = 0

    def add(self, entry: ArchiveEntry) -> None:
        """Raises LayerRefused when `entry` is one too many, or what it announces is too much."""
        self.entries += 1
        self.names_bytes += len(entry.path) + len(entry.target)
        self.content_bytes += entry.size_bytes
        if self.entries > ENTRIES_MAX:
            raise LayerRefused(f"it has more than {ENTRIES_MAX} entries")
        if self.names_bytes > NAMES_BYTES_MAX:
            raise LayerRefused(f"its names take more than {NAMES_BYTES_MAX} bytes")
        if self.content_bytes > self.bytes_max:
            raise LayerRefused(
                f"it unpacks to more than the {self.bytes_max} bytes of max_layer_bytes"
            )
