# The dozen libvirt calls that adapters.microvm.connection makes, typed by hand from libvirt-python.

from collections.abc import Callable
from typing import Any

VIR_ERR_NO_DOMAIN: int
VIR_ERR_OPERATION_INVALID: int
VIR_DOMAIN_NONE: int
VIR_DOMAIN_START_PAUSED: int
VIR_CONNECT_LIST_DOMAINS_ACTIVE: int
VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON: int
VIR_DOMAIN_EVENT_ID_LIFECYCLE: int
VIR_DOMAIN_EVENT_STOPPED: int

class libvirtError(Exception):  # noqa: N801
    def get_error_code(self) -> int: ...
    def get_error_message(self) -> str: ...

class virDomain:  # noqa: N801
    def name(self) -> str: ...
    def destroy(self) -> int: ...
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def XMLDesc(self, flags: int = ...) -> str: ...  # noqa: N802

class virConnect:  # noqa: N801
    def getDomainCapabilities(  # noqa: N802
        self,
        emulatorbin: str | None = ...,
        arch: str | None = ...,
        machine: str | None = ...,
        virttype: str | None = ...,
        flags: int = ...,
    ) -> str: ...
    def createXML(self, xmlDesc: str, flags: int = ...) -> virDomain: ...  # noqa: N802, N803
    def domainEventRegisterAny(  # noqa: N802
        self,
        dom: virDomain | None,
        eventID: int,  # noqa: N803
        cb: Callable[..., None],
        opaque: Any,
    ) -> int: ...
    def getVersion(self) -> int: ...  # noqa: N802
    def getLibVersion(self) -> int: ...  # noqa: N802
    def domainXMLToNative(self, nativeFormat: str, domainXml: str, flags: int = ...) -> str: ...  # noqa: N802, N803
    def lookupByName(self, name: str) -> virDomain: ...  # noqa: N802
    def listAllDomains(self, flags: int = ...) -> list[virDomain]: ...  # noqa: N802
    def close(self) -> int: ...

def getVersion() -> int: ...  # noqa: N802
def open(name: str | None = ...) -> virConnect: ...  # noqa: A001
def registerErrorHandler(f: Callable[[Any, Any], None] | None, ctx: Any) -> int: ...  # noqa: N802
def virEventRegisterDefaultImpl() -> int: ...  # noqa: N802
def virEventRunDefaultImpl() -> int: ...  # noqa: N802
