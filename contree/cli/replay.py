"""`contreed replay`: run recorded commands again on the server that is running, and compare."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from contree import bootstrap
from contree.app.access import Operator
from contree.app.short_ids import IdKind, parse_short_id
from contree.cli import NOT_CHECKED
from contree.cli.output import add_json, show_json
from contree.config import Settings
from contree.domain.errors import InvalidFieldError, NotFoundError
from contree.domain.image import Image
from contree.domain.operation import Operation
from contree.domain.replay_report import (
    Ended,
    FileDifference,
    FilesystemComparison,
    ReplayReport,
    Resources,
    StreamComparison,
    Verdict,
)
from contree.domain.text_difference import Cause, TextDifference
from contree.http.execution.replay_value import report_value

FILES_SHOWN = 20
EXCERPT_CHARS = 60


def add_commands(
    commands: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    replay = commands.add_parser(
        "replay",
        parents=[common],
        description="Exit status: 0 equal or explained, 1 different, 3 could not be replayed. "
        "The server must be running.",
    )
    replay.add_argument("operation", nargs="?", metavar="OPERATION", help="the run to repeat")
    replay.add_argument("--from", dest="from_image", metavar="IMAGE", help="or all runs from here")
    replay.add_argument("--to", dest="to_image", metavar="IMAGE", help="to here")
    replay.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the secret value that a variable had; it is checked against the recorded digest",
    )
    add_json(replay, what="one JSON document a line")
    replay.set_defaults(command=_replay, refused_status=NOT_CHECKED)


async def _replay(settings: Settings, arguments: argparse.Namespace) -> int:
    wanted = (arguments.operation, arguments.from_image, arguments.to_image)
    if [value is not None for value in wanted] not in ([True, False, False], [False, True, True]):
        raise InvalidFieldError("OPERATION", "give one, or both --from IMAGE and --to IMAGE")
    worst = Verdict.EQUAL
    await bootstrap.require_installation(settings)
    database = bootstrap.running_database(settings)
    async with bootstrap.core(settings, database) as core:
        chain = bootstrap.replay_chain(core)
        if arguments.operation is not None:
            typed = parse_short_id(arguments.operation, field="OPERATION")
            original_id = await typed.whole(IdKind.OPERATION, core.known_ids)
            original = await core.log.load(Operation, original_id)
            if original is None:
                raise NotFoundError("operation", original_id)
            operator = Operator(project_id=original.project_id, request_id=str(core.ids.new_id()))
            report = await chain.one(operator, original_id, secrets=_secrets(arguments.env))
            _show(report, as_json=arguments.json)
            return int(report.verdict is Verdict.DIFFERENT)
        from_image, to_image = [
            await parse_short_id(text, field=name).whole(IdKind.IMAGE, core.known_ids)
            for name, text in (("--from", arguments.from_image), ("--to", arguments.to_image))
        ]
        image = await core.log.load(Image, to_image)
        if image is None:
            raise NotFoundError("image", to_image)
        operator = Operator(project_id=image.project_id, request_id=str(core.ids.new_id()))
        async for report in chain.chain(operator, from_image=from_image, to_image=to_image):
            _show(report, as_json=arguments.json)
            worst = max(worst, report.verdict, key=list(Verdict).index)
    return int(worst is Verdict.DIFFERENT)


def _secrets(pairs: Sequence[str]) -> dict[str, str]:
    secrets = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InvalidFieldError("--env", f"'{pair}' is not NAME=VALUE")
        secrets[name] = value
    return secrets


def _show(report: ReplayReport, *, as_json: bool) -> None:
    if as_json:
        show_json(report_value(report))
    else:
        sys.stdout.write("\n".join(lines_of(report)) + "\n")
        sys.stdout.flush()


def lines_of(report: ReplayReport) -> Iterator[str]:
    """Yield the report for a person's eyes, the verdict last."""
    yield f"replay {report.replay_id} of {report.original_id}"
    yield f"  end         {_ended(*report.ended)}"
    yield f"  stdout      {_stream(report.stdout)}"
    yield f"  stderr      {_stream(report.stderr)}"
    yield f"  filesystem  {_filesystem(report.filesystem)}"
    for one in report.filesystem.differences[:FILES_SHOWN]:
        yield f"    {_file(one)}"
    if len(report.filesystem.differences) > FILES_SHOWN:
        yield f"    … and {len(report.filesystem.differences) - FILES_SHOWN} more, see --json"
    yield f"  resources   {_used(report.resources[0])} | {_used(report.resources[1])}"
    for said in report.not_replayed:
        yield f"  not replayed: {said}"
    causes = f" ({_causes(report.causes)})" if report.differing else ""
    yield f"{report.verdict.value}{causes}"


def _ended(original: Ended, replay: Ended) -> str:
    if original == replay:
        return f"equal: {_end(original)}"
    return f"{_end(original)} | {_end(replay)}"


def _end(ended: Ended) -> str:
    if ended.exit_code is None:
        return f"{ended.status} {_quoted(ended.error or '')}"
    if ended.timed_out:
        return "timed out"
    said = f"exit {ended.exit_code}" if ended.signal == -1 else f"signal {ended.signal}"
    return f"{said}, out of memory" if ended.oom_killed else said


def _stream(comparison: StreamComparison) -> str:
    if comparison.is_equal:
        side = comparison.original
        return "equal" if side is None else f"equal: {side.size_bytes} bytes"
    return f"{_causes(comparison.causes)}: {_difference(comparison.first_difference)}"


def _difference(found: TextDifference | None) -> str:
    if found is None:
        return "not shown, the bytes are not kept"
    sides = (_quoted(side.decode("utf-8", "replace")) for side in (found.original, found.replay))
    return f"line {found.line}: " + " | ".join(sides)


def _filesystem(found: FilesystemComparison) -> str:
    if found.not_compared is not None:
        return f"not compared: {found.not_compared}"
    if found.is_equal:
        return f"equal: {found.equal_count} entries"
    more = " or more" if found.truncated else ""
    return (
        f"{_causes(found.causes)}: {found.equal_count} entries are equal, "
        f"{len(found.differences)}{more} differ"
    )


def _file(one: FileDifference) -> str:
    line = f"{_quoted(one.path)[1:-1]}: {', '.join(one.fields)} ({_causes(one.causes)})"
    return line if one.first_difference is None else f"{line} {_difference(one.first_difference)}"


def _used(used: Resources) -> str:
    seconds = f"{used.duration_us / 1e6:.3f} s"
    if used.usage is None:
        return seconds
    cpu_s = (used.usage.user_time_us + used.usage.sys_time_us) / 1e6
    return f"{seconds}, {cpu_s:.3f} s CPU, {used.usage.max_rss_kb / 1024:.1f} MiB"


def _causes(causes: frozenset[Cause]) -> str:
    return ", ".join(sorted(cause.value for cause in causes))


def _quoted(text: str) -> str:
    """Nothing that a guest wrote reaches the terminal as it is."""
    shown = text if len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1] + "…"
    return repr(shown)
