"""The domain's values: what is accepted, what is refused, and that refusals name their field."""

from __future__ import annotations

import re
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.domain.environment import (
    DEFAULT_PATH,
    MASKED,
    check_environment,
    environment_to_preserve,
    is_secret,
    masked,
    process_environment,
    secrets_of,
)
from contree.domain.errors import InvalidFieldError
from contree.domain.guest_path import parse_guest_path
from contree.domain.instance import FilePlacement, InstanceSpec, Stdin
from contree.domain.outcome import ProcessOutcome, ResourceUsage
from contree.domain.tag import parse_tag
from contree.domain.token import Permission, parse_permissions
from tests.support.histories import a_spec, an_outcome

IMAGE = UUID(int=1)


@pytest.mark.parametrize(
    "tag", ["a", "A9", "base:latest", "common/python-ml/python:3.11-slim", "a_b-", "x" * 256]
)
def test_a_tag_of_the_grammar_is_accepted(tag: str) -> None:
    assert parse_tag(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", "-a", "a:", "a//b", "a..b", ":a", "a b", "a\n", "\u00fc", "a@sha256", "x" * 257]
)
def test_another_tag_is_refused_naming_the_field(tag: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        parse_tag(tag, field="tag_name")
    assert refused.value.field == "tag_name"


@pytest.mark.parametrize(
    ("text", "path"),
    [("/", "/"), ("//", "/"), ("/a/./b//c/", "/a/b/c"), ("/a b/\u00fc", "/a b/\u00fc")],
)
def test_a_guest_path_is_normalised(text: str, path: str) -> None:
    assert parse_guest_path(text, field="path") == path


@pytest.mark.parametrize("text", ["", "a", "./a", "/a/../b", "/..", "/a\0", "/" + "x" * 4096])
def test_a_path_that_could_mean_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidFieldError, match=r"^path: "):
        parse_guest_path(text, field="path")


@given(st.text("/.ab", max_size=12))
def test_an_accepted_path_is_absolute_stays_inside_and_is_its_own_normal_form(text: str) -> None:
    try:
        path = parse_guest_path("/" + text, field="path")
    except InvalidFieldError:
        assert ".." in text.split("/")
        return
    assert re.fullmatch(r"/|(/[^/]+)+", path)
    assert not {".", ".."} & set(path.split("/"))
    assert parse_guest_path(path, field="path") == path


@pytest.mark.parametrize(
    "name",
    [
        *("TOKEN", "my_token", "DB_PASSWORD", "X_API_KEY", "AWS_CREDENTIALS", "authorization"),
        *("AWS_SECRET_ACCESS_KEY", "STRIPE_KEY", "GITHUB_PAT", "SMTP_PASS", "PGPASSWORD", "DB_PWD"),
        *(
            "MYSQL_PASSWD",
            "GPG_PASSPHRASE",
            "CI_JOB_JWT",
            "DATABASE_URL",
            "REDIS_URL",
            "SENTRY_DSN",
        ),
        *("SECRET_KEY_BASE", "SSH_PRIVATE_KEY_B64", "OPENAI-API-KEY", "app.secrets", "NPM_APIKEY"),
    ],
)
def test_a_secret_by_its_name_is_masked_unless_it_unsets(name: str) -> None:
    assert is_secret(name)
    assert masked({name: "value", "PLAIN": "value"}, ()) == {name: MASKED, "PLAIN": "value"}
    assert masked({name: None}, ()) == {name: None}
    assert secrets_of({name: "value", "PLAIN": "value", "PASS": None}, ()) == {name: "value"}


@pytest.mark.parametrize(
    "name",
    [
        *("TOKENIZER", "MAX_TOKENS", "TOKENIZERS_PARALLELISM", "KEY", "KEYMAP", "MONKEY", "BYPASS"),
        *("PATH", "PWD", "OLDPWD", "SSH_PUBLIC_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWORD_FILE"),
        *("API_URL", "PASSENGER_COUNT", "COMPAT", "SECRETARY"),
    ],
)
def test_a_name_that_only_contains_a_secret_word_is_plain(name: str) -> None:
    assert not is_secret(name)


def test_what_the_request_names_is_a_secret_whatever_it_is_called() -> None:
    env = {"PLAIN": "a", "OTHER": "b", "GONE": None}
    assert secrets_of(env, {"PLAIN", "GONE"}) == {"PLAIN": "a"}
    assert masked(env, {"PLAIN", "GONE"}) == {"PLAIN": MASKED, "OTHER": "b", "GONE": None}
    with pytest.raises(InvalidFieldError, match="secret_env: 'PLIAN' is not in env"):
        secrets_of(env, {"PLIAN"})


@pytest.mark.parametrize(
    "env", [{"": "x"}, {"a=b": "x"}, {"a\0": "x"}, {"a": "\0"}, {"a": "x" * 131_072}]
)
def test_an_environment_that_execve_could_not_carry_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(InvalidFieldError, match=r"^env"):
        check_environment(env)


def test_too_many_variables_are_refused() -> None:
    with pytest.raises(InvalidFieldError, match="at most 4096"):
        check_environment({f"V{n}": None for n in range(4097)})


def test_the_images_environment_applies_in_shell_mode_only() -> None:
    layers = {
        "image_env": {"A": "image", "B": "image"},
        "preserved_env": {"B": "preserved", "C": "preserved"},
        "request_env": {"C": "request", "B": None},
        "hostname": "box",
    }
    assert process_environment(**layers, shell=True) == {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": "box",
        "A": "image",
        "C": "request",
    }
    assert process_environment(**layers, shell=False) == {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": "box",
        "C": "request",
    }


def test_preserving_merges_and_deletes_what_is_null_or_empty() -> None:
    assert environment_to_preserve(
        image_env={"A": "1", "B": "1"},
        preserved_env={"B": "2", "C": "2"},
        request_env={"A": None, "C": "", "D": "3"},
    ) == {"B": "2", "D": "3"}


def test_a_spec_survives_its_recorded_form() -> None:
    spec = a_spec(
        IMAGE,
        args=("a", ""),
        env={"A": None, "B": "\u00fc"},
        env_digests={"X_TOKEN": "00"},
        stdin=Stdin(sha256="00", size_bytes=1, close=False),
        files={"/f": FilePlacement(file_id=UUID(int=2), mode=0o4755, uid=7)},
        disposable=True,
    )
    assert InstanceSpec.from_fact(spec.to_fact()) == spec
    assert InstanceSpec.from_fact(a_spec(IMAGE).to_fact()) == a_spec(IMAGE)


def test_an_outcome_survives_its_recorded_form() -> None:
    outcome = an_outcome(exit_code=255)
    assert ProcessOutcome.from_fact(outcome.to_fact()) == outcome
    assert outcome.usage == ResourceUsage()


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("command", {"command": ""}),
        ("command", {"command": "a\0"}),
        ("args[1]", {"args": ("ok", "\0")}),
        ("args", {"args": ("x",) * 4097}),
        ("args[0]", {"args": ("x" * 131_072,)}),
        ("env", {"env": {"": "x"}}),
        ("cwd", {"cwd": "work"}),
        ("cwd", {"cwd": "/a/../b"}),
        ("hostname", {"hostname": ""}),
        ("hostname", {"hostname": "x" * 65}),
        ("uid", {"uid": -1}),
        ("gid", {"gid": 2**32 - 1}),
        ("truncate_output_at", {"output_bytes_max": 10 * 1024**2 + 1}),
        ("command", {"command": "/" + "x" * 4095}),
        ("cwd", {"cwd": "/" + "x" * 256}),
        ("cwd", {"cwd": "/a/.wh.b"}),
        ("resources_limits.max_layer_bytes", {"max_layer_bytes": 4095}),
        ("files['rel']", {"files": {"rel": FilePlacement(file_id=IMAGE)}}),
        ("files['/']", {"files": {"/": FilePlacement(file_id=IMAGE)}}),
        ("files['/f'].mode", {"files": {"/f": FilePlacement(file_id=IMAGE, mode=0o10000)}}),
        ("files['/f'].uid", {"files": {"/f": FilePlacement(file_id=IMAGE, uid=-1)}}),
    ],
)
def test_a_spec_out_of_bounds_is_refused_naming_the_field(
    field: str, fields: dict[str, object]
) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        replace(a_spec(IMAGE), **fields).check()
    assert refused.value.field == field


def test_a_spec_at_its_bounds_is_accepted() -> None:
    a_spec(
        IMAGE,
        args=("x" * 131_071,),
        cwd="/",
        hostname="x" * 64,
        uid=2**32 - 2,
        output_bytes_max=0,
        max_layer_bytes=4096,
        files={"/f": FilePlacement(file_id=IMAGE, mode=0o7777)},
    ).check()


@pytest.mark.parametrize(
    ("field", "paths"),
    [
        ("files['/']", ["/"]),
        ("files['/dev']", ["/dev"]),
        ("files['/proc/x']", ["/proc/x"]),
        ("files['/sys']", ["/sys"]),
        ("files['/a/.wh.b/c']", ["/a/.wh.b/c"]),
        (f"files['/{'n' * 256}']", [f"/{'n' * 256}"]),
        ("files['/a/b/c']", ["/a/b/c", "/d", "/a"]),
        ("files['/a/b']", ["/a", "/a/b"]),
        ("files['//a']", ["/a", "//a"]),
    ],
)
def test_what_no_guest_could_take_is_refused_naming_the_path(field: str, paths: list[str]) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        a_spec(IMAGE, files={path: FilePlacement(file_id=IMAGE) for path in paths}).check()
    assert refused.value.field == field


def test_what_some_guest_could_take_is_left_to_it() -> None:
    paths = ["/dev/shm/a", "/process", "/a", "/ab/c", "/a.wh.b", f"/{'n' * 255}", "/ab/d"]
    a_spec(IMAGE, files={path: FilePlacement(file_id=IMAGE) for path in paths}).check()
    # Where no image is left, any name will do.
    kept = {"/.wh.a": FilePlacement(file_id=IMAGE)}
    a_spec(IMAGE, files=kept, cwd="/.wh.b", disposable=True).check()


def test_shell_mode_runs_the_guests_shell_and_ignores_args() -> None:
    spec = a_spec(IMAGE, command="a && b", args=("x",), shell=True)
    assert spec.argv({}) == ("/bin/sh", "-c", "a && b")
    assert spec.argv({"SHELL": "/bin/bash"}) == ("/bin/bash", "-c", "a && b")
    assert a_spec(IMAGE, command="cat", args=("x",)).argv({"SHELL": "/bin/bash"}) == ("cat", "x")


def test_permissions_are_known_names_sorted_once() -> None:
    assert parse_permissions(["spawn", "list", "spawn"]) == [Permission.LIST, Permission.SPAWN]
    with pytest.raises(InvalidFieldError, match="unknown permission 'root'"):
        parse_permissions(["list", "root"])
