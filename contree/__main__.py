"""`contreed` and `python -m contree`: argument vector to exit status, nothing else.

What this process and its children make is closed to other users of the machine.
"""

from __future__ import annotations

import os
import sys

from contree.cli import run


def main() -> int:
    """Run the command line of this process."""
    os.umask(0o077)
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
