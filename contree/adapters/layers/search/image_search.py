"""Searching an image's text: `app.images.image_search.ImageSearch` with ripgrep, on the host.

Each layer's text lies once as plain files of our own naming (search_tree), made when a search first
needs it; which of them an image shows, and as what, comes from the layers' indexes (search_scope).
ripgrep reads those files in chunks, in order, as many at a time as there are processors
(search_process), so that the first matches in order are found without reading what comes after.
Nothing of an image ever becomes a name, a link or a mode on this machine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from contree.adapters.layers.digests import hex_of
from contree.adapters.layers.search.found import FOUND_BYTES_MAX, Found, combined
from contree.adapters.layers.search.globs import Globs
from contree.adapters.layers.search.process import check_query, search_files
from contree.adapters.layers.search.recent import Recent
from contree.adapters.layers.search.scope import (
    SCOPE_FILE_BYTES,
    VIEW_FILE_BYTES,
    Chunk,
    Root,
    Scope,
    View,
    scope_of,
    view_of,
)
from contree.adapters.layers.search.tree import SearchTrees
from contree.adapters.layers.store import INDEX_NAME, LayerDirectory
from contree.app.images.image_search import SearchQuery, SearchResult
from contree.domain.errors import NotFoundError

T = TypeVar("T")
_Texts = tuple[str, ...]

SEARCH_S_MAX: Final = 20.0
"""After this a search gives what it has; what it was preparing is prepared nevertheless."""

VIEWS_BYTES_MAX: Final = 64 * 1024**2
SCOPES_BYTES_MAX: Final = 32 * 1024**2
CHECKED_BYTES_MAX: Final = 4 * 1024**2
"""What is kept for the next searches, about: of images, of paths and globs asked of an image, of
queries that ripgrep has accepted and is not asked about again."""

KEPT_BYTES_MIN: Final = 4096
"""What each of these costs at least."""

_PROCESSORS: Final = os.cpu_count() or 1
_READ_THREADS: Final = 2


class LayerSearch:
    """Implements ImageSearch over the layers of `store`; `root` is for what it derives of them."""

    def __init__(
        self, store: LayerDirectory, root: Path, *, search_s_max: float = SEARCH_S_MAX
    ) -> None:
        self._store = store
        self._trees = SearchTrees(root)
        self._search_s_max = search_s_max
        self._threads = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="image-search")
        # Of its own: a large layer's tree must not delay the searches of other images.
        self._making = ThreadPoolExecutor(1, thread_name_prefix="image-search-trees")
        self._slots = asyncio.Semaphore(_PROCESSORS)
        self._views = Recent[_Texts, View](VIEWS_BYTES_MAX)
        self._scopes = Recent[tuple[_Texts, _Texts, _Texts], Scope](SCOPES_BYTES_MAX)
        self._checked = Recent[tuple[_Texts, _Texts], bool](CHECKED_BYTES_MAX)
        self._being_made: dict[_Texts, asyncio.Future[View]] = {}

    def close(self) -> None:
        """Stop the threads; a tree that is being made is given up. Blocking."""
        self._trees.stop()
        self._making.shutdown(cancel_futures=True)
        self._threads.shutdown()

    async def search(self, layers: Sequence[str], query: SearchQuery) -> SearchResult:
        key = tuple(layers)
        await self._store.make_local(key)
        found: list[Found] = []
        try:
            async with asyncio.timeout(self._search_s_max):
                scope, view = await self._prepared(key, query)
                found += [_found(view, chunk, query) for chunk in scope.chunks]
                await self._search(found, query)
        except TimeoutError:
            return combined(found, query, is_partial=True)
        return combined(found, query, is_partial=scope.is_partial)

    async def _prepared(self, layers: _Texts, query: SearchQuery) -> tuple[Scope, View]:
        """Return what is to be read; a layer never changes, so a scope once chosen stays true."""
        asked = layers, tuple(query.paths), tuple(query.globs)
        scope = self._scopes.get(asked)
        if scope is not None:
            await self._check(query)
            return scope, await self._view(layers)
        checked, roots = await asyncio.gather(
            self._check(query),
            self._run(partial(self._roots, layers, query.paths)),
            return_exceptions=True,
        )
        if isinstance(checked, BaseException):
            raise checked
        if isinstance(roots, BaseException):
            raise roots
        view = await self._view(layers)
        choose = partial(scope_of, view, roots, Globs(query.globs), processors=_PROCESSORS)
        scope = await self._run(choose)
        self._scopes.put(
            asked, scope, cost=_cost(SCOPE_FILE_BYTES * scope.file_count, query.paths, query.globs)
        )
        return scope, view

    async def _check(self, query: SearchQuery) -> None:
        """Let ripgrep refuse what it cannot read. Raises InvalidFieldError."""
        asked = (query.case.value, *query.patterns), tuple(query.globs)
        if self._checked.get(asked):
            return
        await check_query(query)
        self._checked.put(asked, True, cost=_cost(0, query.patterns, query.globs))

    # -- reading ------------------------------------------------------------------------------

    async def _search(self, found: Sequence[Found], query: SearchQuery) -> None:
        """Read the chunks, several at a time, until the first ones in order hold enough."""
        waiting = iter(found)
        readers: list[asyncio.Task[None]] = []

        async def read() -> None:
            for chunk in waiting:
                async with self._slots:
                    await self._read(chunk, query)
                if _is_enough(found, query):
                    for reader in readers:
                        if reader is not asyncio.current_task():
                            reader.cancel()
                    return

        readers += [asyncio.create_task(read()) for _ in range(_PROCESSORS)]
        try:
            for outcome in await asyncio.gather(*readers, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, chunk: Found, query: SearchQuery) -> None:
        output = search_files(query, directory=self._trees.directory, files=chunk.files)
        async with aclosing(output):
            async for message in output:
                chunk.take(message)
                if chunk.is_enough:
                    break
        chunk.is_finished = True

    # -- what there is to read ----------------------------------------------------------------

    def _roots(self, layers: _Texts, paths: Sequence[str]) -> list[Root]:
        with self._store.stack(layers) as stack:
            roots = []
            for path in paths:
                node = None
                with suppress(UnicodeEncodeError):
                    asked = path.encode("utf-8", "surrogateescape").strip(b"/")
                    node = stack.resolve(asked)
                if node is None:
                    raise NotFoundError("path", path)
                roots.append(Root(asked=asked, real=node.path, is_directory=node.is_directory))
            return roots

    async def _view(self, layers: _Texts) -> View:
        """Return the image's view; a caller who gives up does not end the making of it."""
        known = self._views.get(layers)
        if known is not None:
            return known
        making = self._being_made.get(layers)
        if making is None:
            loop = asyncio.get_running_loop()
            making = loop.run_in_executor(self._making, self._made_view, layers)
            self._being_made[layers] = making
            making.add_done_callback(partial(self._keep, layers))
        return await asyncio.shield(making)

    def _keep(self, layers: _Texts, made: asyncio.Future[View]) -> None:
        del self._being_made[layers]
        if made.cancelled() or made.exception() is not None:
            return
        view = made.result()
        self._views.put(layers, view, cost=_cost(VIEW_FILE_BYTES * len(view.paths), layers))

    def _made_view(self, layers: _Texts) -> View:
        for diff_id in set(layers):
            digest = hex_of(diff_id)
            if not self._trees.has(digest):
                tar = self._store.tar_path(diff_id)
                with self._store.indexes.using([tar.with_name(INDEX_NAME)]) as (index,):
                    self._trees.make(digest, index, tar)
        with self._store.stack(layers) as stack:
            return view_of(stack, [self._trees.tree(hex_of(one)) for one in layers])

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _cost(files_bytes: int, *texts: Sequence[str]) -> int:
    """Return what keeping costs: what belongs to files, and the texts it is found by."""
    return KEPT_BYTES_MIN + files_bytes + sum(len(text) for group in texts for text in group)


def _found(view: View, chunk: Chunk, query: SearchQuery) -> Found:
    def shown(position: int) -> str:
        name = chunk.roots[position].shown(view.paths[chunk.places[position]])
        return "/" + name.decode("utf-8", "surrogateescape")

    return Found(query, chunk.texts, shown)


def _is_enough(found: Sequence[Found], query: SearchQuery) -> bool:
    """Say whether the chunks that are read without a gap hold all that can be given."""
    match_count = text_bytes = 0
    for chunk in found:
        if not chunk.is_finished:
            return False
        match_count += chunk.match_count
        text_bytes += chunk.text_bytes
        if match_count > query.max_total or text_bytes > FOUND_BYTES_MAX:
            return True
    return False
