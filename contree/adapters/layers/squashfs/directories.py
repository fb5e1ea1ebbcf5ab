"""The table of directories of a squashfs: names in byte order, each with where its inode lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contree.adapters.layers.squashfs import format as form
from contree.adapters.layers.squashfs.format import Listing
from contree.adapters.layers.squashfs.tables import Table
from contree.adapters.layers.tar.entry import Kind


class Directories:
    """Listings by path, each kept until it is taken."""

    def __init__(self, directory: Path) -> None:
        self.table = Table(directory)
        self._listings: dict[bytes, Listing] = {}

    @contextmanager
    def listing(self, path: bytes) -> Iterator[Names]:
        """Write the names in `path`, which are to be added in byte order."""
        names = Names(self.table)
        yield names
        self._listings[path] = names.finish()

    def take(self, path: bytes) -> Listing:
        """Return what was written of `path`, nothing if it is empty."""
        return self._listings.pop(path, Listing())

    def close(self) -> None:
        self.table.close()


class Names:
    """One directory's names, in runs that share a header."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._start = table.size_bytes
        self._indexed_to = table.size_bytes // form.METADATA_BYTES
        self._records: list[bytes] = []
        self._first = b""
        self._position = 0
        self._number = 0
        self._subdirectories = 0
        self._index: list[bytes] = []

    def add(self, name: bytes, kind: Kind, *, position: int, number: int) -> None:
        """Add a name whose inode `number` is at `position` of the table of inodes."""
        if self._records and (
            len(self._records) == form.NAMES_OF_HEADER_MAX
            or form.block_at(position) != form.block_at(self._position)
            or abs(number - self._number) > form.NUMBER_DELTA_MAX
        ):
            self._end_run()
        if not self._records:
            self._first, self._position, self._number = name, position, number
        self._subdirectories += kind is Kind.DIRECTORY
        delta = number - self._number
        self._records.append(form.name_record(name, kind, position=position, delta=delta))

    def finish(self) -> Listing:
        if self._records:
            self._end_run()
        return Listing(
            position=self._start,
            size_bytes=self._table.size_bytes - self._start,
            subdirectories=self._subdirectories,
            index=b"".join(self._index),
            index_count=len(self._index),
        )

    def _end_run(self) -> None:
        at = self._table.size_bytes
        if at // form.METADATA_BYTES > self._indexed_to and len(self._index) < form.INDEX_MAX:
            self._indexed_to = at // form.METADATA_BYTES
            self._index.append(
                form.index_record(self._first, listed_bytes=at - self._start, position=at)
            )
        count = len(self._records)
        self._table.append(
            form.names_header(count=count, position=self._position, number=self._number)
        )
        self._table.append(b"".join(self._records))
        self._records.clear()
