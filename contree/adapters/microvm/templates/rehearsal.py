"""The layer of a rehearsal: the agent, as the program that it runs (guest/src/rehearse.h).

Not compressed, as layers are not, so that the guest's kernel reads it by the same code.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from contree.domain.errors import GuestFailure
from contree.programs import SQFSTAR

PROGRAM_NAME = "agent"
_OPTIONS = (
    "-noI", "-noD", "-noF", "-noX", "-no-fragments", "-mkfs-time", "0",
    "-no-progress", "-quiet",
)  # fmt: skip


def build_rehearsal(agent: Path, out: Path) -> None:
    """Write the layer to `out`, whole or not at all.

    Raises GuestFailure, OSError, and UnavailableError when sqfstar is not installed.
    """
    data = agent.read_bytes()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(PROGRAM_NAME)
        entry.mode, entry.size = 0o755, len(data)
        archive.addfile(entry, io.BytesIO(data))
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        subprocess.run(
            [SQFSTAR.path(), *_OPTIONS, str(partial)],
            input=tar.getvalue(),
            check=True,
            capture_output=True,
        )
        partial.replace(out)
    except subprocess.CalledProcessError as error:
        text = error.stderr.decode(errors="replace").strip()[-500:]
        raise GuestFailure(f"sqfstar failed ({error.returncode}): {text}") from error
    finally:
        partial.unlink(missing_ok=True)
