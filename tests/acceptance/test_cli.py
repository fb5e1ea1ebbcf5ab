"""The published contree-cli as a user types it, each command a process of its own."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from tests.acceptance.api import Api
from tests.acceptance.terminal import Terminal
from tests.support.server import RunningServer


@pytest.fixture(scope="module")
def terminal(terminal: Terminal) -> Terminal:
    """With busybox as the session's image."""
    terminal.type("use", "tag:busybox:latest")
    return terminal


def test_profiles_are_added_listed_switched_and_removed(
    terminal: Terminal, server: RunningServer, project: str, token: str
) -> None:
    looking = server.token(project, permissions="list")
    other = ("--profile", "looking", "--type", "jwt", "--url", server.url, "--token", looking)
    terminal.type("auth", *other)
    iam = ("--type", "iam", "--project", project, "--url", server.url, "--token", token)
    terminal.type("auth", "--profile", "named", *iam)
    strange = ("--type", "iam", "--project", "somebody-elses", "--url", server.url)
    terminal.type("auth", "--profile", "strange", *strange, "--token", token, status=1)
    terminal.type(
        "auth", "--profile", "wrong", "--type", "jwt", *strange[4:], "--token", "no", status=1
    )
    profiles = {row["name"]: row for row in terminal.rows("auth", "ls")}
    assert {name: row["status"] for name, row in profiles.items()} == dict.fromkeys(
        ("default", "looking", "named"), "ok"
    )
    assert profiles["default"]["active"]
    assert terminal.rows("-p", "named", "images")[0]["tag"] == "busybox:latest"
    terminal.type("auth", "switch", "looking")
    image = "tag:busybox:latest"
    terminal.type("use", image)
    terminal.type("run", "--", "true", status=1)  # may look, may not run
    terminal.type("auth", "switch", "default")
    for name in ("looking", "named"):
        terminal.type("auth", "remove", name, "-f")
    assert [row["name"] for row in terminal.rows("auth", "ls", "-O")] == ["default"]


def test_images_are_imported_listed_and_tagged(
    terminal: Terminal, busybox_url: str, busybox: str, api: Api
) -> None:
    absent = busybox_url.replace("library/busybox", "no/such")
    with terminal.start("images", "import", absent) as refused:  # each looks every 5 s only
        (imported,) = terminal.rows("images", "import", busybox_url)
        assert refused.communicate()[1]
        assert refused.returncode == 1
    assert (imported["status"], imported["result_image_uuid"]) == ("SUCCESS", busybox)
    terminal.type("tag", "tag:busybox:latest", "cli/copy:1")
    assert [r["tag"] for r in terminal.rows("images", "--prefix=cli")] == ["cli/copy:1"]
    everything = terminal.rows("images", "-a", "--since", "1d")
    assert {busybox} <= {row["uuid"] for row in everything}
    terminal.type("tag", "-U", busybox, "cli/copy:1")
    assert terminal.rows("images", "--prefix=cli") == []
    (row,) = terminal.rows("use")
    assert row["current_image"] == busybox


def test_the_modes_of_run(terminal: Terminal) -> None:
    run = ("run", "-D")
    assert terminal.type(*run, "--", "printf", "%s|", "a b", "$HOME", "ü") == "a b|$HOME|ü|"
    assert terminal.type(*run, "-s", "--", "echo $((6*7)); exit 9", status=9) == "42\n"
    terminal.type(*run, "--", "no-such-program", status=1)
    terminal.type(*run, "-t", "1", "-s", "--", "sleep 600", status=255)  # exit code -1
    said = terminal.type(
        *run, "-C", "/new/place", "-e", "A=1", "--hostname", "box",
        "-s", "--", "pwd; echo $A; hostname; id -u",
    )  # fmt: skip
    assert said.splitlines() == ["/new/place", "1", "box", "0"]
    (row,) = terminal.rows(*run, "-s", "--", "echo out; echo err >&2; exit 3", status=3)
    assert (row["status"], row["exit_code"]) == ("SUCCESS", 3)
    assert (row["stdout"], row["stderr"], row["image"]) == ("out\n", "err\n", "")
    assert terminal.type_raw(*run, "--", "printf", r"\377\000") == b"\xff\0"
    script = terminal.home / "script"
    script.write_text('#!/usr/bin/env -S contree run -I\r\necho "as $0"\r\necho two\r\n')
    assert terminal.type("run", "-D", "-I", "script").splitlines()[1:] == ["two"]


def test_standard_input_from_a_pipe(terminal: Terminal) -> None:
    assert terminal.type("run", "-D", "--", "cat", stdin="through stdin") == "through stdin"
    assert terminal.type("run", "-D", "/bin/sh", stdin="echo from a script\n") == "from a script\n"
    data = bytes(range(256)) * 40_000  # 10 MB, twenty pieces of the client's
    said = terminal.type("run", "-D", "--", "sha256sum", stdin=data)
    assert said == f"{hashlib.sha256(data).hexdigest()}  -\n"
    with terminal.start("run", "-D", "-s", "--", "while read l; do echo got $l; done") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in ("one", "two"):  # an answer to each before the next is typed
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"got {word}\n"
        process.stdin.close()
        assert process.wait(300) == 0


def test_files_go_in_and_out(terminal: Terminal) -> None:
    tree = terminal.home / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "script.sh").write_text("echo from a script\n")
    (tree / "left-out.pyc").write_text("")
    (tree / "empty").write_text("")
    (terminal.home / "one").write_text("one\n")
    said = terminal.type(
        "run", "--file", "tree:/opt/tree:u5:g6", "--file", "one:/opt/one:m0640",
        "-s", "--", "sh /opt/tree/sub/script.sh; stat -c '%n %a %u:%g %s' /opt/one /opt/tree/*; "
        "mkdir /opt/made; echo needle >/opt/made/file; printf '\\001' >/opt/made/byte",
    )  # fmt: skip
    assert said.splitlines() == [
        "from a script",
        "/opt/one 640 0:0 4",
        "/opt/tree/empty 644 5:6 0",
        "/opt/tree/sub 755 0:0 4096",
    ]
    assert terminal.type("ls", "/opt").splitlines()[0].startswith("total ")
    assert [line.split()[-1] for line in terminal.type("ls", "/opt").splitlines()[1:]] == [
        "made", "one", "tree",
    ]  # fmt: skip
    assert terminal.type("cat", "/opt/made/file") == "needle\n"
    terminal.type("cp", "/opt/made/byte", "byte")
    assert (terminal.home / "byte").read_bytes() == b"\1"
    assert terminal.type("grep", "need.e", "/opt") == "/opt/made/file:1:needle\n"
    narrowed = ("--case", "insensitive", "--glob", "!*.sh", "-B", "1", "NOBODY|script")
    assert terminal.type("grep", *narrowed, "/etc/passwd", "/opt").splitlines() == [
        "/etc/passwd-1-root:x:0:0:root:/root:/bin/sh",
        "/etc/passwd:2:nobody:x:65534:65534:nobody:/:/bin/sh",
    ]
    terminal.type("grep", "nowhere-to-be-found", "/opt", status=1)
    for command in ("cat", "ls", "export"):
        terminal.type(command, "/no/such", status=1)
    (uploaded,) = [row for row in terminal.rows("file", "ls") if row["source"].endswith("/one")]
    assert uploaded["size"] == 4


def test_exported_archives_unpack(terminal: Terminal) -> None:
    terminal.type("run", "-s", "--", "mkdir -p /made/sub; echo x >/made/sub/x; ln -s sub/x /made/l")
    names = ["made", "made/l", "made/sub", "made/sub/x"]
    terminal.type("export", "/made", "-F", "made.tar.gz")
    assert (terminal.home / "made.tar.gz").read_bytes()[:2] == b"\x1f\x8b"
    terminal.type("export", "/made", "-F", "made.tar")
    piped = terminal.type_raw("export", "/made")
    for archive, mode in (
        ((terminal.home / "made.tar.gz").read_bytes(), "r:gz"),
        ((terminal.home / "made.tar").read_bytes(), "r:"),
        (piped, "r:gz"),
    ):
        with tarfile.open(fileobj=io.BytesIO(archive), mode=mode) as tar:
            assert sorted(tar.getnames()) == names
            member = tar.extractfile("made/sub/x")
            assert member is not None
            assert member.read() == b"x\n"
            assert tar.getmember("made/l").linkname == "sub/x"
    terminal.type("export", "-F", "root.tar.gz")
    with tarfile.open(terminal.home / "root.tar.gz", "r:gz") as tar:
        assert {"./bin/busybox", "./etc/passwd", "./made/sub/x"} <= set(tar.getnames())


def test_staged_files_environment_and_directory_are_in_the_next_run(terminal: Terminal) -> None:
    (terminal.home / "staged").write_text("staged\n")
    terminal.type("file", "cp", "staged", "/work/staged")
    terminal.program("new-editor", 'echo edited >>"$1"')
    terminal.type("file", "edit", "--editor", "new-editor", "/etc/hostname")
    terminal.type("file", "edit", "--editor", "new-editor", "/etc/brand-new")
    terminal.type("file", "edit", "--editor", "true", "/etc/passwd")  # changes nothing
    terminal.type("file", "edit", "--editor", "false", "/etc/passwd", status=1)
    terminal.type("run", "--", "true")
    assert terminal.type("cat", "/work/staged") == "staged\n"
    assert terminal.type("cat", "/etc/hostname").splitlines()[-1] == "edited"
    assert terminal.type("cat", "/etc/brand-new") == "edited\n"

    terminal.type("cd", "/work")
    assert terminal.type("cd") == "/work\n"
    assert terminal.type("cat", "staged") == "staged\n"
    assert terminal.type("ls").splitlines()[-1].endswith("staged")
    terminal.type("cd", "nowhere", status=1)
    terminal.type("env", "COLOUR=blue", "SIZE=big")
    said = terminal.type("run", "-e", "SIZE=small", "-s", "--", "pwd; echo $COLOUR $SIZE")
    assert said == "/work\nblue small\n"
    terminal.type("env", "-U", "COLOUR", "SIZE")
    terminal.type("cd", "/")

    kept = ("run", "--preserve-env", "-e", "KEPT=in the image")
    terminal.type(*kept, "-s", "--", "true")
    assert terminal.type("run", "-D", "-s", "--", "echo $KEPT") == "in the image\n"
