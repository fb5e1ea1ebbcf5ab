"""A worker that starts a guest, or has one wait, and then waits to be killed; or, with `sweep`,
clears up after it.

Usage: python -m tests.vm.crashing_worker start|wait|sweep DIRECTORY. DIRECTORY has boot/ with
kernel and initramfs. Prints one line: `up PID-OF-QEMU` or `swept COUNT`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from contree.adapters.microvm.boot.assets import find_assets
from contree.adapters.microvm.hypervisor.qemu_process import qemu_pids
from contree.adapters.microvm.runner import LibvirtMicroVM
from tests.vm.fixtures import guest_spec


async def main(what: str, directory: Path) -> None:
    microvm = await LibvirtMicroVM.open(
        uri=None,
        runtime_dir=directory / "crash",
        cache_dir=directory / "cache",
        assets=find_assets(directory / "boot"),
        accelerator="tcg",
        memory_mib=256,
    )
    async with AsyncExitStack() as stack:
        if what == "start":
            await stack.enter_async_context(microvm.start(guest_spec()))
        elif what == "wait":
            microvm.keep_waiting(1, fill=True)
            await microvm.warm.settled()
        if what != "sweep":
            [pid] = qemu_pids(f"{directory}/crash/vm/")
            print("up", pid, flush=True)
            await asyncio.Event().wait()
    print("swept", await microvm.sweep(), flush=True)
    await microvm.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
