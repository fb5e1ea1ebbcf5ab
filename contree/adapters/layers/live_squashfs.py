"""The squashfs of a delta, made while the delta is still coming in.

Each entry goes to sqfstar as it is written to the layer, so little is left to do after the last
byte. A small delta is kept in memory and given to sqfstar at its end, if it is wanted then at all:
most are, but a run that changes nothing should not pay for a process. What the layer turns out to
be may differ from what passed by (`canonical` drops what is as below); then this is thrown away and
`squashfs` makes another from the index.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from contree.adapters.layers.content import read_range
from contree.adapters.layers.entry import Kind, TarEntry
from contree.adapters.layers.sqfstar import Sqfstar
from contree.adapters.layers.sqfstar_sparse import send_widened
from contree.adapters.layers.squashfs import overlay_form, sendable
from contree.adapters.layers.tar_writer import END_OF_ARCHIVE, header, padding

HELD_BYTES: Final = 1024**2
"""How much of a delta is kept before sqfstar is started."""

_GATHERED_BYTES: Final = 64 * 1024
"""Less than this is not worth a system call of its own."""


class LiveSquashfs:
    """Makes `target` of the entries that it is told of, in the order of a guest's stream.

    Leaving the context ends what is not finished.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._root = TarEntry(path=b"", kind=Kind.DIRECTORY)
        self._held = bytearray()
        self._sqfstar: Sqfstar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._sqfstar is not None:
            self._sqfstar.__exit__(*error)

    def root(self, entry: TarEntry) -> None:
        """Say, before anything else, what the root directory shows."""
        self._root = entry

    def add(self, entry: TarEntry) -> None:
        """Add an entry; a regular file's content follows, or `add_sparse` instead."""
        self.write(header(overlay_form(entry), charset=False))

    def add_sparse(self, entry: TarEntry, tar: Path, data_offset: int) -> None:
        """Add a sparse file whose stored bytes lie at `data_offset` of `tar`."""
        sent = sendable(overlay_form(entry))
        self.write(header(sent, charset=False))
        descriptor = os.open(tar, os.O_RDONLY)
        try:
            send_widened(
                entry.segments or (),
                sent.segments or ((0, entry.size_bytes),),
                data=lambda at, length: self._copy(descriptor, data_offset + at, length),
                write=self.write,
            )
        finally:
            os.close(descriptor)
        self.write(padding(sent.stored_bytes))

    def write(self, data: bytes | memoryview) -> None:
        """Add content or padding of the latest entry."""
        if self._sqfstar is not None and len(data) >= _GATHERED_BYTES:
            self._pass_on().write(data)
            return
        self._held += data
        if len(self._held) > (HELD_BYTES if self._sqfstar is None else _GATHERED_BYTES):
            self._pass_on()

    def finish(self) -> None:
        """Have `target` whole, though not fsynced. Raises StorageFullError, LayerRefused."""
        sqfstar = self._pass_on()
        sqfstar.write(END_OF_ARCHIVE)
        sqfstar.finish()

    def _pass_on(self) -> Sqfstar:
        """Give sqfstar what is held, started now if it was not."""
        if self._sqfstar is None:
            self._sqfstar = Sqfstar(self.target, self._root)
        self._sqfstar.write(self._held)
        self._held = bytearray()
        return self._sqfstar

    def _copy(self, descriptor: int, offset: int, length: int) -> None:
        for piece in read_range(descriptor, offset, length):
            self.write(piece)
