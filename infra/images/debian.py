"""Root filesystems of Debian, made by mmdebstrap from the mirror that this machine's apt uses.

Works as root, and as anyone who may have user namespaces. Installs nothing on this machine.
"""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SUITE = "bookworm"
STOP_TIMEOUT_S = 60.0
Progress = Callable[[str], None]


class RootfsNotBuiltError(Exception):
    """What is missing on this machine to build a root filesystem, and how to get it."""


def debian_tar(target: Path, *, packages: Sequence[str], progress: Progress) -> None:
    """Write the root filesystem of a minimal Debian with these packages to `target`, a tar.

    Raises RootfsNotBuiltError with mmdebstrap's last words.
    """
    # Times stay as they are: clamped ones would make each compiled Python module look outdated.
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
    try:
        process = subprocess.Popen(
            [*command, SUITE, str(target), *_debian_sources()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise RootfsNotBuiltError("mmdebstrap is missing: run `make setup-dev`") from None
    words: deque[str] = deque(maxlen=20)
    with process, _ended_with_us(process):
        assert process.stderr is not None
        for line in process.stderr:
            words.append(line)
            if line.startswith("I: "):
                progress(line.removeprefix("I: ").strip())
    if process.returncode == 0:
        return
    hint = ""
    if os.geteuid() != 0:
        hint = (
            "\nWithout root, mmdebstrap needs newuidmap (package uidmap), an entry for this user"
            " in /etc/subuid and /etc/subgid, and user namespaces"
            " (sysctl kernel.unprivileged_userns_clone=1)."
        )
    raise RootfsNotBuiltError(f"mmdebstrap failed:\n{''.join(words)}{hint}")


@contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """On Ctrl-C or any error let mmdebstrap unmount and remove its own temporary directory."""
    try:
        yield
    except BaseException:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        raise


def _debian_sources() -> list[str]:
    """The Debian mirrors of this machine's apt, when it knows the suite; else mmdebstrap's own."""
    targets = subprocess.run(
        [
            *("apt-get", "indextargets"),
            *("--format", "deb $(REPO_URI) $(CODENAME) $(COMPONENT)"),
            *("Created-By: Packages", "Origin: Debian"),
        ],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    sources = list(dict.fromkeys(targets))
    own = any(source.split()[2] == SUITE for source in sources)
    return [s for s in sources if s.split()[2].startswith(SUITE)] if own else []
