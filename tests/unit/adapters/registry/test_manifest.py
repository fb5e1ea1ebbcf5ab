"""Built on directories as skopeo leaves them, each spoilt in one way."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contree.adapters.registry import manifest as module
from contree.adapters.registry.manifest import read_pulled_image
from contree.domain.errors import RegistryFailure

LAYERS = (b"layer zero", b"layer one")
BYTES_MAX = 1000
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
Change = Callable[[dict[str, Any]], None]


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _nothing(document: dict[str, Any]) -> None:
    del document


def image_in(
    directory: Path,
    *,
    change_config: Change = _nothing,
    change_manifest: Change = _nothing,
    config_bytes: bytes | None = None,
) -> Path:
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=1", "B=x=y"], "WorkingDir": "/srv"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(b"plain " + x) for x in LAYERS]},
        "history": [{"created_by": "x"}, {"empty_layer": True}, {}],
    }
    change_config(config)
    config_bytes = json.dumps(config).encode() if config_bytes is None else config_bytes
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {
            "mediaType": OCI + "config.v1+json",
            "digest": _digest(config_bytes),
            "size": len(config_bytes),
        },
        "layers": [
            {"mediaType": OCI + "layer.v1.tar+gzip", "digest": _digest(x), "size": len(x)}
            for x in LAYERS
        ],
    }
    change_manifest(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    for content in (config_bytes, *LAYERS):
        (directory / _digest(content).removeprefix("sha256:")).write_bytes(content)
    return directory


def test_an_oci_image_is_read_whole(tmp_path: Path) -> None:
    image = read_pulled_image(image_in(tmp_path), bytes_max=BYTES_MAX)
    assert [layer.blob.read_bytes() for layer in image.layers] == list(LAYERS)
    assert [layer.diff_id for layer in image.layers] == [_digest(b"plain " + x) for x in LAYERS]
    assert image.env == {"A": "1", "B": "x=y"}
    assert image.workdir == "/srv"
    assert image.manifest_digest == _digest((tmp_path / "manifest.json").read_bytes())
    assert (tmp_path / image.config_digest.removeprefix("sha256:")).exists()


def test_a_docker_image_is_read_as_well(tmp_path: Path) -> None:
    def as_docker(manifest: dict[str, Any]) -> None:
        manifest["mediaType"] = DOCKER + "distribution.manifest.v2+json"
        manifest["config"]["mediaType"] = DOCKER + "container.image.v1+json"
        for layer in manifest["layers"]:
            layer["mediaType"] = DOCKER + "image.rootfs.diff.tar.gzip"

    image = read_pulled_image(image_in(tmp_path, change_manifest=as_docker), bytes_max=BYTES_MAX)
    assert image.layers[1].media_type == DOCKER + "image.rootfs.diff.tar.gzip"


@pytest.mark.parametrize(
    ("given_workdir", "workdir"),
    [("", ""), (None, ""), ("/", "/"), ("/a//b/./c/", "/a/b/c"), ("relative", "/relative")],
)
def test_workdir_is_absolute_and_normal(
    tmp_path: Path, given_workdir: str | None, workdir: str
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["config"]["WorkingDir"] = given_workdir

    image = read_pulled_image(image_in(tmp_path, change_config=change), bytes_max=BYTES_MAX)
    assert image.workdir == workdir


@pytest.mark.parametrize(
    ("entries", "env"),
    [
        (None, {}),
        (["A"], {}),
        (["A=1", "A=2"], {"A": "2"}),
        (["A="], {"A": ""}),
    ],
)
def test_env_is_read_as_docker_reads_it(
    tmp_path: Path, entries: list[str] | None, env: dict[str, str]
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["config"]["Env"] = entries

    image = read_pulled_image(image_in(tmp_path, change_config=change), bytes_max=BYTES_MAX)
    assert image.env == env


def test_an_image_without_process_config_is_fine(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["config"] = None

    image = read_pulled_image(image_in(tmp_path, change_config=change), bytes_max=BYTES_MAX)
    assert (image.env, image.workdir) == ({}, "")


def _put(*path: str | int, value: object) -> Change:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


BAD_MANIFESTS: dict[str, tuple[Change, str]] = {
    "schema 1": (_put("schemaVersion", value=1), "schema version 1"),
    "index": (_put("mediaType", value=OCI + "index.v1+json"), "not a container image"),
    "artifact": (_put("config", "mediaType", value="application/x"), "artifact"),
    "no config": (_put("config", value=None), "lacks"),
    "no layers": (_put("layers", value=None), "lacks"),
    "layers no list": (_put("layers", value={}), "layers"),
    "layer no object": (_put("layers", 0, value=7), "layers"),
    "foreign layer": (
        _put("layers", 0, "mediaType", value=DOCKER + "image.rootfs.foreign.diff.tar.gzip"),
        "layer 0",
    ),
    "encrypted": (
        _put("layers", 1, "mediaType", value=OCI + "layer.v1.tar+gzip+encrypted"),
        "layer 1",
    ),
    "digest climbs": (_put("layers", 0, "digest", value="sha256:../../etc/passwd"), "digest"),
    "digest sha512": (_put("layers", 0, "digest", value="sha512:" + "a" * 128), "digest"),
    "config digest climbs": (_put("config", "digest", value="../../../etc/passwd"), "digest"),
    "absent blob": (_put("layers", 0, "digest", value="sha256:" + "0" * 64), "missing"),
    "wrong size": (_put("layers", 0, "size", value=3), "stated size"),
    "negative size": (_put("layers", 0, "size", value=-3), "size"),
    "huge": (_put("layers", 0, "size", value=BYTES_MAX), f"at most {BYTES_MAX}"),
    "huge number": (_put("layers", 0, "size", value=10**30), "size"),
    "size is text": (_put("layers", 0, "size", value="10"), "size"),
}
BAD_CONFIGS: dict[str, tuple[Change, str]] = {
    "other machine": (_put("architecture", value="arm64"), "linux/amd64"),
    "other system": (_put("os", value="windows"), "linux/amd64"),
    "no rootfs": (_put("rootfs", value=None), "rootfs"),
    "other rootfs": (_put("rootfs", "type", value="base"), "rootfs"),
    "too few diff_ids": (_put("rootfs", "diff_ids", value=[]), "damaged"),
    "diff_id of another kind": (_put("rootfs", "diff_ids", value=["x", "y"]), "digest"),
    "env is an object": (_put("config", "Env", value={"A": "1"}), "Env"),
    "env has numbers": (_put("config", "Env", value=[1]), "Env"),
    "env has NUL": (_put("config", "Env", value=["A=\0"]), "NUL"),
    "env has no name": (_put("config", "Env", value=["=1"]), "variable name"),
    "env entry too long": (_put("config", "Env", value=["A=" + "x" * 200_000]), "longer"),
    "env too many": (_put("config", "Env", value=[f"A{n}=" for n in range(5000)]), "5000"),
    "workdir climbs": (_put("config", "WorkingDir", value="/a/../.."), r"WorkingDir"),
    "workdir has NUL": (_put("config", "WorkingDir", value="/\0"), "NUL"),
    "workdir is a number": (_put("config", "WorkingDir", value=1), "WorkingDir"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    change, words = BAD_MANIFESTS[case]
    directory = image_in(tmp_path, change_manifest=change)
    with pytest.raises(RegistryFailure, match=words):
        read_pulled_image(directory, bytes_max=BYTES_MAX)


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    change, words = BAD_CONFIGS[case]
    directory = image_in(tmp_path, change_config=change)
    with pytest.raises(RegistryFailure, match=words):
        read_pulled_image(directory, bytes_max=BYTES_MAX)


def test_too_many_layers_are_refused(tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"] *= module.LAYERS_MAX

    with pytest.raises(RegistryFailure, match=f"at most {module.LAYERS_MAX}"):
        read_pulled_image(image_in(tmp_path, change_manifest=change), bytes_max=BYTES_MAX)


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_oversized_json_is_refused_unread(tmp_path: Path, what: str) -> None:
    directory = image_in(tmp_path)
    path = directory / "manifest.json"
    if what == "config":
        digest = json.loads(path.read_bytes())["config"]["digest"]
        path = directory / digest.removeprefix("sha256:")
    with path.open("ab") as file:
        file.truncate(module.MANIFEST_BYTES_MAX + 1)  # sparse: nothing is written
    with pytest.raises(RegistryFailure, match=f"{what} is larger than"):
        read_pulled_image(directory, bytes_max=BYTES_MAX)


def test_a_link_in_place_of_a_blob_is_refused(tmp_path: Path) -> None:
    directory = image_in(tmp_path)
    blob = directory / _digest(LAYERS[0]).removeprefix("sha256:")
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with pytest.raises(RegistryFailure, match="not a file"):
        read_pulled_image(directory, bytes_max=BYTES_MAX)


def test_a_config_that_lost_its_digest_is_refused(tmp_path: Path) -> None:
    directory = image_in(tmp_path)
    digest = json.loads((directory / "manifest.json").read_bytes())["config"]["digest"]
    (directory / digest.removeprefix("sha256:")).write_bytes(b"{}")
    with pytest.raises(RegistryFailure, match="damaged"):
        read_pulled_image(directory, bytes_max=BYTES_MAX)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"'],
    ids=["empty", "list", "cut", "null", "not UTF-8", "deep list", "deep object", "surrogate"],
)
def test_json_of_no_use_is_refused(tmp_path: Path, content: bytes) -> None:
    directory = image_in(tmp_path, config_bytes=content)
    with pytest.raises(RegistryFailure, match="config is not valid"):
        read_pulled_image(directory, bytes_max=BYTES_MAX)
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(RegistryFailure, match="manifest is not valid"):
        read_pulled_image(directory, bytes_max=BYTES_MAX)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
_PLACES = st.sampled_from(
    [
        ("manifest", ("config",)),
        ("manifest", ("layers",)),
        ("manifest", ("layers", 0)),
        ("manifest", ("layers", 0, "digest")),
        ("manifest", ("config", "mediaType")),
        ("config", ("config",)),
        ("config", ("config", "Env")),
        ("config", ("config", "WorkingDir")),
        ("config", ("rootfs",)),
        ("config", ("rootfs", "diff_ids")),
    ]
)


@settings(max_examples=200)
@given(place=_PLACES, value=_JSON)
def test_any_json_anywhere_is_read_or_refused(
    place: tuple[str, tuple[str | int, ...]], value: object
) -> None:
    document, path = place
    change = _put(*path, value=value)
    with tempfile.TemporaryDirectory() as directory:
        if document == "manifest":
            image_in(Path(directory), change_manifest=change)
        else:
            image_in(Path(directory), change_config=change)
        try:
            image = read_pulled_image(Path(directory), bytes_max=BYTES_MAX)
        except RegistryFailure:
            return
        assert all(layer.blob.parent == Path(directory) for layer in image.layers)
