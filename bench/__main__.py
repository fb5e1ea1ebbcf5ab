"""Every question of bench/ after the other, then the table and the plots: `make bench`.

    python -m bench             all of them
    python -m bench NAME...     these alone

One that fails, or takes too long, is said and the rest goes on; the exit status is then 1, and the
table says what is missing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from bench import plots, report
from bench._measure import OUT_DIR, names

LONGEST_S = 600.0
"""Of one bench; on an idle machine the longest takes less."""

CLEANING_UP_S = 90.0


def main(asked: Sequence[str]) -> int:
    if unknown := set(asked) - set(names()):
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    chosen = list(asked) or names()
    began, failed = time.monotonic(), []
    for number, name in enumerate(chosen, start=1):
        minutes = (time.monotonic() - began) / 60
        _say(f"== [{number}/{len(chosen)}, {minutes:.1f} min] {name}")
        if why := _failure_of(name):
            _say(f"== {name} FAILED: {why}")
            failed.append(name)
    report.main()
    plots.main()
    minutes = (time.monotonic() - began) / 60
    _say(f"{len(chosen) - len(failed)} of {len(chosen)} benches ended, in {minutes:.1f} min")
    if failed:
        _say(f"FAILED: {', '.join(failed)}")
    return 1 if failed else 0


def command_of(name: str) -> list[str]:
    return [sys.executable, "-m", f"bench.{name}"]


def _failure_of(name: str) -> str:
    """Run a bench by itself; return why there is no answer, "" when there is one."""
    answer = OUT_DIR / f"{name}.json"
    answer.unlink(missing_ok=True)  # what an earlier one said is no answer of this one
    process = subprocess.Popen(command_of(name))
    try:
        status = process.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"it took more than {LONGEST_S:.0f} s"
    except KeyboardInterrupt:  # the terminal has told it as well
        _end(process, tell=False)
        raise
    return f"exit status {status}" if status else ""


def _end(process: subprocess.Popen[bytes], *, tell: bool = True) -> None:
    """End a bench; it takes away what it has started, unless it cannot."""
    if tell:
        process.terminate()
    try:
        process.wait(CLEANING_UP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
