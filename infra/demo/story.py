"""The demo's story, told with the published SDK: one checkpoint, three fixes, one winner."""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from contree_sdk import Contree
from contree_sdk.auth import JWTAuth
from contree_sdk.config import ContreeConfig

from infra.demo.tree import Step, draw

PROJECT = Path(__file__).parent / "project"
WORKDIR = "/srv/bill"
TEST_COMMAND = (
    "python3 -m unittest -v >test-report.txt 2>&1; code=$?; cat test-report.txt; exit $code"
)
Say = Callable[[str], None]


class StoryError(Exception):
    """The story did not go as it must; the text says where."""


class Story:
    """Tells the story against one server. `image_url` is what is imported."""

    def __init__(self, *, base_url: str, token: str, image_url: str, say: Say) -> None:
        self._image_url = image_url
        self._say = say
        self._labels: dict[str, str] = {}
        # Polling more often than the SDK does by itself: a demo shows times.
        self._contree = Contree(
            ContreeConfig(
                auth=JWTAuth(token=token, base_url=base_url),
                operation_poll_secs_max=0.25,
            )
        )
        self._api = httpx.AsyncClient(
            base_url=f"{base_url}/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    async def tell(self) -> None:
        """Go through all chapters. Raises StoryError, and whatever the SDK raises."""
        async with self._api:
            base = await self._import()
            checkpoint = await self._make_checkpoint(base)
            branches = await self._try_fixes(checkpoint)
            winner = await self._pick(branches)
            await self._roll_back(checkpoint)
            await self._draw_tree()
            loser = next(image for image in branches.values() if image.exit_code != 0)
            await self._look_inside(winner, loser)

    async def _import(self) -> Any:
        self._say(f"\n1. Import {self._image_url}")
        with self._timed("imported"):
            image = await self._waiting(
                self._contree.images.import_from(self._image_url, tag="debian/python:base")
            )
        version = await image.run("python3", args=["--version"])
        self._say(f"   inside it: {version.stdout.strip()}  ({_clock(version)})")
        return image

    async def _make_checkpoint(self, base: Any) -> Any:
        self._say("\n2. Upload a package with a failing test, and keep that as a checkpoint")
        files = {f"{WORKDIR}/{name}": PROJECT / name for name in ("bill.py", "test_bill.py")}
        with self._timed("checkpoint made"):
            checkpoint = await base.run(
                shell="python3 -m compileall -q .",
                cwd=WORKDIR,
                files=files,
                disposable=False,
                tag="bill:checkpoint",
            )
        failing = await checkpoint.run(shell=TEST_COMMAND, cwd=WORKDIR)
        if failing.exit_code == 0:
            raise StoryError("the test must fail before it is mended")
        self._say(f"   the test fails as it should, exit code {failing.exit_code}:")
        self._quote(_last_words(failing.stdout))
        return checkpoint

    async def _try_fixes(self, checkpoint: Any) -> dict[str, Any]:
        fixes = sorted(path.stem for path in (PROJECT / "fixes").glob("*.py"))
        self._say(f"\n3. Try {len(fixes)} fixes at once, each on a branch of the checkpoint")

        async def attempt(name: str) -> Any:
            return await checkpoint.run(
                shell=TEST_COMMAND,
                cwd=WORKDIR,
                files={f"{WORKDIR}/bill.py": PROJECT / "fixes" / f"{name}.py"},
                disposable=False,
            )

        with self._timed(f"{len(fixes)} branches"):
            images = await self._waiting(asyncio.gather(*map(attempt, fixes)))
        branches = dict(zip(fixes, images, strict=True))
        for name, image in branches.items():
            self._labels[str(image.uuid)] = name
            verdict = "passes" if image.exit_code == 0 else "fails "
            self._say(f"   {verdict}  {name:23} {_last_words(image.stdout)[0]}  ({_clock(image)})")
        return branches

    async def _pick(self, branches: dict[str, Any]) -> Any:
        winners = [name for name, image in branches.items() if image.exit_code == 0]
        if len(winners) != 1:
            raise StoryError(f"one fix must pass, not {winners}")
        self._say(f"\n4. Tag the winner, {winners[0]}, as bill:fixed")
        return await branches[winners[0]].tag_as("bill:fixed")

    async def _roll_back(self, checkpoint: Any) -> None:
        again = await checkpoint.run(shell=TEST_COMMAND, cwd=WORKDIR)
        if again.exit_code == 0:
            raise StoryError("the checkpoint changed")
        self._say("\n5. Roll back: the checkpoint is as it was, its test still fails")

    async def _draw_tree(self) -> None:
        self._say("\n6. What the server's log says happened")
        for line in draw(await self._steps()):
            self._say("   " + line)

    async def _look_inside(self, winner: Any, loser: Any) -> None:
        self._say("\n7. Look into the winner, and compare with a loser, without any VM")
        operations_before = len(await self._operations())
        with self._timed("listed and read"):
            for entry in await winner.ls(WORKDIR):
                self._say(f"   {entry.size:>7}  {entry.owner}  {WORKDIR}/{entry.name}")
            report = (await winner.read(f"{WORKDIR}/test-report.txt")).decode()
            mine, other = [
                (await image.read(f"{WORKDIR}/bill.py")).decode().splitlines()
                for image in (winner, loser)
            ]
        self._say("   its test report ends:")
        self._quote(_last_words(report))
        self._say("   what differs from the loser:")
        self._quote(list(difflib.unified_diff(other, mine, "loser", "winner", "", "", 0, "")))
        if len(await self._operations()) != operations_before:
            raise StoryError("reading files must not start operations")

    async def _operations(self) -> list[dict[str, Any]]:
        answer = await self._api.get("/operations", params={"limit": 1000})
        answer.raise_for_status()
        operations: list[dict[str, Any]] = answer.json()
        return operations

    async def _steps(self) -> Sequence[Step]:
        """Every operation, oldest first, in the words of the API."""
        answer = await self._api.get("/images", params={"tagged": 1, "limit": 1000})
        answer.raise_for_status()
        tags = {row["uuid"]: row["tag"] for row in answer.json()["images"]}
        steps = []
        for summary in sorted(await self._operations(), key=lambda row: row["created_at"]):
            answer = await self._api.get(f"/operations/{summary['uuid']}")
            answer.raise_for_status()
            steps.append(self._step(answer.json(), tags))
        return steps

    def _step(self, operation: dict[str, Any], tags: dict[str, str]) -> Step:
        metadata, result = operation["metadata"], operation["result_image_uuid"]
        if operation["kind"] == "image_import":
            what, outcome = f"import {metadata['registry']['url']}", ""
        else:
            command = " ".join([metadata["command"], *metadata["args"]])
            what = self._labels.get(result) or f"$ {_shortened(command)}"
            outcome = f"exit {metadata['result']['state']['exit_code']}"
        return Step(
            operation=operation["uuid"],
            what=what,
            status=operation["status"],
            source=operation["image_uuid"],
            result=result,
            duration_s=operation["duration"],
            image_bytes=operation["image_size"] or 0,
            outcome=outcome,
            tag=tags.get(result),
        )

    async def _waiting(self, work: Any) -> Any:
        """Show that something is going on while it takes long."""
        task = asyncio.ensure_future(work)
        started = time.monotonic()
        while not (await asyncio.wait({task}, timeout=5))[0]:
            self._say(f"   … {time.monotonic() - started:.0f} s")
        return await task

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._say(f"   {what} in {time.monotonic() - started:.2f} s")

    def _quote(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._say(f"   | {line}")


def _last_words(text: str) -> list[str]:
    """The line that says why, when there is one, and the verdict."""
    lines = [line for line in text.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("AssertionError")]
    return [*reasons[:1], *lines[-1:]]


def _shortened(command: str, width: int = 48) -> str:
    return command if len(command) <= width else command[: width - 1] + "…"


def _clock(image: Any) -> str:
    return f"{image.elapsed.total_seconds():.2f} s in the guest"
