"""Spans of layers merged into one mountable file and one index, made aside, safe to lose.

    <root>/.merged/<key>/index-v1.sqlite   see merging
    <root>/.merged/<key>/mount-v1.squashfs
    <root>/.merged/<key>/covers            see unused

Derived state: a directory appears whole by one rename, and whoever misses one takes its parts, so
that anything here may be killed or removed at any time. What is due is made on one thread of low
priority; nothing waits for it unless an image would otherwise have too many mounts. Now and then
the same thread removes what larger spans cover and nobody uses any more. Blocking throughout, safe
in several threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from contree.adapters.layers.index.merging import complete, merge_indexes
from contree.adapters.layers.index.reader import IndexCache, LayerIndex
from contree.adapters.layers.index.schema import INDEX_VERSION
from contree.adapters.layers.index.stack import Stack
from contree.adapters.layers.mounts.spans import Span, extended
from contree.adapters.layers.mounts.unused import covered, mark_used, remove_unused, write_covers
from contree.adapters.layers.squashfs.variant import FORMAT, mount_variant
from contree.adapters.layers.squashfs.writer import build_squashfs
from contree.adapters.layers.staging import publish, staging_directory
from contree.domain.errors import LayerRefused, StorageFullError

_LOG: Final = logging.getLogger(__name__)

MERGED_NAME: Final = ".merged"
INDEX_NAME: Final = f"index-v{INDEX_VERSION}.sqlite"
SQUASHFS_NAME: Final = f"mount-v{FORMAT}.squashfs"

MERGE_PARTS_MAX: Final = 64
"""Indexes that one merge reads; a longer span is made of spans, these first."""

_QUEUE_MAX: Final = 64
"""Images whose merges wait; one that finds no room is asked for again when it is used again."""

_COLLECT_EVERY_S: Final = 600.0
_REMEMBERED_MAX: Final = 1024
_NICENESS: Final = 10


class MergedLayers:
    """Over the layers in `root`, whose directories have their digits for names."""

    def __init__(self, root: Path, indexes: IndexCache, *, tar_name: str, index_name: str) -> None:
        self._root = root
        self._indexes = indexes
        self._tar_name = tar_name
        self._index_name = index_name
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._known: OrderedDict[bytes, tuple[Span, ...]] = OrderedDict()
        self._queued: set[bytes] = set()
        self._refused: set[str] = set()
        self._stopping = threading.Event()
        self._collected_at = time.monotonic()
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="layer-merges", initializer=_step_back
        )

    def close(self) -> None:
        """Stop; a merge that is being made is given up."""
        with self._lock:
            self._stopping.set()
        self._thread.shutdown(cancel_futures=True)

    def wait(self) -> None:
        """Wait for the merges that were asked for so far."""
        self._thread.submit(lambda: None).result()

    def parts(self, layers: Sequence[str], *, apart_at: int = 0) -> list[Span]:
        """Return the fewest spans that are here and together are `layers`, bottom to top.

        None has layers both below `apart_at` and from there on. They stay here long enough to be
        opened.
        """
        spans = self._spans(layers)
        while True:
            found = self._here(spans, apart_at)
            if all(span.is_layer or mark_used(self._directory(span)) for span in found):
                return found

    def index_path(self, layers: Sequence[str], span: Span) -> Path:
        if span.is_layer:
            return self.layer_index_path(layers[span.start])
        return self._directory(span) / INDEX_NAME

    def layer_index_path(self, digest: str) -> Path:
        return self._root / digest / self._index_name

    def squashfs_path(self, span: Span) -> Path:
        """Of a merged span."""
        return self._directory(span) / SQUASHFS_NAME

    def merge_later(self, layers: Sequence[str]) -> None:
        """Have the merges made that make `layers` a short plan, if they are due."""
        if not self._due(layers):
            return
        key = _key(layers)
        with self._lock:
            if self._stopping.is_set() or key in self._queued or len(self._queued) >= _QUEUE_MAX:
                return
            self._queued.add(key)
            self._thread.submit(self._merge, key, list(layers))

    def collect_later(self) -> None:
        """Have removed what larger spans cover and nobody has used for a while."""
        with self._lock:
            if not self._stopping.is_set():
                self._thread.submit(self._collect)

    def merge_now(self, layers: Sequence[str], *, parts_max: int) -> None:
        """Merge until `layers` are `parts_max` spans or fewer, or nothing is left to merge.

        Raises StorageFullError, LayerRefused.
        """
        for span in sorted(self._due(layers), key=lambda span: span.start - span.end):
            if len(self.parts(layers)) <= parts_max:
                return
            self._make(layers, span, self._below(layers, span))

    # -- what there is ------------------------------------------------------------------------

    def _spans(self, layers: Sequence[str]) -> tuple[Span, ...]:
        """Return the spans that the policy wants; an image made on a known one costs one step."""
        key = _key(layers)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        parent = _key(layers[:-1])
        with self._lock:
            lower = self._known.get(parent, ())
        spans = extended(lower, layers, self._size_bytes)
        with self._lock:
            self._known[key] = spans
            while len(self._known) > _REMEMBERED_MAX:
                self._known.popitem(last=False)
        return spans

    def _here(self, spans: Sequence[Span], apart_at: int = 0) -> list[Span]:
        found: list[Span] = []
        for span in spans:
            is_cut = span.start < apart_at < span.end
            if span.is_layer or (not is_cut and self._is_whole(span)):
                found.append(span)
            else:
                found += self._here(span.parts, apart_at)
        return found

    def _due(self, layers: Sequence[str]) -> list[Span]:
        return [
            span
            for span in self._spans(layers)
            if not span.is_layer and span.key not in self._refused and not self._is_whole(span)
        ]

    def _below(self, layers: Sequence[str], span: Span) -> list[Span]:
        return [other for other in self._spans(layers) if other.end <= span.start]

    def _is_whole(self, span: Span) -> bool:
        directory = self._directory(span)
        return (directory / SQUASHFS_NAME).exists() and (directory / INDEX_NAME).exists()

    def _directory(self, span: Span) -> Path:
        return self._root / MERGED_NAME / span.key

    def _tar_path(self, digest: str) -> Path:
        return self._root / digest / self._tar_name

    def _size_bytes(self, digest: str) -> int:
        return self._tar_path(digest).stat().st_size

    # -- making -------------------------------------------------------------------------------

    def _merge(self, key: bytes, layers: list[str]) -> None:
        try:
            for span in self._due(layers):
                self._make(layers, span, self._below(layers, span))
        except _StoppedError:
            pass
        except (LayerRefused, StorageFullError, OSError, sqlite3.Error) as error:
            # Nothing depends on it: plans are longer meanwhile.
            _LOG.warning("merging %d layers failed: %s", len(layers), error)
        finally:
            with self._lock:
                self._queued.discard(key)
        if time.monotonic() - self._collected_at > _COLLECT_EVERY_S:
            self._collect()

    def _collect(self) -> None:
        self._collected_at = time.monotonic()
        removed = 0
        try:
            for path in covered(self._root, self._root / MERGED_NAME):
                self._pulse()
                removed += remove_unused(path, self._root)
        except _StoppedError:
            pass
        except OSError as error:
            _LOG.warning("removing merged layers that are not used failed: %s", error)
        if removed:
            _LOG.info("removed %d mountable files that merged ones have replaced", removed)

    def _make(self, layers: Sequence[str], span: Span, below: Sequence[Span]) -> None:
        with self._building:
            try:
                self._make_whole(layers, span, below)
            except LayerRefused:
                self._refused.add(span.key)
                raise

    def _make_whole(self, layers: Sequence[str], span: Span, below: Sequence[Span]) -> None:
        if self._is_whole(span):
            return
        if len(self._here(span.parts)) > MERGE_PARTS_MAX:
            for number, part in enumerate(span.parts):
                if not part.is_layer:
                    self._make_whole(layers, part, [*below, *span.parts[:number]])
        lower, parts = self._here(below), self._here(span.parts)
        paths = [self.index_path(layers, one) for one in (*lower, *parts)]
        with staging_directory(self._root) as staged, self._indexes.using(paths) as indexes:
            made = staged / "new"
            made.mkdir()
            index_path = made / INDEX_NAME
            merge_indexes(
                indexes[len(lower) :],
                [one.start for one in parts],
                index_path,
                pulse=self._pulse,
            )
            with closing(LayerIndex(index_path)) as index:
                under = Stack(indexes[: len(lower)], [one.start for one in lower])
                variant = mount_variant(index, under)
                build_squashfs(
                    index=index,
                    tars=[self._tar_path(digest) for digest in layers[span.start : span.end]],
                    variant=variant,
                    target=made / SQUASHFS_NAME,
                    pulse=self._pulse,
                )
            complete(index_path, sorted(variant.idle))
            write_covers(
                made,
                merged=[self._directory(one) for one in _merged_inside(span)],
                layers=[self._root / digest for digest in layers[span.start : span.end]],
            )
            self._publish(made, span)

    def _publish(self, made: Path, span: Span) -> None:
        directory = self._directory(span)
        if directory.exists() and not self._is_whole(span):
            # Somebody removed part of it. What is left of it may be mounted: moved, not changed.
            with suppress(FileNotFoundError):
                directory.rename(made.with_name("remains"))
        publish(made, directory)

    def _pulse(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The store is being closed."""


def _merged_inside(span: Span) -> Iterator[Span]:
    for part in span.parts:
        if not part.is_layer:
            yield part
            yield from _merged_inside(part)


def _key(layers: Sequence[str]) -> bytes:
    return hashlib.sha256("".join(layers).encode()).digest()


def _step_back() -> None:
    """Let guests go first; what this thread starts inherits it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
