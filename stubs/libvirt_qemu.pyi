# The one call of libvirt-python's QEMU part that adapters.microvm.connection makes.

from typing import IO

import libvirt

def qemuMonitorCommandWithFiles(  # noqa: N802
    domain: libvirt.virDomain, cmd: str, files: list[int] = ..., flags: int | None = ...
) -> tuple[str, list[IO[bytes]]]: ...
