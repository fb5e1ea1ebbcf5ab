"""`contreed audit key|verify|prove|export|consistency|check|rebuild`: checkpoints and proofs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from contree import bootstrap
from contree.app.proof.signed import SignedCheckpoint
from contree.app.short_ids import IdKind, parse_short_id
from contree.bootstrap import proof as proofs
from contree.bootstrap.proof import Proof
from contree.cli import NOT_CHECKED
from contree.cli.audit_text import proven_lines, verdict_lines, verdict_value
from contree.cli.output import add_json, show_json
from contree.config import Settings
from contree.domain.errors import InvalidFieldError, UnavailableError
from contree.domain.note import VerifierKey

PROGRESS_S = 1.0
SIZE_DIGITS_MAX = 19


def add_commands(
    actions: argparse._SubParsersAction[Any],
    common: argparse.ArgumentParser,
) -> None:
    believed = argparse.ArgumentParser(add_help=False)
    believed.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="VKEY",
        help="a public key to believe, as `audit key` prints it; may be repeated",
    )
    stored = argparse.ArgumentParser(add_help=False, parents=[believed])
    stored.add_argument("--dsn", dest="database_url", metavar="URL", help="as --database-url")
    stored.add_argument(
        "--checkpoints", metavar="DIR", help="where they are: a directory or s3://BUCKET/PREFIX"
    )

    key = actions.add_parser("key", parents=[common], help="print the public key of checkpoints")
    key.set_defaults(command=_key)

    verify = actions.add_parser(
        "verify",
        parents=[common, stored],
        help="check the whole log against chain, tree and checkpoints",
        description="Exit status: 0 all right, 1 not right, 3 not checked: no installation, the "
        "database or the checkpoints are away, or the log is empty.",
    )
    verify.add_argument(
        "--after", type=int, metavar="POSITION", help="begin behind it; default: check everything"
    )
    add_json(verify)
    verify.set_defaults(command=_verify, refused_status=NOT_CHECKED)

    prove = actions.add_parser(
        "prove", parents=[common, stored], help="write what proves one operation to an outsider"
    )
    prove.add_argument("operation", metavar="OPERATION", help="its id, or how it begins")
    prove.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    prove.set_defaults(command=_prove)

    export = actions.add_parser(
        "export", parents=[common, stored], help="write a run of the log with its proof"
    )
    export.add_argument("--after", type=int, default=0, metavar="POSITION", help="default: 0")
    export.add_argument(
        "--until", type=int, metavar="POSITION", help="the last one; default: all that is signed"
    )
    export.add_argument("output", metavar="FILE", help="one JSON document a line")
    export.set_defaults(command=_export)

    _add_consistency(actions, [common, stored])

    check = actions.add_parser(
        "check", parents=[common, believed], help="check what these wrote, offline"
    )
    check.add_argument(
        "bundle", metavar="BUNDLE", help="a file of `audit prove`, `export` or `consistency`"
    )
    check.set_defaults(command=_check)

    rebuild = actions.add_parser(
        "rebuild", parents=[common], help="make the stored tree again from the log"
    )
    rebuild.set_defaults(command=_rebuild)


def _add_consistency(
    actions: argparse._SubParsersAction[Any], parents: Sequence[argparse.ArgumentParser]
) -> None:
    consistency = actions.add_parser(
        "consistency",
        parents=parents,
        help="write what proves that the log goes on from an earlier checkpoint of it",
    )
    consistency.add_argument(
        "--from",
        dest="from_",
        required=True,
        metavar="SIZE|FILE",
        help="the earlier one: how many events a stored one covers, or a copy of one",
    )
    consistency.add_argument("--to", metavar="SIZE|FILE", help="default: the newest, as in prove")
    consistency.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    consistency.set_defaults(command=_consistency)


@asynccontextmanager
async def _proof(settings: Settings) -> AsyncIterator[Proof]:
    """What proving needs, beside a running server or without one; migrates nothing that runs."""
    await bootstrap.require_installation(settings)
    try:
        urls = bootstrap.running_database(settings)
    except UnavailableError:
        async with (
            bootstrap.installed_database(settings) as started,
            proofs.proof_of(settings, started.app) as proof,
        ):
            yield proof
        return
    async with proofs.proof_of(settings, urls.app) as proof:
        yield proof


async def _key(settings: Settings, _: argparse.Namespace) -> None:
    if not proofs.key_path(settings).exists():
        await bootstrap.require_installation(settings)
    sys.stdout.write(f"{proofs.note_signer(settings, make=False).key}\n")


async def _verify(settings: Settings, arguments: argparse.Namespace) -> int:
    keys = _believed(settings, arguments)
    async with _proof(settings) as proof:
        verdict = await proof.verify(keys).run(after=arguments.after, progress=_Progress())
    if arguments.json:
        show_json(verdict_value(verdict))
    else:
        sys.stdout.write("\n".join(verdict_lines(verdict)) + "\n")
    if verdict.is_of_nothing:
        return NOT_CHECKED
    return 1 if verdict.findings else 0


async def _prove(settings: Settings, arguments: argparse.Namespace) -> None:
    typed = parse_short_id(arguments.operation, field="OPERATION")
    async with _proof(settings) as proof:
        operation_id = await typed.whole(IdKind.OPERATION, proof.known_ids)
        newest = await proof.newest(_believed(settings, arguments))
        bundle = await proof.prove(newest).operation(operation_id)
    _write(bundle.encoded(), arguments.output)


async def _export(settings: Settings, arguments: argparse.Namespace) -> None:
    progress, count = _Progress(), -1
    async with _proof(settings) as proof:
        newest = await proof.newest(_believed(settings, arguments))
        lines = proof.export(newest).lines(after=arguments.after, until=arguments.until)
        with _whole_file(Path(arguments.output)) as file:
            async for piece in lines:
                file.write(piece)
                count += piece.count(b"\n")
                progress(count, None)
    sys.stdout.write(f"{count} events in '{arguments.output}'\n")


async def _consistency(settings: Settings, arguments: argparse.Namespace) -> None:
    keys = _believed(settings, arguments)
    async with _proof(settings) as proof:
        older = await _checkpoint(proof, arguments.from_, keys, field="from")
        if arguments.to is None:
            newer = await proof.newest(keys)
        else:
            newer = await _checkpoint(proof, arguments.to, keys, field="to")
        proven = await proof.consistency(older, newer)
    _write(proven.encoded(), arguments.output)


async def _checkpoint(
    proof: Proof, text: str, keys: Sequence[VerifierKey], *, field: str
) -> SignedCheckpoint:
    if text.isascii() and text.isdecimal() and len(text) <= SIZE_DIGITS_MAX:
        return await proof.over(int(text), keys, field=field)
    return proofs.checkpoint_in(Path(text), keys, field=field)


async def _check(_: Settings, arguments: argparse.Namespace) -> None:
    keys = [VerifierKey.parse(text) for text in arguments.key]
    proven = proofs.check_file(Path(arguments.bundle), keys)
    sys.stdout.write("\n".join(proven_lines(proven)) + "\n")


async def _rebuild(settings: Settings, _: argparse.Namespace) -> None:
    async with bootstrap.installed_database(settings) as database:
        await proofs.forget_tree(database.owner)
        async with proofs.proof_of(settings, database.app) as proof:
            size = await proof.grow()
    sys.stdout.write(f"made the tree over {size} events again\n")


def _believed(settings: Settings, arguments: argparse.Namespace) -> list[VerifierKey]:
    """The keys that were given; without any, this deployment's, if it has made one yet."""
    if not arguments.key and not proofs.key_path(settings).exists():
        return []
    return proofs.verifier_keys(settings, arguments.key)


class _Progress:
    """Says on standard error how far it is, about once a second."""

    def __init__(self) -> None:
        self._began = self._said_at = time.monotonic()

    def __call__(self, count: int, position: int | None = None) -> None:
        now = time.monotonic()
        if now - self._said_at < PROGRESS_S:
            return
        self._said_at = now
        where = "" if position is None else f", position {position}"
        rate = count / (now - self._began)
        sys.stderr.write(f"{count} events{where}, {rate:.0f}/s\n")


def _write(data: bytes, output: str | None) -> None:
    """To a file, else to standard output."""
    if output is None:
        sys.stdout.buffer.write(data)
        return
    with _whole_file(Path(output)) as file:
        file.write(data)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole. Raises InvalidFieldError."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise InvalidFieldError("FILE", f"cannot write '{path}': {error}") from error
    finally:
        part.unlink(missing_ok=True)
