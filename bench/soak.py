"""What is left of 1,000 runs: processes, sockets, descriptors, files, connections, memory?

Of three projects, each run writes a file and leaves an image. Counted after a warm-up and at the
end, both times when nothing runs.
"""

from __future__ import annotations

from bench._crowd import Crowd, accelerator_of, stock_of
from bench._measure import Report, Target
from bench._service import service

WARM_UP = {"one": 20, "two": 20, "three": 20}
SIZES = {"one": 500, "two": 300, "three": 200}
MEMORY_SHARE = 0.1


def main() -> None:
    report = Report("soak", __doc__.splitlines()[0])
    with report.running(), service() as running:
        Crowd(running, WARM_UP).run()
        before = stock_of(running)
        crowd = Crowd(running, SIZES)
        ended = crowd.run()
        after = stock_of(running)
        report.accelerator = accelerator_of(running)
        failures = [f"{one.project} {one.number}: {one.failure}" for one in ended if one.failure]
        leaks = after.leaks_over(before, memory_share=MEMORY_SHARE)
        none = (Target(of="ours", at_most=0),)
        report.add("runs that failed", "runs", [len(failures)], targets=none)
        report.add("kinds of things that grew", "kinds", [len(leaks)], targets=none)
        warm = f"after {sum(WARM_UP.values())} runs"
        pairs = {
            "processes": (sum(after.processes.values()), sum(before.processes.values())),
            "sockets": (after.sockets, before.sockets),
            "descriptors": (after.descriptors, before.descriptors),
            "scratch files": (after.scratch_files, before.scratch_files),
            "database connections": (after.connections, before.connections),
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
        report.add("throughput", "runs/s", [len(ended) / crowd.took_s])
        for text in [*failures[:5], *leaks]:
            report.note(text)


if __name__ == "__main__":
    main()
