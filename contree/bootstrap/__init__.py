"""The composition root: the only place that knows every ring, and that each adapter fits its port.

database(settings)   a database to work with: the embedded one, started or joined, or the URL's
core(settings, urls) what API, worker and command line share: pool, log, reads, stores
services(core)       the use cases behind the HTTP API
worker(core)         libvirt, and the use cases that carry operations out

`proof` and `history` put together what proves the log and what answers questions about it,
`metrics` what a monitoring system asks.
"""

from contree.bootstrap.api import issue_tokens, replay_chain, services
from contree.bootstrap.databases import (
    DatabaseUrls,
    RebuildReport,
    database,
    owned_data_dir,
    rebuild_projections,
    running_database,
)
from contree.bootstrap.deployment import Core, core
from contree.bootstrap.metrics import measured
from contree.bootstrap.work import duties, microvm, room, waiting, worker

__all__ = [
    "Core",
    "DatabaseUrls",
    "RebuildReport",
    "core",
    "database",
    "duties",
    "issue_tokens",
    "measured",
    "microvm",
    "owned_data_dir",
    "rebuild_projections",
    "replay_chain",
    "room",
    "running_database",
    "services",
    "waiting",
    "worker",
]
