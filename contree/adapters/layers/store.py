"""The layer store of one machine: `contree.app.images.layer_store.LayerStore` on a local directory.

    <root>/<hex>/layer.tar             the uncompressed tar; its SHA-256 is <hex>, the diff_id
    <root>/<hex>/index-v1.sqlite       its entries (index_schema)
    <root>/<hex>/mount-v2-*.squashfs   what guests mount, made when first needed (mount_variant)
    <root>/.merged/                    adjacent layers as one, derived (merged_layers)
    <root>/.staging/                   what is being made (staging)

A layer's directory appears whole, by one rename, after everything in it was fsynced and its digest
verified; nothing in it is ever changed, only squashfs files come and go (`unused`). With the
`shared` layers of a fleet, those made here are put there too before anybody hears of them, and
those missing here are fetched from there, verified and indexed anew; one machine passes None. Only
`removal` removes layers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Final, TypeVar

from contree.adapters.layers.digests import PREFIX, hex_of
from contree.adapters.layers.index.reader import IndexCache, LayerIndex
from contree.adapters.layers.index.schema import INDEX_VERSION
from contree.adapters.layers.index.stack import Stack
from contree.adapters.layers.mounts.merged_layers import MergedLayers
from contree.adapters.layers.mounts.plans import Mount, MountPlans
from contree.adapters.layers.mounts.unused import mark_used
from contree.adapters.layers.shared import SharedLayers
from contree.adapters.layers.squashfs.variant import mount_variant
from contree.adapters.layers.squashfs.writer import build_squashfs
from contree.adapters.layers.staging import publish, staging_directory, sweep, sync_file
from contree.adapters.layers.tar.bounds import COPY_CHUNK_BYTES
from contree.adapters.layers.tar.decompress import uncompressed, uncompressed_sha256
from contree.adapters.layers.writing.canonical import canonical_layer
from contree.adapters.layers.writing.feed import Feed, consume
from contree.adapters.layers.writing.hashed_file import HashedFile
from contree.adapters.layers.writing.imported import index_layer
from contree.app.content.blob_store import READ_CHUNK_BYTES
from contree.app.images.layer_store import IMPORTED_BYTES_MAX, FilePart, Layer, MountPlan
from contree.domain.errors import LayerRefused, NotFoundError

T = TypeVar("T")

_LOG: Final = logging.getLogger(__name__)

TAR_NAME: Final = "layer.tar"
INDEX_NAME: Final = f"index-v{INDEX_VERSION}.sqlite"
WRITE_THREADS: Final = max(4, len(os.sched_getaffinity(0)))
_STREAMS_MAX: Final = 1024
"""More than guests hand over at once; how many there are is bounded by the worker's room."""

_FETCHES: Final = 3
"""At once; each writes a whole layer."""

_PATHS_MAX: Final = 65_536


class LayerDirectory:
    """Implements LayerStore. Threads do the work; the loop only waits.

    What comes as a stream, from a guest or from the store of a fleet, has a thread of its own: it
    may wait there for long, and others would wait for a thread that does nothing.
    """

    def __init__(self, root: Path, shared: SharedLayers | None = None) -> None:
        self._root = root
        self._shared = shared
        self._threads = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="layers")
        self._streams = ThreadPoolExecutor(_STREAMS_MAX, thread_name_prefix="layer-streams")
        self._syncs = ThreadPoolExecutor(WRITE_THREADS, thread_name_prefix="layer-syncs")
        # Asked for each layer of a stack at each read: paths are made and looked for once.
        self._index_path = lru_cache(_PATHS_MAX)(lambda digest: root / digest / INDEX_NAME)
        self._seen: set[str] = set()
        self._fetches = asyncio.Semaphore(_FETCHES)
        self._locks: dict[str, tuple[asyncio.Lock, set[object]]] = {}
        self.indexes = IndexCache()
        self._merged = MergedLayers(root, self.indexes, tar_name=TAR_NAME, index_name=INDEX_NAME)
        self._plans = MountPlans(root, self.indexes, self._merged, tar_name=TAR_NAME)

    def sweep(self) -> int:
        """Remove what killed processes left half-made; return how many. Blocking; for the start.

        What nobody uses any more is removed in the background.
        """
        swept = sweep(self._root)
        self._merged.collect_later()
        return swept

    def close(self) -> None:
        """Stop the threads and close the indexes; running work is finished first. Blocking.

        Merges are given up: they are made again when they are needed.
        """
        self._streams.shutdown()
        self._threads.shutdown()
        self._syncs.shutdown()
        self._merged.close()
        self.indexes.close()

    def wait_for_merges(self) -> None:
        """Wait until what was due so far is merged. Blocking; for tests and measurements."""
        self._merged.wait()

    def tar_path(self, diff_id: str) -> Path:
        return self._root / hex_of(diff_id) / TAR_NAME

    async def has(self, diff_id: str) -> bool:
        try:
            digest = hex_of(diff_id)
        except NotFoundError:
            return False
        if self._is_local(digest):
            return True
        return self._shared is not None and await self._shared.has(digest)

    async def add_imported(
        self, blob: Path, *, diff_id: str, bytes_max: int = IMPORTED_BYTES_MAX
    ) -> Layer:
        digest = hex_of(diff_id)
        async with self._making(digest):
            self._seen.discard(digest)  # another process may have removed it
            await self._run(partial(self._import, blob, digest, bytes_max))
            await self._offer(digest)
        return await self._run(partial(self._describe, digest))

    async def add_delta(
        self, tar: AsyncIterator[bytes], *, below: Sequence[str], bytes_max: int
    ) -> Layer | None:
        await self.make_local(below)
        feed = Feed(bytes_max=bytes_max, over_limit=partial(_too_large, bytes_max))
        made = await consume(
            tar, feed, partial(self._take_delta, list(below)), executor=self._streams
        )
        if made is None:
            return None
        await self._offer(hex_of(made.diff_id))
        # The image below has been built upon: what is merged of it serves all that is to come on
        # it. The new one may be a leaf, and merging for each of many branches would be in vain.
        await self._run(partial(self._merged.merge_later, [hex_of(one) for one in below]))
        return made

    async def mount_plan(self, diff_ids: Sequence[str]) -> MountPlan:
        await self.make_local(diff_ids)
        layers = [hex_of(diff_id) for diff_id in diff_ids]
        planned = await self._run(partial(self._plans.plan, layers))
        missing = [mount for mount in planned if not mount.path.exists()]
        made = [self._made(layers, mount) for mount in missing]
        for outcome in await asyncio.gather(*made, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return MountPlan(squashfs=await self._run(partial(self._images, layers, planned)))

    def _images(
        self, layers: list[str], planned: Sequence[Mount]
    ) -> tuple[tuple[FilePart, ...], ...]:
        return tuple(self._plans.image(mount, layers) for mount in planned)

    async def _made(self, layers: list[str], mount: Mount) -> None:
        async with self._making(mount.digest or mount.path.parent.name):
            await self._run(partial(self._plans.make, mount, layers))

    async def make_local(self, diff_ids: Sequence[str]) -> None:
        """Fetch the layers that this machine lacks. Raises NotFoundError."""
        missing = [d for d in map(hex_of, diff_ids) if not self._is_local(d)]
        fetched = [self._fetch_once(digest) for digest in missing]
        for outcome in await asyncio.gather(*fetched, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    @contextmanager
    def stack(self, diff_ids: Sequence[str]) -> Iterator[Stack]:
        """Open the merged view of layers that are local (`make_local`). Blocking."""
        layers = [hex_of(diff_id) for diff_id in diff_ids]
        parts = self._merged.parts(layers)
        paths = [self._merged.index_path(layers, part) for part in parts]
        with self.indexes.using(paths) as indexes:
            yield Stack(indexes, [part.start for part in parts])

    @contextmanager
    def stacks(
        self, one: Sequence[str], other: Sequence[str]
    ) -> Iterator[tuple[Stack, Stack, int]]:
        """Open the views of two images whose layers are local. Blocking.

        The third value says how many indexes, from the bottom, both views have in common: what
        these show in both is the same.
        """
        stacks = [hex_of(diff_id) for diff_id in one], [hex_of(diff_id) for diff_id in other]
        pairs = zip(*stacks, strict=False)
        together = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        below = self._merged.parts(stacks[0][:together])
        with ExitStack() as held:
            views: list[Stack] = []
            for layers in stacks:
                above = self._merged.parts(layers, apart_at=together)
                parts = [*below, *(part for part in above if part.start >= together)]
                paths = [self._merged.index_path(layers, part) for part in parts]
                indexes = held.enter_context(self.indexes.using(paths))
                views.append(Stack(indexes, [part.start for part in parts]))
            yield views[0], views[1], len(below)

    @contextmanager
    def index(self, diff_id: str) -> Iterator[LayerIndex]:
        """Open the index of one layer that is local (`make_local`). Blocking."""
        with self.indexes.using([self._index_path(hex_of(diff_id))]) as (index,):
            yield index

    # -- work in threads ----------------------------------------------------------------------

    def _import(self, blob: Path, digest: str, bytes_max: int) -> None:
        # Layers are shared by all projects: who names one must show that they have its bytes.
        if self._index_path(digest).exists():
            _check_digest(uncompressed_sha256(blob, bytes_max=bytes_max), digest)
            with suppress(FileNotFoundError):  # removed meanwhile: it is made again
                os.utime(self._root / digest)  # says that it was added again (removal)
                return
        with staging_directory(self._root) as staged:
            tar = staged / "new" / TAR_NAME
            tar.parent.mkdir()
            with tar.open("wb") as stream, HashedFile(stream) as out:
                for piece in uncompressed(blob, bytes_max=bytes_max):
                    out.write(piece)
                found = out.hexdigest()
            self._complete(tar, found, digest)

    def _complete(self, tar: Path, found: str, digest: str) -> None:
        """Verify, index and publish a tar that lies in a staging directory of its own."""
        _check_digest(found, digest)
        index_layer(tar, tar.with_name(INDEX_NAME))
        sync_file(tar)
        sync_file(tar.with_name(INDEX_NAME))
        publish(tar.parent, self._root / digest)

    def _take_delta(self, below: list[str], feed: Feed) -> Layer | None:
        with staging_directory(self._root) as staged, self.stack(below) as stack:
            made = staged / "new"
            made.mkdir()
            began = time.monotonic()
            layer = canonical_layer(feed, stack, tar=made / TAR_NAME, index=made / INDEX_NAME)
            if layer is None:
                return None
            received = time.monotonic()
            # Beside one another, and beside the squashfs: mostly one commit of the filesystem.
            syncs = [self._syncs.submit(sync_file, made / n) for n in (TAR_NAME, INDEX_NAME)]
            try:
                self._mountable_at_once(made, stack)
            finally:
                for synced in wait(syncs).done:
                    synced.result()
            publish(made, self._root / layer.digest_hex)
            _LOG.debug(
                "delta of %d bytes: received in %.4f s, mountable and on disk %.4f s later",
                layer.size_bytes,
                received - began,
                time.monotonic() - received,
            )
            return Layer(
                diff_id=PREFIX + layer.digest_hex,
                size_bytes=layer.size_bytes,
                entry_count=layer.entry_count,
            )

    def _mountable_at_once(self, made: Path, below: Stack) -> None:
        """Build the squashfs of a new delta, while nobody waits for a guest to start on it."""
        with closing(LayerIndex(made / INDEX_NAME)) as index:
            variant = mount_variant(index, below)
            build_squashfs(
                index=index,
                tars=[made / TAR_NAME],
                variant=variant,
                target=made / variant.file_name,
            )

    def _describe(self, digest: str) -> Layer:
        with self.indexes.using([self._index_path(digest)]) as (index,):
            return Layer(
                diff_id=PREFIX + digest,
                size_bytes=index.size_bytes,
                entry_count=index.entry_count,
            )

    def _write_fetched(self, digest: str, feed: Feed) -> None:
        with staging_directory(self._root) as staged:
            tar = staged / "new" / TAR_NAME
            tar.parent.mkdir()
            with tar.open("wb") as stream, HashedFile(stream) as out:
                while piece := feed.read(COPY_CHUNK_BYTES):
                    out.write(piece)
                found = out.hexdigest()
            self._complete(tar, found, digest)

    # -- small parts --------------------------------------------------------------------------

    async def _fetch_once(self, digest: str) -> None:
        async with self._fetches, self._making(digest):
            if not self._is_local(digest):
                await self._fetch(digest)

    async def _fetch(self, digest: str) -> None:
        if self._shared is None:
            raise NotFoundError("layer", PREFIX + digest)
        feed = Feed(
            bytes_max=IMPORTED_BYTES_MAX,
            over_limit=partial(_too_large, IMPORTED_BYTES_MAX),
        )
        try:
            await consume(
                self._shared.read(digest),
                feed,
                partial(self._write_fetched, digest),
                executor=self._streams,
            )
        except NotFoundError:
            raise NotFoundError("layer", PREFIX + digest) from None

    async def _offer(self, digest: str) -> None:
        """Have a layer where the rest of the fleet finds it. Raises UnavailableError."""
        if self._shared is not None:
            tar = self._root / digest / TAR_NAME
            await self._shared.keep(digest, partial(self._stored_tar, tar))

    async def _stored_tar(self, path: Path) -> AsyncIterator[bytes]:
        with path.open("rb", buffering=0) as stream:
            while piece := await self._run(partial(stream.read, READ_CHUNK_BYTES)):
                yield piece

    def _is_local(self, digest: str) -> bool:
        if self._shared is not None:
            # Here is a copy, which may go at any time (trim, drop_layers): but not from now on.
            return self._index_path(digest).exists() and mark_used(self._root / digest)
        if digest in self._seen:
            return True
        if not self._index_path(digest).exists():
            return False
        if len(self._seen) >= _PATHS_MAX:
            self._seen.clear()
        self._seen.add(digest)
        return True

    async def _run(self, work: Callable[[], T]) -> T:
        """Run blocking work to its end, also when the caller is cancelled meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The lock held around the work must not open before it is done.
            await asyncio.wait([future])
            raise

    @asynccontextmanager
    async def _making(self, digest: str) -> AsyncIterator[None]:
        """Let one task of this process at a time make something of a layer."""
        lock, waiting = self._locks.setdefault(digest, (asyncio.Lock(), set()))
        me = object()
        waiting.add(me)
        try:
            async with lock:
                yield
        finally:
            waiting.discard(me)
            if not waiting:
                self._locks.pop(digest, None)


def _check_digest(found: str, wanted: str) -> None:
    if found != wanted:
        raise LayerRefused(f"the layer's digest is {PREFIX}{found}, not {PREFIX}{wanted}")


def _too_large(bytes_max: int) -> LayerRefused:
    return LayerRefused(f"the layer is over {bytes_max} bytes")
