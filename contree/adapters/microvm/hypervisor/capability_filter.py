"""Whether the libvirt here takes a capability filter: tried once for each version of it.

Tried in a process of its own. libvirt reads its settings once in a process; it refuses a setting
that it does not know when it is opened, and a name in it that it does not know only when a guest
is to start: too late for either to be taken back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from contree.adapters.microvm.hypervisor import embedded
from contree.adapters.microvm.hypervisor.connection import (
    MACHINE,
    LibvirtConnection,
    libvirt_version,
)
from contree.domain.errors import GuestFailure
from contree.programs import QEMU

RECORD_NAME = "capability-filter.json"
TRIAL_TIMEOUT_S = 90.0
_REFUSED = 3  # exit status of a trial; any other but 0 says nothing about the filter
_SMALLEST_GUEST = (
    "<domain type='qemu'><name>trial</name><memory unit='MiB'>32</memory>"
    f"<os><type arch='x86_64' machine='{MACHINE}'>hvm</type></os>"
    "<devices><emulator>{emulator}</emulator></devices></domain>"
)

log = logging.getLogger(__name__)


async def usable_filter(
    root: Path, *, probe_cache: Path, wanted: str = embedded.CAPABILITY_FILTER
) -> str:
    """Return the settings line `wanted`, or "" when libvirt would refuse it or guests with it.

    root         short, like an embedded libvirt's; made and removed
    probe_cache  has the verdict, and what libvirt learns of QEMU on the way

    A trial that fails for another reason is no verdict: there is no filter this time.
    """
    record, asked = probe_cache / RECORD_NAME, [libvirt_version(), wanted]
    taken = _read(record, asked)
    if taken is None:
        taken = await _tried(root, probe_cache, wanted)
        if taken is not None:
            record.write_text(json.dumps({"asked": asked, "taken": taken}))
    if not taken:
        log.warning("libvirt does not take the capability filter: guests start 0.3 s later")
    return wanted if taken else ""


def _read(record: Path, asked: list[object]) -> bool | None:
    try:
        verdict = json.loads(record.read_text())
        return bool(verdict["taken"]) if verdict["asked"] == asked else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or another version's


async def _tried(root: Path, probe_cache: Path, wanted: str) -> bool | None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, str(root), str(probe_cache), wanted),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is not meant for it
    )
    try:
        status = await asyncio.wait_for(process.wait(), TRIAL_TIMEOUT_S)
        return {0: True, _REFUSED: False}.get(status)
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        embedded.forget(root)
        shutil.rmtree(root, ignore_errors=True)


async def _try(root: Path, probe_cache: Path, wanted: str) -> int:
    embedded.prepare(root, probe_cache=probe_cache, capability_filter=wanted)
    try:
        connection = await LibvirtConnection.open(embedded.embed_uri(root))
        await connection.check(_SMALLEST_GUEST.format(emulator=escape(QEMU.path())))
    except GuestFailure as failure:
        return _REFUSED if "capability_filters" in str(failure) else 1  # libvirt names it
    await connection.aclose()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_try(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
