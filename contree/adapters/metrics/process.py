"""What every process of ours exposes of itself, in a registry of its own.

Importing this file does nothing to anybody else's metrics.
"""

from __future__ import annotations

from importlib.metadata import version

from prometheus_client import CollectorRegistry, GCCollector, Info, ProcessCollector


def process_registry() -> CollectorRegistry:
    """A registry with `process_*`, `python_gc_*` and the release."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    Info("contree_build", "The release that runs.", registry=registry).info(
        {"version": version("contree")}
    )
    return registry
