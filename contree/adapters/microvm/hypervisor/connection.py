"""The one connection to libvirt; `libvirt` is imported here and nowhere else.

Calls block, so they run on a few threads of their own, never on the event loop; libvirt's own event
loop has a thread for the life of the process. No libvirt exception leaves this module: a call that
fails is a GuestFailure with libvirt's text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from contree.adapters.microvm.disks.sealed_file import SealedFile
from contree.adapters.microvm.hypervisor import qemu_process
from contree.adapters.microvm.hypervisor.disk_exchange import exchange_layers
from contree.adapters.microvm.hypervisor.migration import load_state, save_state
from contree.domain.errors import GuestFailure
from contree.programs import QEMU

# Read by libvirt when it is imported. Errors are raised to us; on standard error it would repeat
# them, add harmless ones, and call each domain tainted. Set the variable outside to have it back.
os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null")

import libvirt
import libvirt_qemu

MACHINE = "pc"
CALL_THREADS = 4
"""Calls at one time. libvirt itself allows more; two cores do not profit."""

OPEN_TIMEOUT_S = 60.0
REAP_INTERVAL_S = 0.1
LET_GO_TIMEOUT_S = 10.0
"""libvirt takes milliseconds, and 200 ms more for each guest that it found not yet reaped."""

_T = TypeVar("_T")
_event_loop_lock = threading.Lock()
_event_loop_started = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveDomain:
    """A running guest of this libvirt, ours or not."""

    name: str
    xml: str


class LibvirtConnection:
    """An open virConnect. Every method may be called from the event loop at any time."""

    def __init__(self, connection: libvirt.virConnect, threads: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        # Called with the reason when QEMU has stopped a guest over a disk, by its domain's name.
        self.on_disk_error: dict[str, Callable[[str], None]] = {}
        # Set when libvirt has taken a domain down, by its name.
        self.stopped: dict[str, asyncio.Event] = {}
        connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._disk_error, None
        )
        connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None
        )

    def _disk_error(
        self,
        _connection: libvirt.virConnect,
        domain: libvirt.virDomain,
        *details: Any,  # source, device alias, action, reason, our None
    ) -> None:
        """Hand libvirt's callback, on its own thread, to the event loop."""
        name, reason = domain.name(), str(details[3])
        with contextlib.suppress(RuntimeError):  # the loop has ended; so has the guest
            self._loop.call_soon_threadsafe(self._tell_disk_error, name, reason)

    def _lifecycle(
        self,
        _connection: libvirt.virConnect,
        domain: libvirt.virDomain,
        event: int,
        *_details: Any,  # reason, our None
    ) -> None:
        """As `_disk_error`."""
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell_stopped, domain.name())

    def _tell_stopped(self, name: str) -> None:
        stopped = self.stopped.get(name)
        if stopped is not None:
            stopped.set()

    def _tell_disk_error(self, name: str, reason: str) -> None:
        told = self.on_disk_error.get(name)
        if told is not None:
            told(reason)

    @classmethod
    async def open(cls, uri: str) -> LibvirtConnection:
        """Connect to `uri` and make libvirt look at QEMU now rather than at the first guest.

        Raises GuestFailure with libvirt's reason, and when it does not answer in OPEN_TIMEOUT_S.
        """
        _start_event_loop()
        qemu_process.adopt_orphans()
        threads = ThreadPoolExecutor(max_workers=CALL_THREADS, thread_name_prefix="libvirt")
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                connection = await _run(threads, lambda: _open_and_probe(uri))
        except TimeoutError as error:
            threads.shutdown(wait=False)
            raise GuestFailure(f"libvirt at {uri} did not answer in {OPEN_TIMEOUT_S} s") from error
        except BaseException:
            threads.shutdown(wait=False)
            raise
        return cls(connection, threads)

    async def create(self, domain_xml: str, *, connect: Callable[[], None]) -> None:
        """Start a transient domain and `connect`. Raises GuestFailure.

        Cancelling does not stop a start that is under way.
        """

        def call() -> None:
            self._connection.createXML(domain_xml, 0)
            connect()

        await _run(self._threads, call)

    async def restore(
        self, domain_xml: str, state: SealedFile, *, connect: Callable[[], None]
    ) -> None:
        """Start a domain that waits for its device state, `connect`, load it, and let it run.

        Raises GuestFailure. Cancelling does not stop it.
        """

        def call() -> None:
            domain = self._connection.createXML(domain_xml, libvirt.VIR_DOMAIN_START_PAUSED)
            connect()
            fd = state.open_again()
            try:
                load_state(_DomainMonitor(domain), fd)
            finally:
                os.close(fd)
            domain.resume()

        await _run(self._threads, call)

    async def suspend(self, name: str) -> None:
        """Stop a running domain until `resume_with`. Raises GuestFailure."""
        await _run(self._threads, lambda: self._connection.lookupByName(name).suspend())

    async def resume_with(self, name: str, layers_disk: Path) -> None:
        """Let a stopped domain run, with another layers disk than it had. Raises GuestFailure."""

        def call() -> None:
            domain = self._connection.lookupByName(name)
            exchange_layers(_DomainMonitor(domain), layers_disk)
            domain.resume()

        await _run(self._threads, call)

    async def save(self, name: str, state: Path) -> None:
        """Stop a domain for good and write its device state to the new file `state`.

        Its RAM must lie in a shared file. Raises GuestFailure.
        """

        def call() -> None:
            domain = self._connection.lookupByName(name)
            domain.suspend()
            with state.open("xb", buffering=0) as file:
                save_state(_DomainMonitor(domain), file.fileno())

        await _run(self._threads, call)

    async def version(self) -> str:
        """Return libvirt's version. For QEMU's it would look at each architecture's."""
        return await _run(self._threads, lambda: f"libvirt {self._connection.getLibVersion()}")

    async def check(self, domain_xml: str) -> None:
        """Find what would refuse a domain before its QEMU is started. Raises GuestFailure."""
        await _run(
            self._threads, lambda: self._connection.domainXMLToNative("qemu-argv", domain_xml, 0)
        )

    async def destroy(self, name: str) -> None:
        """End a domain and wait until libvirt has let go of it; absent is as good as ended."""

        def call() -> None:
            try:
                self._connection.lookupByName(name).destroy()
            except libvirt.libvirtError as error:
                gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
                if error.get_error_code() not in gone:
                    raise

        await _run(self._threads, call)

    async def let_go(self, name: str) -> None:
        """Wait until libvirt has let go of a domain that was started, and whose QEMU has ended.

        Without a question about it: libvirt would wait for the domain's own lock, which it keeps
        while it takes the domain down, holding the one of all domains, and no guest could start.
        """
        try:
            async with asyncio.timeout(LET_GO_TIMEOUT_S):
                await self.stopped[name].wait()
        except TimeoutError:
            await self.destroy(name)

    async def active_domains(self) -> list[ActiveDomain]:
        """Return the running domains. Raises GuestFailure."""

        def call() -> list[ActiveDomain]:
            found = []
            for domain in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                try:
                    found.append(ActiveDomain(name=domain.name(), xml=domain.XMLDesc(0)))
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                        raise
            return found

        return await _run(self._threads, call)

    async def aclose(self) -> None:
        """Close the connection; guests of an embedded libvirt go on without us."""
        await _run(self._threads, self._connection.close)
        await asyncio.to_thread(self._threads.shutdown)


class _DomainMonitor:
    """See `migration.Monitor`. libvirt marks a domain whose monitor was used as tainted."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, fd: int | None = None
    ) -> Any:
        message = json.dumps({"execute": command, "arguments": dict(arguments or {})})
        files = [] if fd is None else [fd]
        text, _ = libvirt_qemu.qemuMonitorCommandWithFiles(self._domain, message, files, 0)
        answer = json.loads(text)
        if "error" in answer:
            reason = answer["error"].get("desc", text)
            raise GuestFailure(f"QEMU's monitor refuses {command}: {reason}", retryable=True)
        return answer["return"]


def libvirt_version() -> int:
    """The version of the library, as 1,000,000 x major + 1,000 x minor + release."""
    return int(libvirt.getVersion())


def _open_and_probe(uri: str) -> libvirt.virConnect:
    connection = _open_on_one_core(uri)
    try:
        # Starts and questions a QEMU or reads the cached answers: 1.3 s and 1 ms.
        connection.getDomainCapabilities(QEMU.path(), "x86_64", MACHINE, "qemu", 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_on_one_core(uri: str) -> libvirt.virConnect:
    """Open `uri` on the same core at each start.

    libvirt believes its cache of QEMU's answers while CPUID is what it was. It has that from KVM,
    which names the core that asks: on another one it would start and question QEMU again.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # this thread alone
    try:
        return libvirt.open(uri)
    finally:
        os.sched_setaffinity(0, allowed)


async def _run(threads: ThreadPoolExecutor, call: Callable[[], _T]) -> _T:
    """Run `call` on a thread. Meanwhile reap QEMUs that libvirt has ended but cannot reap.

    Any call may make libvirt question a QEMU of its own (a new binary, a cold cache) and then wait
    for it to vanish; unreaped, that takes it 40 s each time.
    """
    running = asyncio.get_running_loop().run_in_executor(threads, call)
    try:
        while not (await asyncio.wait({running}, timeout=REAP_INTERVAL_S))[0]:
            qemu_process.reap_adopted()
        return running.result()
    except libvirt.libvirtError as error:
        raise GuestFailure(f"libvirt: {error.get_error_message()}", retryable=True) from error
    finally:
        qemu_process.reap_adopted()


def _start_event_loop() -> None:
    global _event_loop_started  # noqa: PLW0603 - libvirt has one event loop in a process
    with _event_loop_lock:
        if _event_loop_started:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        _event_loop_started = True


def _run_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
