"""Changes between images as the API's JSON values."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Any

from contree.app.images.compare_images import (
    CompareImages,
    DiffOptions,
    DiffSummary,
    ImagePair,
    Totals,
)
from contree.app.images.image_comparison import ImageChange
from contree.app.images.layer_comparison import LayerEntry
from contree.app.images.layer_store import EntryType
from contree.domain.civil_time import iso_time
from contree.http.json_text import json_bytes

TYPES = {
    EntryType.REGULAR: "file",
    EntryType.DIRECTORY: "directory",
    EntryType.SYMLINK: "symlink",
    EntryType.CHARACTER_DEVICE: "device",
    EntryType.BLOCK_DEVICE: "device",
    EntryType.FIFO: "fifo",
    EntryType.SOCKET: "socket",
}
DEVICES = {EntryType.CHARACTER_DEVICE: "character", EntryType.BLOCK_DEVICE: "block"}


def summary_value(summary: DiffSummary) -> dict[str, int]:
    return {kind.value: count for kind, count in summary.counts.items()} | {
        "bytes_before": summary.bytes_before,
        "bytes_after": summary.bytes_after,
    }


def change_value(change: ImageChange) -> dict[str, Any]:
    value = bytes_value("path", change.path) | {"change": change.kind.value}
    if change.from_path is not None:
        value |= bytes_value("from_path", change.from_path)
    return value | {
        "before": None if change.before is None else entry_value(change.before),
        "after": None if change.after is None else entry_value(change.after),
        "content_changed": change.content_changed,
    }


async def ndjson_text(
    compare: CompareImages, pair: ImagePair, options: DiffOptions
) -> AsyncGenerator[bytes, None]:
    """Yield one change a line, and the summary last."""
    totals = Totals()
    async for some in compare.changes(pair, options):
        for change in some:
            totals.add(change)
        yield b"".join(json_bytes(change_value(change)) + b"\n" for change in some)
    yield json_bytes({"summary": summary_value(totals.summary())}) + b"\n"


def entry_value(entry: LayerEntry) -> dict[str, Any]:
    """Return an Entry. `sha256` is null for a file with holes: nobody has read them as zeros."""
    assert entry.type is not None, "an image shows no whiteouts"
    target = entry.symlink_to.encode("utf-8", "surrogateescape")
    value: dict[str, Any] = {
        "type": TYPES[entry.type],
        "size": len(target) if entry.type is EntryType.SYMLINK else entry.size_bytes,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": iso_time(entry.mtime_s),
        "xattrs": {name: b64encode(data).decode() for name, data in entry.xattrs.items()},
    }
    if entry.type is EntryType.REGULAR:
        value["sha256"] = None if entry.sparse else entry.sha256
    if entry.type is EntryType.SYMLINK:
        value |= bytes_value("target", entry.symlink_to)
    if entry.type in DEVICES:
        major, minor = entry.device
        value["device"] = {"kind": DEVICES[entry.type], "major": major, "minor": minor}
    return value


def bytes_value(key: str, text: str) -> dict[str, str]:
    """Return a name under `key`; one that is not UTF-8 also as base64, which is exact."""
    raw = text.encode("utf-8", "surrogateescape")
    shown = raw.decode("utf-8", "replace")
    if shown.encode() == raw:
        return {key: shown}
    return {key: shown, f"{key}_base64": b64encode(raw).decode()}
