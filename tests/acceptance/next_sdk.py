"""What the contree-sdk to come does against a server: a program for the Python of .venv-next.

    next_sdk.py URL TOKEN IMAGE         IMAGE as an import names it, docker://HOST/REPOSITORY:TAG

It prints one JSON object: what each part saw, by the part's name. `test_next_clients.py` runs it
and says what is right; a part that fails ends it with a traceback.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from contree_client.http import ContreeClient
from contree_sdk import Contree, ContreeSync
from contree_sdk.auth import IAMAuth, JWTAuth
from contree_sdk.config import ContreeConfig
from contree_sdk.sdk.exceptions import (
    ContreeError,
    FailedOperationError,
    NotFoundError,
    OperationTimedOutError,
)
from contree_sdk.utils.models.file import UploadFileSpec

BRANCH = "mkdir -p /work; echo base >/work/log"
SYNC_TRANSPORTS = ("http", "httpx", "requests", "urllib3")
ASYNC_TRANSPORTS = ("aiohttp", "httpx", "http")


class Parts:
    """Each method is a part; what it returns is what it saw."""

    def __init__(self, url: str, token: str, image: str) -> None:
        self.url = url
        self.token = token
        self.image = image
        self.contree = ContreeSync(self.config())
        self.base = self.contree.images.import_from(image, tag="next:latest")

    def config(self, **options: Any) -> ContreeConfig:
        return ContreeConfig(auth=JWTAuth(token=self.token, base_url=self.url), **options)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("contree-sdk", "contree-client", "contree-mcp")}

    def images(self) -> dict[str, Any]:
        images = self.contree.images
        again = images.oci(self.image, tag="next:latest")
        made = self.base.run(shell="echo x >/x", disposable=False, tag="next/x:1").wait()
        found = images.use("next/x:1", strict=True)
        listed = {image.tag: image.uuid for image in images(tagged=True)}
        made.untag()
        return {
            "same": [again.uuid == self.base.uuid, found.uuid == made.uuid],
            "listed": listed == {"next:latest": self.base.uuid, "next/x:1": made.uuid},
            "first": len(images(number=1)),
            "gone": self.refusal(lambda: images.use("next/x:1", strict=True), NotFoundError),
            "may spawn": self.contree.get_token_info().permissions["spawn"],
        }

    def a_run(self) -> dict[str, Any]:
        ran = self.base.run(
            shell="cat; echo err >&2; echo $COLOUR; pwd; hostname; exit 3",
            stdin="grüße\n",
            env={"COLOUR": "blue"},
            cwd="/new/place",
            hostname="box",
        ).wait()
        binary = self.base.run("cat", stdin=bytes(range(256)), stdout=bytes).wait()
        return {
            "stdout": ran.stdout,
            "stderr": ran.stderr,
            "exit_code": ran.exit_code,
            "uuid": ran.uuid,
            "took": ran.elapsed.total_seconds() > 0,
            "cost": ran.result.cost,
            "bytes": binary.stdout == bytes(range(256)),
        }

    def output_as_it_comes(self) -> list[list[str]]:
        ran = self.base.run(shell="echo one; sleep 1; echo two >&2; exit 4")
        return [[chunk.stream_name, chunk.value.decode()] for chunk in ran]

    def branches(self) -> dict[str, Any]:
        trunk = self.base.run(shell=BRANCH, disposable=False).wait()
        left = trunk.run(shell="echo left >>/work/log", disposable=False, tag="next:left").wait()
        right = trunk.run(shell="rm /work/log", disposable=False).wait()
        back = trunk.run(shell="cat /work/log", disposable=False).wait()
        return {
            "left": left.read("/work/log").decode(),
            "left tag": self.contree.images.use("next:left", strict=True).uuid == left.uuid,
            "right": [entry.name for entry in right.ls("/work")],
            "back": back.stdout,
            "unchanged": back.uuid == trunk.uuid,
        }

    def a_session(self) -> dict[str, Any]:
        session = self.base.session()
        session.run(shell="mkdir /work; echo 1 >>/work/log", disposable=False).wait()
        first = session.uuid
        session.run(shell="echo 2 >>/work/log; exit 7", disposable=False).wait()
        return {
            "exit_code": session.exit_code,
            "log": session.read("/work/log").decode(),
            "moved": len({self.base.uuid, first, session.uuid}),
        }

    def popen(self) -> dict[str, Any]:
        process = self.base.session().popen(["sh", "-c", "cat; exit 4"], text=True)
        said = process.communicate(input="fed")
        waited = self.base.popen("echo $A; exit 5", shell=True, env={"A": "b"}, check=True)
        try:
            waited.wait()
        except CalledProcessError as error:
            return {
                "said": said,
                "code": process.returncode,
                "check": [error.returncode, error.output.decode()],
            }
        raise AssertionError("check=True let an exit code of 5 pass")

    def files(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            script = Path(directory, "script")
            script.write_text("#!/bin/sh\necho from a file\n")
            uploaded = self.contree.files.upload(script)
            ran = self.base.run(
                shell="/opt/script; stat -c '%n %a %u:%g %s' /opt/*",
                files={
                    "/opt/script": UploadFileSpec(source=script, mode=0o755),
                    "/opt/again": uploaded,
                    "/opt/owned": UploadFileSpec(source=b"\0\xff", uid=5, gid=6, mode=0o640),
                },
                disposable=False,
            ).wait()
            applied = self.base.apply_files(files={"/etc/motd": b"welcome\n"})
            local = ran.download("/opt/owned", Path(directory, "owned"))
            found = ran.grep("from a", path="/opt", glob="script")
            return {
                "stdout": ran.stdout,
                "applied": applied.read("/etc/motd").decode(),
                "downloaded": list(local.read_bytes()),
                "entry": [[e.name, e.size, e.mode] for e in ran.ls("/opt") if e.name == "owned"],
                "grep": [[m.path, m.line_number] for m in found.matches],
                "absent": self.refusal(lambda: ran.read("/no/such"), NotFoundError),
            }

    def ends(self) -> dict[str, Any]:
        late = self.base.run(shell="sleep 600", timeout=1)
        cut = self.base.run(shell="yes | head -c 90000", truncate_output_at=1000).wait()
        return {
            "absent": self.refusal(self.base.run("no-such-program").wait, FailedOperationError),
            "late": self.refusal(late.wait, OperationTimedOutError),
            "refused": self.refusal(self.base.run("true", cwd="relative").wait, ContreeError),
            "cut": [
                len(cut.stdout),
                cut.result.truncated["stdout"].bytes_emitted,
                cut.result.truncated["stdout"].bytes_dropped,
            ],
            "import": self.refusal(
                lambda: self.contree.images.import_from(self.image.replace("library", "no")),
                FailedOperationError,
            ),
        }

    def sign_in(self) -> dict[str, Any]:
        def images(auth: Any) -> Any:
            return ContreeSync(ContreeConfig(auth=auth)).images(number=1)

        named = IAMAuth(token=self.token, project_id="next-clients", base_url=self.url)
        other = IAMAuth(token=self.token, project_id="somebody-elses", base_url=self.url)
        return {
            "iam": len(images(named)),
            "another project": self.refusal(lambda: images(other), ContreeError),
            "another token": self.refusal(
                lambda: images(JWTAuth(token="wrong", base_url=self.url)), ContreeError
            ),
        }

    def transports(self) -> dict[str, Any]:
        """A run that is followed to its end, on each."""
        seen: dict[str, Any] = {}
        for name in SYNC_TRANSPORTS:
            with ContreeSync(self.config(transport=name)) as contree:
                ran = contree.images.use(self.base.uuid).run("echo", args=[name]).wait()
                seen[f"{name}, synchronous"] = ran.stdout
        for name in ASYNC_TRANSPORTS:
            seen[f"{name}, asynchronous"] = asyncio.run(self._echo(name))
        return seen

    async def _echo(self, transport: str) -> str:
        async with Contree(self.config(transport=transport)) as contree:
            image = contree.images.use(self.base.uuid)
            return str((await (await image).run("echo", args=[transport])).stdout)

    def asynchronous(self) -> dict[str, Any]:
        return asyncio.run(self._asynchronous())

    async def _asynchronous(self) -> dict[str, Any]:
        async with Contree(self.config()) as contree:
            image = await contree.images.oci(self.image, tag="next:latest")
            session = image.session()
            await session.run(shell="echo async >/a", disposable=False)
            both = await asyncio.gather(
                *(image.run(shell=f"echo {n}; sleep 1; echo {n}")._await() for n in range(2))
            )
            chunks = [chunk.value.decode() async for chunk in session.run("cat", args=["/a"])]
            applied = await image.apply_files(files={"/etc/motd": b"welcome\n"})
            return {
                "session": chunks,
                "beside": [ran.stdout for ran in both],
                "applied": (await applied.read("/etc/motd")).decode(),
                "listed": image.uuid in {i.uuid for i in await contree.images()},
            }

    def live(self) -> dict[str, Any]:
        """contree-client 0.2, which this SDK brings, and a run that is spoken to while it lasts."""
        with ContreeClient(self.token, base_url=self.url) as client:
            uuid = client.spawn_instance(
                "while read l; do echo got $l; done; exit 6",
                str(self.base.uuid),
                shell=True,
                stdin={"value": "", "encoding": "ascii", "close": False},
            ).uuid
            said: dict[int, str] = {}
            ids = []
            for event in client.iter_operation_events(uuid, follow=True, since=-1):
                ids.append(event.id)
                if event.type == "spawn" and event.spid == 1:
                    client.operation_subprocess_create(uuid, "uname")
                    client.operation_subprocess_stdin(uuid, 1, "one\ntwo\n", close=True)
                elif event.type == "stdout":
                    said[event.spid] = said.get(event.spid, "") + event.data.value
            rest = [e.id for e in client.iter_operation_events(uuid, last_event_id=ids[2])]
            status = client.get_operation_status(uuid)
            return {
                "said": said,
                "ids": ids == list(range(len(ids))),
                "resumed": rest == ids[3:],
                "exit_code": status.metadata.result.state.exit_code,
            }

    def refusal(self, act: Any, kind: type[Exception]) -> str:
        try:
            act()
        except kind as error:
            return str(error)
        raise AssertionError(f"no {kind.__name__}")


PARTS = (
    *("versions", "images", "a_run", "output_as_it_comes", "branches", "a_session", "popen"),
    *("files", "ends", "sign_in", "transports", "asynchronous", "live"),
)


def main() -> None:
    url, token, image, *only = sys.argv[1:]
    parts = Parts(url, token, image)
    seen = {name: getattr(parts, name)() for name in only or PARTS}
    json.dump(seen, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
