"""The programs of this machine that we start: one table, and the one place that finds them.

An ordinary user's PATH on Debian has no `sbin`, where e2fsprogs keeps mke2fs: what is started is
always the path that was found here, never a bare name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contree.domain.errors import UnavailableError

SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Looked at after PATH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program, the Debian package that has it, and what we need it for."""

    name: str
    package: str
    purpose: str

    def find(self) -> str | None:
        """Return its path. Asked anew each time: it may be installed, or removed, meanwhile."""
        return shutil.which(self.name) or shutil.which(self.name, path=SBIN)

    def path(self) -> str:
        """Return its path. Raises UnavailableError naming what to install."""
        found = self.find()
        if found is None:
            raise UnavailableError(self.absence)
        return found

    @property
    def absence(self) -> str:
        """What to tell an operator who lacks it."""
        return f"{self.name} is not installed ({self.purpose}): {self.remedy}"

    @property
    def remedy(self) -> str:
        return f"apt-get install {self.package}"


QEMU: Final = Program(
    name="qemu-system-x86_64", package="qemu-system-x86", purpose="runs the guests"
)
MKE2FS: Final = Program(name="mke2fs", package="e2fsprogs", purpose="makes scratch disks")
SQFSTAR: Final = Program(
    name="sqfstar", package="squashfs-tools", purpose="makes the layer of a waiting guest"
)
SETPRIV: Final = Program(
    name="setpriv", package="util-linux", purpose="takes rights from what holds the template"
)
CAT: Final = Program(name="cat", package="coreutils", purpose="holds the guest template's memory")
RIPGREP: Final = Program(name="rg", package="ripgrep", purpose="searches images")

OF_A_WORKER: Final = (QEMU, MKE2FS, SQFSTAR, SETPRIV, CAT)
"""A worker that lacks one of them takes on nothing."""

ALL: Final = (*OF_A_WORKER, RIPGREP)
"""Without ripgrep searching is refused, by the API; nothing else needs it."""


def lacking(programs: Iterable[Program] = OF_A_WORKER) -> str | None:
    """Say which of `programs` are not installed and how to get them; None when all are."""
    return "; ".join(p.absence for p in programs if p.find() is None) or None
