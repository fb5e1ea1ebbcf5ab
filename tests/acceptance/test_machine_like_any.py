"""What programs take for granted of a machine: memory that ends, localhost, a home."""

from __future__ import annotations

from tests.acceptance.api import Api, Ran

HOG = "dd if=/dev/zero of=/dev/null bs=440M count=1"  # of 512 MiB; 64 are not for commands


def exit_event(api: Api, ran: Ran, spid: int = 1) -> dict[str, object]:
    (event,) = [e for e in api.events(ran.uuid) if e["type"] == "exit" and e["spid"] == spid]
    data: dict[str, object] = event["data"]
    return data


def test_a_command_that_memory_runs_out_for_ends_at_once_and_says_why(
    api: Api, busybox: str
) -> None:
    orders = {
        "main": {"command": f"echo said; echo kept >/kept; exec {HOG}"},
        "child": {"command": f"{HOG}; echo $? >/kept"},
        "other": {"command": "kill -9 $$"},
    }
    ran = api.run_all(busybox, orders, timeout=300)
    ends = {
        name: tuple(one.state[field] for field in ("exit_code", "signal", "timed_out"))
        for name, one in ran.items()
    }
    assert ends == {"main": (-1, 9, False), "child": (0, -1, False), "other": (-1, 9, False)}
    for name, killed in (("main", True), ("child", True), ("other", False)):
        assert ran[name].state["oom_killed"] is killed
        assert exit_event(api, ran[name])["oom_killed"] is killed
    assert ran["main"].stdout == b"said\n"
    assert api.download(ran["main"].image, "/kept") == b"kept\n"
    assert api.download(ran["child"].image, "/kept") == b"137\n"


def test_a_fork_bomb_ends_at_its_timeout_with_output_and_image(api: Api, busybox: str) -> None:
    bomb = "echo begun; echo kept >/kept; bomb() { bomb | bomb & }; bomb; sleep 600"
    ran = api.run(busybox, bomb, timeout=5)
    assert (ran.state["timed_out"], ran.state["signal"]) == (True, 9)
    assert ran.stdout == b"begun\n"
    assert api.download(ran.image, "/kept") == b"kept\n"


def test_names_and_home_are_as_on_any_machine_and_in_no_image(api: Api, busybox: str) -> None:
    script = (
        "hostname -i; [ $(id -u) != 0 ] || ping -c 1 localhost >/dev/null || echo no localhost;"
        "cd ~ && pwd; echo $HOME $HOSTNAME; echo to whoever runs >/dev/stdout"
    )
    orders = {"root": {"command": script}, "user": {"command": script, "uid": 1000, "gid": 1000}}
    ran = api.run_all(busybox, orders, hostname="my-box")
    assert ran["root"].want_exit().lines == [
        "127.0.1.1", "/root", "/root my-box", "to whoever runs",
    ]  # fmt: skip
    assert ran["user"].want_exit().lines == [
        "127.0.1.1", "/", "/ my-box", "to whoever runs",
    ]  # fmt: skip
    assert {one.image for one in ran.values()} == {busybox}  # nothing of it is a change
