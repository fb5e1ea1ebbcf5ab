"""Reading an image's files without a VM: `app.images.layer_store.ImageFiles` on the layer store.

Every answer comes from the layers' indexes and tars, on a small pool of threads of its own, so that
an import does not delay a listing. Images are hostile: links stay inside the image, everything that
a layer can make large is streamed. Nothing here writes.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from contree.adapters.layers.index.schema import unpack_xattrs
from contree.adapters.layers.index.stack import Node, Stack
from contree.adapters.layers.reading.archive import archive_pieces
from contree.adapters.layers.reading.content import read_content
from contree.adapters.layers.reading.entry_types import ENTRY_TYPES
from contree.adapters.layers.reading.owners import Owners, parse_accounts
from contree.adapters.layers.reading.stepped import stepped
from contree.adapters.layers.store import LayerDirectory
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.app.content.blob_store import READ_CHUNK_BYTES
from contree.app.images.layer_store import FileContent, FileEntry
from contree.domain.errors import NotFoundError, WrongFileTypeError

_READ_THREADS: Final = 4
_OWNERS_CACHED_MAX: Final = 256
_ARCHIVABLE: Final = (Kind.DIRECTORY, Kind.REGULAR, Kind.SYMLINK)

T = TypeVar("T")


class LayerImageFiles:
    """Implements ImageFiles over the layers of `store`."""

    def __init__(self, store: LayerDirectory) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="image-files")
        self._owners: OrderedDict[tuple[str, ...], Owners] = OrderedDict()
        self._owners_lock = threading.Lock()

    def close(self) -> None:
        """Stop the threads; running reads are finished first. Blocking."""
        self._threads.shutdown()

    async def stat(self, layers: Sequence[str], path: str, *, follow: bool = True) -> FileEntry:
        await self._store.make_local(layers)
        return await self._run(partial(self._stat, tuple(layers), path, follow=follow))

    async def list(self, layers: Sequence[str], path: str) -> Sequence[FileEntry]:
        await self._store.make_local(layers)
        return await self._run(partial(self._list, tuple(layers), path))

    async def open(self, layers: Sequence[str], path: str) -> FileContent:
        await self._store.make_local(layers)
        shown, entry, tar = await self._run(partial(self._open, tuple(layers), path))
        return FileContent(
            entry=shown,
            source=tar if entry.segments is None else None,
            offset=entry.data_offset,
            chunks=self._stream(partial(_file_pieces, tar, entry)),
        )

    async def archive(self, layers: Sequence[str], path: str) -> AsyncIterator[bytes]:
        await self._store.make_local(layers)
        await self._run(partial(self._check_archivable, tuple(layers), path))
        return self._stream(partial(self._archive_pieces, tuple(layers), path))

    # -- in threads ---------------------------------------------------------------------------

    def _stat(self, layers: tuple[str, ...], path: str, *, follow: bool) -> FileEntry:
        with self._store.stack(layers) as stack:
            node = _resolved(stack, path, follow=follow)
            return _entry(node, stack, self._owners_of(layers, stack), {})

    def _list(self, layers: tuple[str, ...], path: str) -> Sequence[FileEntry]:
        with self._store.stack(layers) as stack:
            directory = _resolved(stack, path)
            if not directory.is_directory:
                raise WrongFileTypeError(path, "is not a directory")
            owners = self._owners_of(layers, stack)
            counted: dict[tuple[int, int], int] = {}
            return [_entry(node, stack, owners, counted) for node in stack.children(directory)]

    def _open(self, layers: tuple[str, ...], path: str) -> tuple[FileEntry, TarEntry, Path]:
        with self._store.stack(layers) as stack:
            node = _resolved(stack, path)
            if node.row.kind != Kind.REGULAR:
                raise WrongFileTypeError(path, "is not a regular file")
            shown = _entry(node, stack, self._owners_of(layers, stack), {})
            return shown, node.row.entry(), self._store.tar_path(layers[node.layer])

    def _check_archivable(self, layers: tuple[str, ...], path: str) -> None:
        with self._store.stack(layers) as stack:
            if _resolved(stack, path, follow=False).row.kind not in _ARCHIVABLE:
                raise WrongFileTypeError(path, "is no directory, regular file or symbolic link")

    def _archive_pieces(self, layers: tuple[str, ...], path: str) -> Generator[bytes, None, None]:
        # The stack is opened by the first step: an archive nobody reads holds nothing.
        with self._store.stack(layers) as stack:
            top = _resolved(stack, path, follow=False)
            tars = [self._store.tar_path(diff_id) for diff_id in layers]
            yield from archive_pieces(stack, top, tars)

    def _owners_of(self, layers: tuple[str, ...], stack: Stack) -> Owners:
        """Read the names once for each image: an image never changes."""
        with self._owners_lock:
            known = self._owners.get(layers)
            if known is not None:
                self._owners.move_to_end(layers)
                return known
        users = parse_accounts(self._account_file(layers, stack, b"etc/passwd"))
        groups = parse_accounts(self._account_file(layers, stack, b"etc/group"))
        with self._owners_lock:
            found = self._owners[layers] = Owners(users=users, groups=groups)
            while len(self._owners) > _OWNERS_CACHED_MAX:
                self._owners.popitem(last=False)
        return found

    def _account_file(self, layers: tuple[str, ...], stack: Stack, path: bytes) -> bytes:
        node = stack.resolve(path)
        if node is None or node.row.kind != Kind.REGULAR:
            return b""
        text = bytearray()
        for piece in _file_pieces(self._store.tar_path(layers[node.layer]), node.row.entry()):
            text += piece
            if len(text) >= bounds.ACCOUNTS_FILE_BYTES_MAX:
                break
        return bytes(text[: bounds.ACCOUNTS_FILE_BYTES_MAX])

    # -- bridging -----------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _stream(self, pieces: Callable[[], Generator[bytes, None, None]]) -> AsyncIterator[bytes]:
        """Yield what a blocking generator yields, gathered into chunks of READ_CHUNK_BYTES."""
        return stepped(self._threads, pieces, _gathered)


def _file_pieces(tar: Path, entry: TarEntry) -> Generator[bytes, None, None]:
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        yield from read_content(descriptor, entry)
    finally:
        os.close(descriptor)


def _gathered(pieces: Iterator[bytes]) -> bytes | None:
    """Return the next pieces, together about READ_CHUNK_BYTES; None at the end."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= READ_CHUNK_BYTES:
            break
    return (gathered[0] if len(gathered) == 1 else b"".join(gathered)) or None


def _resolved(stack: Stack, path: str, *, follow: bool = True) -> Node:
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise NotFoundError("path", ascii(path)) from error
    node = stack.resolve(raw, follow=follow)
    if node is None:
        raise NotFoundError("path", path)
    return node


def _entry(
    node: Node, stack: Stack, owners: Owners, counted: dict[tuple[int, int], int]
) -> FileEntry:
    """Return the node for callers; `counted` remembers link counts of files seen before."""
    row = node.row
    nlink = 1
    if row.link_count > 1:
        key = (node.layer, row.ino)
        if key not in counted:
            counted[key] = stack.links_shown(node)
        nlink = counted[key]
    kind = Kind(row.kind)
    return FileEntry(
        path="/" + node.path.decode("utf-8", "surrogateescape"),
        type=ENTRY_TYPES[kind],
        mode=row.mode,
        uid=row.uid,
        gid=row.gid,
        owner=owners.user(row.uid),
        group=owners.group(row.gid),
        size_bytes=len(row.symlink) if kind is Kind.SYMLINK else row.size_bytes,
        mtime_s=row.mtime_s,
        nlink=nlink,
        symlink_to=row.symlink.decode("utf-8", "surrogateescape"),
        device=(row.dev_major, row.dev_minor),
        xattrs=_named_xattrs(row.xattrs),
    )


def _named_xattrs(packed: bytes) -> dict[str, bytes]:
    if not packed:
        return {}
    return {name.decode("utf-8", "surrogateescape"): value for name, value in unpack_xattrs(packed)}
