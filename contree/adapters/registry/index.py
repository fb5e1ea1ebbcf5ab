"""Which image of an index a guest can run: linux/amd64, the variant that asks least of the CPU.

Source: OCI image-spec 1.1 image-index.md, Docker manifest list.
"""

from __future__ import annotations

from contree.adapters.registry.manifest import Descriptor, ImageIndex, is_index
from contree.domain.errors import RegistryFailure

DEPTH_MAX = 4
"""Documents on the way to a manifest: an index may name an index."""
VARIANTS = ("", "v1", "v2", "v3", "v4")
"""Of amd64, by what they ask of the CPU. A later one may end a program with an illegal instruction
on an old host; it is taken when there is no other."""
NAMED_MAX = 12


def choose(index: ImageIndex) -> Descriptor:
    """Return the entry to go on with. Raises RegistryFailure naming the platforms there are."""
    candidates = [
        (rank, number)
        for number, entry in enumerate(index.manifests)
        if (rank := _rank(entry)) is not None
    ]
    if not candidates:
        raise RegistryFailure(
            f"the image has no variant for linux/amd64; it has {_platforms(index)}"
        )
    return index.manifests[min(candidates)[1]]


def _rank(entry: Descriptor) -> int | None:
    """Smaller is better; None when it cannot run. What names no platform may be anything."""
    platform = entry.platform
    if platform is None:
        return len(VARIANTS) + (0 if is_index(entry.media_type) else 1)
    if (platform.os, platform.architecture) != ("linux", "amd64"):
        return None
    variant = platform.variant or ""
    return VARIANTS.index(variant) if variant in VARIANTS else None


def _platforms(index: ImageIndex) -> str:
    names = {
        "/".join(filter(None, (one.platform.os, one.platform.architecture, one.platform.variant)))
        for one in index.manifests
        if one.platform is not None and one.platform.os != "unknown"
    }
    shown = sorted(name[:40] for name in names if name.isprintable())
    if not shown:
        return "none"
    return ", ".join(shown[:NAMED_MAX]) + (", ..." if len(shown) > NAMED_MAX else "")
