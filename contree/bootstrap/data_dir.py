"""The data directory is for one user alone: layers in it are as projects wrote them."""

from __future__ import annotations

import shlex
import stat

from contree.config import Settings
from contree.domain.errors import UnavailableError


def private_data_dir(settings: Settings) -> None:
    """Make the data directory, unless it is there.

    Raises UnavailableError, with the command that mends it, when others may look into one that is.
    """
    path = settings.data_dir
    path.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UnavailableError(
            f"'{path}' is open to other users of this machine, who could read what projects keep "
            f"in it: chmod -R go= {shlex.quote(str(path.resolve()))}"
        )
