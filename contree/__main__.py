"""`contreed` and `python -m contree`: argument vector to exit status, nothing else."""

from __future__ import annotations

import sys

from contree.cli import run


def main() -> int:
    """Run the command line of this process."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
