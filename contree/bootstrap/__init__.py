"""The composition root: the only place that knows every ring, and that each adapter fits its port.

database(settings)   a database to work with: the embedded one, started or joined, or the URL's
installed_database(settings)  the same, where one has been made already
core(settings, urls) what API, worker and command line share: pool, log, reads, stores
services(core)       the use cases behind the HTTP API
microvm(settings)    libvirt, and what guests are made of
worker(core, microvm)  the use cases that carry operations out
host_duties(core)    what each host does for itself
programs_there(told)   waits for the programs that a worker starts
private_data_dir(settings)  where everything else lies, closed to others
runtime_dir(settings)  where sockets lie

`proof` and `history` put together what proves the log and what answers questions about it,
`metrics` what a monitoring system asks: imported by whoever is set to be asked.
"""

from contree.bootstrap.api import (
    blame,
    compare_images,
    issue_tokens,
    replay_chain,
    services,
    show_log,
)
from contree.bootstrap.data_dir import private_data_dir
from contree.bootstrap.databases import (
    DatabaseUrls,
    RebuildReport,
    database,
    installed_database,
    is_installed,
    owned_data_dir,
    rebuild_projections,
    require_installation,
    running_database,
)
from contree.bootstrap.deployment import Core, core
from contree.bootstrap.runtime_dir import runtime_dir
from contree.bootstrap.work import (
    Machines,
    duties,
    host_duties,
    microvm,
    programs_there,
    room,
    waiting,
    worker,
)

__all__ = [
    "Core",
    "DatabaseUrls",
    "Machines",
    "RebuildReport",
    "blame",
    "compare_images",
    "core",
    "database",
    "duties",
    "host_duties",
    "installed_database",
    "is_installed",
    "issue_tokens",
    "microvm",
    "owned_data_dir",
    "private_data_dir",
    "programs_there",
    "rebuild_projections",
    "replay_chain",
    "require_installation",
    "room",
    "running_database",
    "runtime_dir",
    "services",
    "show_log",
    "waiting",
    "worker",
]
