"""Directories and files that appear whole or not at all.

New things are made in `<root>/.staging/`, fsynced, and renamed into place. A staging directory is
locked (flock) by the process that fills it, so that a later process can tell what a killed one left
behind from what a living one is making. No room is StorageFullError, whoever met it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contree.domain.errors import StorageFullError

_LIBC: Final = ctypes.CDLL(None)
_WRITE_ONLY: Final = 2  # SYNC_FILE_RANGE_WRITE, linux/fs.h
_STAGING: Final = ".staging"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn "no room" of the kernel and of SQLite into StorageFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full() from error
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise _full() from error
        raise


@contextmanager
def staging_directory(root: Path) -> Iterator[Path]:
    """Give a private directory on `root`'s filesystem; it is removed at the end."""
    with storage_errors():
        parent = root / _STAGING
        parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=parent))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with storage_errors():
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def publish(source: Path, target: Path) -> bool:
    """Put `source` (a file or directory already fsynced) at `target`, durably.

    Returns False when the target exists: whoever made it made the same. It is never replaced: a
    guest may be about to open it. A directory is gone from `source` then, a file stays there too.
    The time of `target` says then that it was wanted again (removal).
    """
    if target.exists():
        os.utime(target)
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        put_back(source, target)
    except OSError as error:
        # A directory cannot replace one that is not empty: another process was first.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync_directory(target.parent)
    return True


def put_back(source: Path, target: Path) -> None:
    """Give `source` the name `target`. Raises OSError when there is something there already."""
    if source.is_dir():
        sync_directory(source)
        source.rename(target)
    else:
        target.hardlink_to(source)  # a rename would replace it


def start_writeback(descriptor: int) -> None:
    """Let the kernel begin to write a file to disk, so that its fsync finds little to do.

    Promises nothing and waits for nothing; sync_file_range(2), which Python does not have.
    """
    _LIBC.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_ONLY)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(root: Path) -> int:
    """Remove staging directories whose process is gone; return how many."""
    removed = 0
    parent = root / _STAGING
    for path in list(parent.iterdir()) if parent.is_dir() else []:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # its owner has just finished
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
    return removed


def _full() -> StorageFullError:
    return StorageFullError("the layer store has no room; nothing was kept")
