"""What the kinds of a layer's entries are to those who look into an image."""

from __future__ import annotations

from typing import Final

from contree.adapters.layers.tar.entry import Kind
from contree.app.images.layer_store import EntryType

ENTRY_TYPES: Final = {
    Kind.DIRECTORY: EntryType.DIRECTORY,
    Kind.REGULAR: EntryType.REGULAR,
    Kind.SYMLINK: EntryType.SYMLINK,
    Kind.CHARACTER_DEVICE: EntryType.CHARACTER_DEVICE,
    Kind.BLOCK_DEVICE: EntryType.BLOCK_DEVICE,
    Kind.FIFO: EntryType.FIFO,
}
"""An image shows no whiteouts, and a hard link as the file that it is a name of."""
