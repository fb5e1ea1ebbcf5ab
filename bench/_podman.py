"""podman as a second reference: `run` and `commit` of the small image, where that works at all."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from infra.images.rootfs import small_image

TIMEOUT_S = 120.0
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""Its own defaults are more than a sandbox may have."""

RUNTIMES = ("crun", "runc")
"""Debian's default first. crun refuses a host with both cgroup hierarchies, runc does not."""


class Podman:
    """An own store below `root`, which is removed at the end. `runtime` is one of RUNTIMES."""

    def __init__(self, root: Path, runtime: str) -> None:
        self.runtime = runtime
        self._root = root
        self._numbers = itertools.count()
        self._command = [
            "podman", "--root", str(root / "store"), "--runroot", str(root / "run"),
            "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", runtime,
        ]  # fmt: skip
        self._image = ""

    def load(self) -> None:
        """Import the small image and try it once. Raises OSError, CalledProcessError."""
        archive = self._root / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(small_image().layout, arcname=".")
        self._say("load", "--quiet", "--input", str(archive))
        self._image = self._say("images", "--quiet", "--no-trunc").splitlines()[0]
        self.run_and_commit()

    def run_and_commit(self) -> None:
        """Run `true` in a container of its own, keep what it left as an image, remove it."""
        name = f"bench-{next(self._numbers)}"
        self._say("run", "--network", "none", *ULIMITS, "--name", name, self._image, "true")
        self._say("commit", "--quiet", name, f"localhost/{name}")
        self._say("rm", name)

    def close(self) -> None:
        subprocess.run(
            [*self._command, "system", "reset", "--force"],
            check=False, capture_output=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        shutil.rmtree(self._root, ignore_errors=True)

    def _say(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._command, *arguments],
            check=True, capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        return done.stdout.strip()


def prepare() -> tuple[Podman | None, str]:
    """Return a podman that works, else None and why there is none, by runtime."""
    if shutil.which("podman") is None:
        return None, "it is not installed"
    reasons = []
    for runtime in RUNTIMES:
        if shutil.which(runtime) is None:
            reasons.append(f"{runtime} is not installed")
            continue
        podman = Podman(Path(tempfile.mkdtemp(prefix="bench-podman-")), runtime)
        try:
            podman.load()
        except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            podman.close()
            reasons.append(_reason(error))
        else:
            return podman, ""
    return None, "; ".join(reasons)


def _reason(error: Exception) -> str:
    """Return what podman said last, else what became of it."""
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
    lines = str(said).strip().splitlines() or [str(error)]
    return lines[-1][:200]
