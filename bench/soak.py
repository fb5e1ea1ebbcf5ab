"""What is left of 1,000 runs: processes, sockets, descriptors, files, connections, memory?

Of three projects, each run writes a file and leaves an image. Counted after a warm-up, at the end,
and memory in between too, always when nothing runs.
"""

from __future__ import annotations

from bench._crowd import MEMORY_SHARE, Crowd, Stock, stock_of
from bench._measure import Report, Target
from bench._service import service

WARM_UP = {"one": 20, "two": 20, "three": 20}
PARTS = 4
SIZES = {"one": 125, "two": 75, "three": 50}
"""Of each part."""

NONE = (Target(of="ours", at_most=0),)


def main() -> None:
    report = Report("soak", __doc__.splitlines()[0])
    with report.running(), service() as running:
        Crowd(running, WARM_UP).run()
        stocks, failures, took_s = [stock_of(running)], [], 0.0
        for _ in range(PARTS):
            crowd = Crowd(running, SIZES)
            failures += [f"{o.project} {o.number}: {o.failure}" for o in crowd.run() if o.failure]
            took_s += crowd.took_s
            stocks.append(stock_of(running))
        report.accelerator = running.accelerator
        leaks = stocks[-1].leaks_over(stocks[0], memory_share=MEMORY_SHARE)
        report.add("runs that failed", "runs", [len(failures)], targets=NONE)
        report.add("kinds of things that grew", "kinds", [len(leaks)], targets=NONE)
        _add_stocks(report, stocks)
        report.add("throughput", "runs/s", [PARTS * sum(SIZES.values()) / took_s])
        memory = ", ".join(f"{stock.memory_mib:.1f}" for stock in stocks)
        report.note(f"memory after the warm-up and after each {sum(SIZES.values())} runs: {memory}")
        for text in [*failures[:5], *leaks]:
            report.note(text)


def _add_stocks(report: Report, stocks: list[Stock]) -> None:
    """Add what there was at the end beside what there was after the warm-up."""
    before, after = stocks[0], stocks[-1]
    warm = f"after {sum(WARM_UP.values())} runs"
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
        [after.memory_mib],
        [before.memory_mib],
        reference_name=warm,
        targets=(Target(of="ratio", at_most=1 + MEMORY_SHARE),),
    )


if __name__ == "__main__":
    main()
