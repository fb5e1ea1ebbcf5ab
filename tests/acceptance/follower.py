"""A follower of events that is hung up on again and again, and what it must have seen."""

from __future__ import annotations

from typing import Any, Self

import httpx


class Follower:
    """Follows an operation over as many connections as it takes, each hung up on early.

    The events in order are in `seen`, the command's output in `text`.
    """

    def __init__(self, uuid: str, token: str) -> None:
        self.path = f"/v1/operations/{uuid}/events?follow=1"
        self.headers = {"Authorization": f"Bearer {token}"}
        self.seen: list[dict[str, Any]] = []
        self.connections = 0
        self.http = httpx.Client(timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def text(self) -> str:
        return "".join(e["data"]["value"] for e in self.seen if e["type"] == "stdout")

    @property
    def ended(self) -> bool:
        return bool(self.seen) and self.seen[-1]["type"] == "completion"

    def read(self, url: str, *, events_max: int = 2**31, until: str = "") -> None:
        """Take events from the server at `url`, resuming where it was: up to so many, or until one
        of the type has come, or to the end of the stream.
        """
        self.connections += 1
        taken = 0
        if self.seen:
            self.headers["Last-Event-Id"] = str(self.seen[-1]["id"])
        with self.http.stream("GET", url + self.path, headers=self.headers) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    self.seen.append(httpx.Response(200, content=line[6:]).json())
                    taken += 1
                if taken == events_max or (taken and self.seen[-1]["type"] == until):
                    return

    def want_everything_once(self) -> None:
        numbers = [event["id"] for event in self.seen]
        assert numbers == list(range(len(numbers)))


COUNTING = (
    "exec 3<&0; (cat <&3; touch /stop)& "
    "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); usleep 1; done"
)
"""Counts until its standard input ends."""


def want_counted(follower: Follower) -> None:
    lines = follower.text.splitlines()
    assert lines == [str(n) for n in range(len(lines))]
    follower.want_everything_once()
    assert follower.ended
