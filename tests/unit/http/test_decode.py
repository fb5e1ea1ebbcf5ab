"""Bodies as bytes to orders: what is read, what is tolerated, what is refused under which name."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.app.images.request_import import ImportOrder
from contree.app.request_run import RunOrder
from contree.domain.errors import InvalidFieldError
from contree.domain.instance import FilePlacement
from contree.http.decode import decode_import, decode_run, decode_tag

FILE = "A9165A5D-5c86-4bd8-8ee4-ae46c19cf45d"


def run(**fields: Any) -> RunOrder:
    return decode_run(json.dumps({"command": "c", "image": "tag:i", **fields}).encode())


def an_import(**fields: Any) -> ImportOrder:
    return decode_import(json.dumps({"registry": {"url": "u"}, **fields}).encode())


def test_two_fields_are_enough_and_the_rest_is_default() -> None:
    assert run() == RunOrder(image="tag:i", command="c")


def test_null_is_the_default_everywhere() -> None:
    names = (
        *("args", "shell", "env", "cwd", "uid", "gid", "hostname", "stdin", "timeout", "files"),
        *("truncate_output_at", "disposable", "preserve_env", "preserve_cwd", "networking"),
        "resources_limits",
    )
    assert run(**dict.fromkeys(names)) == run()


def test_every_field_arrives() -> None:
    order = run(
        args=["a", ""],
        shell=True,
        env={"A": "1", "B": None},
        cwd="/w",
        uid=1,
        gid=2,
        hostname="h",
        stdin={"value": "aGk=", "encoding": "base64", "close": False},
        timeout=1000,
        truncate_output_at=0,
        disposable=True,
        preserve_env=True,
        preserve_cwd=True,
        files={"/f": {"uuid": FILE, "uid": 3, "gid": 4, "mode": "0600"}},
        resources_limits={"max_layer_bytes": 5},
        networking={"enabled": False},
    )
    assert order.args == ("a", "")
    assert order.env == {"A": "1", "B": None}
    assert (order.cwd, order.uid, order.gid, order.hostname) == ("/w", 1, 2, "h")
    assert order.stdin is not None
    assert (order.stdin.data, order.stdin.encoding, order.stdin.close) == (b"hi", "base64", False)
    assert (order.timeout_s, order.output_bytes_max, order.max_layer_bytes) == (1000, 0, 5)
    assert (order.shell, order.disposable, order.preserve_env, order.preserve_cwd) == (True,) * 4
    assert order.files == {"/f": FilePlacement(file_id=UUID(FILE), uid=3, gid=4, mode=0o600)}
    assert order.networking is False


def test_an_integer_may_be_written_as_a_float() -> None:
    assert (run(timeout=60.0, uid=5.0).timeout_s, run(uid=5.0).uid) == (60, 5)


def test_unknown_keys_are_ignored() -> None:
    assert run(session_key="x", stdin={"value": "x", "truncated": True}).stdin is not None


def test_stdin_under_the_label_ascii_is_utf_8() -> None:
    order = run(stdin={"value": "grüß\n"})
    assert order.stdin is not None
    assert order.stdin.data == "grüß\n".encode()


def test_empty_stdin_that_closes_is_none_and_one_that_stays_open_is_not() -> None:
    assert run(stdin={"value": ""}).stdin is None
    assert run(stdin={"value": "", "close": False}).stdin is not None


def test_base64_may_be_wrapped() -> None:
    order = run(stdin={"value": "aGVs\nbG8=\n", "encoding": "base64"})
    assert order.stdin is not None
    assert order.stdin.data == b"hello"


@pytest.mark.parametrize(
    ("sent", "mode"),
    [
        ("0644", 420),
        ("755", 493),
        ("0o100755", 493),
        ("0o100644", 420),
        (420, 420),
        ("4755", 2541),
        (35309, 2541),
        (None, 420),
        ("0", 0),
    ],
)
def test_a_file_mode_is_read_in_every_form(sent: object, mode: int) -> None:
    assert run(files={"/f": {"uuid": FILE, "mode": sent}}).files["/f"].mode == mode


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"command": 1}, "command"),
        ({"command": None}, "command"),
        ({"image": ["x"]}, "image"),
        ({"args": "x"}, "args"),
        ({"args": ["a", 1]}, "args[1]"),
        ({"shell": "true"}, "shell"),
        ({"env": {"A": 1}}, "env[...]"),
        ({"uid": "0"}, "uid"),
        ({"uid": 1.5}, "uid"),
        ({"uid": True}, "uid"),
        ({"timeout": "10"}, "timeout"),
        ({"stdin": "text"}, "stdin"),
        ({"stdin": {}}, "stdin.value"),
        ({"stdin": {"value": "x", "encoding": "utf-8"}}, "stdin.encoding"),
        ({"stdin": {"value": "a", "encoding": "base64"}}, "stdin.value"),
        ({"stdin": {"value": "a*b=", "encoding": "base64"}}, "stdin.value"),
        ({"stdin": {"value": "ü", "encoding": "base64"}}, "stdin.value"),
        ({"files": []}, "files"),
        ({"files": {"/f": {}}}, "files['/f'].uuid"),
        ({"files": {"/f": {"uuid": "x"}}}, "files['/f'].uuid"),
        ({"files": {"/f": {"uuid": FILE, "uid": "x"}}}, "files['/f'].uid"),
        ({"files": {"/f": {"uuid": FILE, "mode": "rw"}}}, "files['/f'].mode"),
        ({"files": {"/f": {"uuid": FILE, "mode": "0999"}}}, "files['/f'].mode"),
        ({"files": {"/f": {"uuid": FILE, "mode": -1}}}, "files['/f'].mode"),
        ({"files": {"/f": {"uuid": FILE, "mode": 1.5}}}, "files['/f'].mode"),
        ({"resources_limits": {"max_layer_bytes": "x"}}, "resources_limits.max_layer_bytes"),
        ({"networking": {"enabled": 1}}, "networking.enabled"),
    ],
)
def test_a_wrong_type_is_refused_under_the_fields_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFieldError) as refusal:
        run(**fields)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b"null", "body"),
        (b'{"command":"c","image":"i"} x', "body"),
        (b'{"command":"\xff","image":"i"}', "body"),
        (b'{"command":"\\ud800","image":"tag:some-image"}', "body"),
        (b'{"command":"c","image":"i","x":' + b"[" * 100_000, "body"),
        (b"{}", "command"),
        (b'{"command":"c"}', "image"),
    ],
)
def test_what_is_no_run_is_refused(body: bytes, field: str) -> None:
    with pytest.raises(InvalidFieldError) as refusal:
        decode_run(body)
    assert refusal.value.field == field


@given(st.binary(max_size=200) | st.builds(lambda v: json.dumps(v).encode(), st.from_type(dict)))
def test_any_bytes_are_a_run_or_a_refusal(body: bytes) -> None:
    with suppress(InvalidFieldError):
        assert isinstance(decode_run(body), RunOrder)


def test_an_import_arrives_with_its_credentials_and_shows_no_password() -> None:
    registry = {"url": "u", "credentials": {"username": "n", "password": "hidden"}}
    order = an_import(registry=registry, tag="t", timeout=7)
    assert (order.registry_url, order.tag, order.timeout_s) == ("u", "t", 7)
    assert order.credentials is not None
    assert (order.credentials.username, order.credentials.password) == ("n", "hidden")
    assert "hidden" not in repr(order)


@pytest.mark.parametrize("credentials", [None, {}, {"username": "", "password": ""}])
def test_empty_credentials_are_an_anonymous_pull(credentials: object) -> None:
    assert an_import(registry={"url": "u", "credentials": credentials}).credentials is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"registry": None}, "registry"),
        ({"registry": {}}, "registry.url"),
        ({"registry": {"url": 1}}, "registry.url"),
        ({"registry": {"url": "u", "credentials": "x"}}, "registry.credentials"),
        (
            {"registry": {"url": "u", "credentials": {"username": 1}}},
            "registry.credentials.username",
        ),
        (
            {"registry": {"url": "u", "credentials": {"username": "a\0", "password": ""}}},
            "registry.credentials.username",
        ),
        (
            {"registry": {"url": "u", "credentials": {"username": "a", "password": "b\n"}}},
            "registry.credentials.password",
        ),
        ({"tag": 1}, "tag"),
        ({"timeout": "x"}, "timeout"),
    ],
)
def test_a_bad_import_is_refused_under_the_fields_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFieldError) as refusal:
        an_import(**fields)
    assert refusal.value.field == field


def test_a_tag_is_read_and_must_be_there() -> None:
    assert decode_tag(b'{"tag":"a:b"}') == "a:b"
    for body in (b'{"tag":null}', b"{}", b'{"tag":1}'):
        with pytest.raises(InvalidFieldError) as refusal:
            decode_tag(body)
        assert refusal.value.field == "tag"
