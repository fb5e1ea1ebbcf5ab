"""A server of an ordinary user, as somebody has it who logs in to a Debian and types.

Whoever is one runs it themselves. Root runs it as `daemon`, a user of every Debian that owns
nothing, without any capability; one alone is left, to read, where the checkout is closed to others.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from contree.config import Settings
from contree.programs import SETPRIV
from tests.support.server import RunningServer

LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
"""ENV_PATH of Debian's /etc/login.defs: no sbin."""
NOT_ROOT = "daemon"
READ_ANYTHING = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
CHECKOUT = Path(__file__).parents[2]
NEEDED = """
import subprocess, sys, contree
open(sys.argv[1])
subprocess.run([sys.executable, "-c", ""], check=True)  # its interpreter may be closed, too
"""
SESSION = ("XDG_RUNTIME_DIR", "XDG_DATA_HOME")
"""What systemd may have set; without it there is /tmp."""


class OrdinaryServer(RunningServer):
    """One server below `directory`, which it owns."""

    def __init__(self, directory: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.user = pwd.getpwuid(os.geteuid() or pwd.getpwnam(NOT_ROOT).pw_uid)
        home = directory / "home"
        for place in (directory, home):
            place.mkdir(mode=0o700, exist_ok=True)
            os.chown(place, self.user.pw_uid, self.user.pw_gid)
        super().__init__(
            directory,
            data_dir=home / "data",
            environment={
                "PATH": LOGIN_PATH,
                "HOME": str(home),
                "USER": self.user.pw_name,
                "LOGNAME": self.user.pw_name,
                **(environment or {}),
            },
        )
        for name in SESSION:
            self._environment.pop(name, None)
        self.prefix = _acting_as(self.user)

    @property
    def runtime_dir(self) -> Path:
        name = Settings(data_dir=self.data_dir).runtime_dir.name.rpartition("-")[2]
        return Path("/tmp") / f"contree-{self.user.pw_uid}-{name}"


def _acting_as(user: pwd.struct_passwd) -> Sequence[str]:
    if user.pw_uid == os.geteuid():
        return ()
    become = (SETPRIV.path(), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    bare = (*become, "--inh-caps=-all", "--")
    needed = [sys.executable, "-c", NEEDED, CHECKOUT / "Makefile"]
    with tempfile.TemporaryFile() as said:
        tried = subprocess.run([*bare, *needed], check=False, cwd="/", stderr=said)
    return bare if tried.returncode == 0 else (*become, *READ_ANYTHING, "--")
