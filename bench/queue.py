"""Do 500 queued runs of five projects all end well, and does each project get its turns?

The first project queues most of them before the others come. Waits are from POST to the start of
the run. There is no reference: the count of failures, of starved projects and of kinds of things
that are left is the answer, and throughput beside that of `run_latency` says what a full queue
costs.
"""

from __future__ import annotations

from bench._crowd import MEMORY_SHARE, Crowd, late, stock_of
from bench._measure import Report, Target
from bench._service import service

SIZES = {"first": 300, "second": 100, "third": 60, "fourth": 30, "last": 10}
WARM_UP = dict.fromkeys(SIZES, 4)
AT_ONCE_MAX = 16
"""Starts that may be under way when the last run is queued."""

NONE = Target(of="ours", at_most=0)


def main() -> None:
    report = Report("queue", __doc__.splitlines()[0])
    with report.running(), service() as running:
        Crowd(running, WARM_UP).run()
        before = stock_of(running)
        crowd = Crowd(running, SIZES)
        ended = crowd.run()
        leaks = stock_of(running).leaks_over(before, memory_share=MEMORY_SHARE)
        report.accelerator = running.accelerator
        failures = [f"{one.project} {one.number}: {one.failure}" for one in ended if one.failure]
        starved = late(ended, at_once=AT_ONCE_MAX)
        report.add("runs that failed", "runs", [len(failures)], targets=(NONE,))
        report.add("projects that were starved", "projects", [len(starved)], targets=(NONE,))
        report.add("kinds of things that grew", "kinds", [len(leaks)], targets=(NONE,))
        report.add("throughput", "runs/s", [len(ended) / crowd.took_s])
        for project, count in SIZES.items():
            waits = [one.waited_s for one in ended if one.project == project]
            report.add(f"- wait of '{project}', {count} runs", "s", waits)
        for text in [*failures[:5], *starved, *leaks]:
            report.note(text)


if __name__ == "__main__":
    main()
