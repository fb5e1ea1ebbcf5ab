"""The driver's errors in our words, in one place.

It translates what a caller can act on: somebody else was first, the database is away, the disk is
full. Everything else (a wrong statement, a constraint of ours) is our mistake and passes unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import asyncpg

from contree.domain.errors import ConflictError, StorageFullError, UnavailableError

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
)
FINGERPRINT_PREFIX = "fingerprint_"
"""Begins the name of the table that each append requires (adapters.postgres.read_models)."""
LOST_RACE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise ConflictError, UnavailableError or StorageFullError for the driver's errors."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        if error.table_name != "stored_events":
            raise
        raise ConflictError(f"somebody else appended first: {error.detail}") from error
    except asyncpg.UndefinedTableError as error:
        if FINGERPRINT_PREFIX not in str(error):
            raise
        raise UnavailableError(
            "the read models are not of this release: start this process again, with the release "
            "that the database is at"
        ) from error
    except LOST_RACE as error:
        raise ConflictError(f"another transaction was in the way: {error}") from error
    except asyncpg.DiskFullError as error:
        raise StorageFullError(f"the database has no room: {error}") from error
    except asyncpg.DataError:
        raise  # also a kind of InterfaceError, but about a value of ours
    except (*AWAY, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        text = str(error) or (
            "it gave no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
        )
        raise UnavailableError(f"the database is not available: {text}") from error
