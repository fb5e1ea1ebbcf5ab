"""Do 500 queued runs all end well and in turn, and what is left of 1,000 of them?

Five projects, twice: the first queues most of its runs before the others come, and all are queued
before anybody waits. Each writes a file and leaves an image. Processes, sockets, descriptors,
files, connections and memory are counted after a warm-up and after each 500, when nothing runs.

There is no reference: the counts of failures, of starved projects and of kinds of things that grew
are the answer, and throughput beside that of `run_latency` says what a full queue costs. Waits are
from POST to the start of the run.
"""

from __future__ import annotations

from collections import defaultdict

from bench._crowd import MEMORY_SHARE, Crowd, Stock, late, stock_of
from bench._measure import Report, Target
from bench._service import service

SIZES = {"first": 300, "second": 100, "third": 60, "fourth": 30, "last": 10}
TIMES = 2
WARM_UP = dict.fromkeys(SIZES, 12)
AT_ONCE_MAX = 16
"""Starts that may be under way when the last run is queued."""

NONE = (Target(of="ours", at_most=0),)


def main() -> None:
    report = Report("soak", __doc__.splitlines()[0])
    with report.running(), service() as running:
        Crowd(running, WARM_UP).run()
        report.accelerator = running.accelerator
        stocks = [stock_of(running)]
        failures, starved, rates = [], [], []
        waits: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(TIMES):
            crowd = Crowd(running, SIZES)
            ended = crowd.run()
            stocks.append(stock_of(running))
            failures += [
                f"{one.project} {one.number}: {one.failure}" for one in ended if one.failure
            ]
            starved += late(ended, at_once=AT_ONCE_MAX)
            rates.append(len(ended) / crowd.took_s)
            for one in ended:
                if not one.failure:
                    waits[one.project].append(one.waited_s)
        leaks = stocks[-1].leaks_over(stocks[0], memory_share=MEMORY_SHARE)
        report.add("runs that failed", "runs", [len(failures)], targets=NONE)
        report.add("projects that were starved", "projects", [len(starved)], targets=NONE)
        report.add("kinds of things that grew", "kinds", [len(leaks)], targets=NONE)
        _add_stocks(report, stocks)
        report.add(f"throughput, {sum(SIZES.values())} queued", "runs/s", rates)
        for project, count in SIZES.items():
            report.add(f"- wait of '{project}', {count} runs", "s", waits[project])
        for text in [*failures[:5], *starved, *leaks]:
            report.note(text)


def _add_stocks(report: Report, stocks: list[Stock]) -> None:
    """Add what there was at the end beside what there was after the warm-up."""
    before, after = stocks[0], stocks[-1]
    warm = f"after a warm-up of {sum(WARM_UP.values())} runs"
    pairs = {
        "processes": (sum(after.processes.values()), sum(before.processes.values())),
        "sockets, the pools' apart": (after.sockets, before.sockets),
        "descriptors, the pools' apart": (after.descriptors, before.descriptors),
        "scratch files": (after.scratch_files, before.scratch_files),
        "database connections, the pools' apart": (after.connections, before.connections),
        "database connections of the pools": (after.pooled, before.pooled),
    }
    for what, (now, then) in pairs.items():
        report.add(f"- {what}", "", [now], [then], reference_name=warm)
    report.add(
        "memory of the service (API + worker)",
        "MiB",
        [after.memory_in_all_mib],
        [before.memory_in_all_mib],
        reference_name=warm,
        targets=(Target(of="ratio", at_most=1 + MEMORY_SHARE),),
    )
    for process, size_mib in after.memory_mib.items():
        report.add(
            f"- {process}", "MiB", [size_mib], [before.memory_mib[process]], reference_name=warm
        )
    course = ", ".join(f"{stock.memory_in_all_mib:.1f}" for stock in stocks)
    report.note(
        f"memory after the warm-up and after each {sum(SIZES.values())} runs, MiB: {course}"
    )


if __name__ == "__main__":
    main()
