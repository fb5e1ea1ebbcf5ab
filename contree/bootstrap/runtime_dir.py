"""The directory of sockets, which processes on one data directory share: private, gone when unused.

Its name can be guessed, and it may lie in /tmp: it is believed only when it is a directory of ours
that nobody else may enter. Whoever uses it holds a shared lock on it, so the last one removes it
without taking it from under another that has just come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contree.config import Settings
from contree.domain.errors import UnavailableError


@contextmanager
def runtime_dir(settings: Settings) -> Iterator[Path]:
    """Yield the directory, made if need be. Raises UnavailableError when it is not ours alone.

    What is put into it is the caller's to remove; it stays as long as anything is in it.
    """
    path = settings.runtime_dir
    descriptor = _held(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # others use it, or an earlier life left something
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rmdir()
        os.close(descriptor)


def _held(path: Path) -> int:
    while True:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # the last user before us has just removed it
            continue
        except OSError as error:
            raise UnavailableError(
                f"{path} cannot be used ({error.strerror}): remove it"
            ) from error
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # its remover holds it for an instant
        found = os.fstat(descriptor)
        if found.st_nlink == 0:
            os.close(descriptor)
            continue
        if found.st_uid != os.geteuid():
            os.close(descriptor)
            raise UnavailableError(f"{path} is not ours: its owner must remove it")
        os.fchmod(descriptor, stat.S_IRWXU)
        return descriptor
