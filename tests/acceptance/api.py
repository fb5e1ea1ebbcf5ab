"""The wire API as a plain HTTP client sees it: no published client between test and bytes."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any

import httpx

WAIT_S = 300.0
TERMINAL = {"SUCCESS", "FAILED", "CANCELLED"}
Json = dict[str, Any]
HELD: Json = {"stdin": {"value": "", "close": False}}
"""Of a run whose command waits, by `read held`, until the test lets it go."""


class Api:
    """One token's view of one server. `close` it."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.http = httpx.Client(
            base_url=f"{url}/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
            follow_redirects=False,
        )

    def close(self) -> None:
        self.http.close()

    def get(self, url: str, **params: Any) -> Any:
        """Return the JSON of a 200."""
        answer = self.http.get(url, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, method: str, path: str, **options: Any) -> Json:
        """Return the error body of a request that must be refused, its shape checked."""
        answer = self.http.request(method, path, **options)
        body: Json = answer.json()
        assert 400 <= answer.status_code < 500, answer.text
        assert body["status"] == answer.status_code
        assert body["error"]
        return body

    def upload(self, content: bytes) -> str:
        answer = self.http.post("/files", content=content)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["uuid"])

    def request_import(self, url: str, **fields: Any) -> str:
        credentials = fields.pop("credentials", None)
        registry = {"url": url} | ({"credentials": credentials} if credentials else {})
        answer = self.http.post("/images/import", json={"registry": registry, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["uuid"])

    def import_image(self, url: str, **fields: Any) -> str:
        """Return the UUID of the imported image."""
        operation = self.wait(self.request_import(url, **fields))
        assert operation["status"] == "SUCCESS", operation["error"]
        return str(operation["result_image_uuid"])

    def spawn(self, image: str, command: str, **fields: Any) -> str:
        """Return the operation's UUID; shell mode unless `shell` or `args` says otherwise."""
        body = {"image": image, "command": command, "shell": "args" not in fields, **fields}
        answer = self.http.post("/instances", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["uuid"])

    def operation(self, uuid: str) -> Json:
        value: Json = self.get(f"/operations/{uuid}")
        return value

    def wait(self, uuid: str, *, within_s: float = WAIT_S) -> Json:
        """Return the operation once it is terminal."""
        return self.wait_for(uuid, TERMINAL, within_s=within_s)

    def wait_for(self, uuid: str, statuses: set[str], *, within_s: float = WAIT_S) -> Json:
        """Return the operation once it has one of `statuses`, or is terminal."""
        deadline = time.monotonic() + within_s
        while (operation := self.operation(uuid))["status"] not in statuses | TERMINAL:
            assert time.monotonic() < deadline, f"still {operation['status']}: {operation}"
            time.sleep(0.05)
        return operation

    def let_go(self, uuid: str) -> None:
        """Close the command's standard input, as soon as there is a guest that takes it."""
        deadline = time.monotonic() + WAIT_S
        path = f"/operations/{uuid}/subprocesses/1/stdin"
        while (answer := self.http.post(path, json={"value": ""})).status_code != 204:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)

    def run(self, image: str, command: str, *, status: str = "SUCCESS", **fields: Any) -> Ran:
        """Run, wait, want `status`."""
        operation = self.wait(self.spawn(image, command, **fields))
        assert operation["status"] == status, operation
        return Ran(operation=operation)

    def run_all(
        self, image: str, orders: dict[str, Json], *, status: str = "SUCCESS", **fields: Any
    ) -> dict[str, Ran]:
        """Run several at once, each order with its `command`; want `status` of all."""
        spawned = {name: self.spawn(image, **order, **fields) for name, order in orders.items()}
        ended = {name: self.wait(uuid) for name, uuid in spawned.items()}
        assert {operation["status"] for operation in ended.values()} == {status}, ended
        return {name: Ran(operation=operation) for name, operation in ended.items()}

    def cancel(self, uuid: str) -> int:
        return self.http.delete(f"/operations/{uuid}").status_code

    def listing(self, image: str, path: str) -> dict[str, Json]:
        """Return the entries of a directory of an image, by name."""
        files = self.get(f"/inspect/{image}/list", path=path)["files"]
        return {entry["path"]: entry for entry in files}

    def download(self, image: str, path: str) -> bytes:
        answer = self.http.get(f"/inspect/{image}/download", params={"path": path})
        assert answer.status_code == 200, answer.text
        return answer.content

    def events(self, uuid: str) -> list[Json]:
        """Return the payloads of the operation's event stream as it is now."""
        answer = self.http.get(f"/operations/{uuid}/events")
        assert answer.status_code == 200, answer.text
        lines = answer.text.splitlines()
        return [httpx.Response(200, content=x[6:]).json() for x in lines if x.startswith("data: ")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """An ended run, as GET /operations/{uuid} shows it."""

    operation: Json

    @property
    def uuid(self) -> str:
        return str(self.operation["uuid"])

    @property
    def image(self) -> str:
        return str(self.operation["result_image_uuid"])

    @property
    def error(self) -> str:
        return str(self.operation["error"])

    @property
    def state(self) -> Json:
        state: Json = self.operation["metadata"]["result"]["state"]
        return state

    @property
    def stdout(self) -> bytes:
        return _bytes_of(self.operation["metadata"]["result"]["stdout"])

    @property
    def stderr(self) -> bytes:
        return _bytes_of(self.operation["metadata"]["result"]["stderr"])

    @property
    def lines(self) -> list[str]:
        return self.stdout.decode().splitlines()

    def want_exit(self, code: int = 0) -> Ran:
        assert self.state["exit_code"] == code, (self.state, self.stdout, self.stderr)
        return self


def _bytes_of(stream: Json) -> bytes:
    if stream["encoding"] == "base64":
        return base64.b64decode(stream["value"])
    return str(stream["value"]).encode("ascii")
