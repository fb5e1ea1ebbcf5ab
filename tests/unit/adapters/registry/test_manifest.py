"""Built on documents as registries send them, each spoilt in one way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contree.adapters.registry import manifest as module
from contree.adapters.registry.manifest import (
    ImageConfig,
    ImageIndex,
    ImageManifest,
    digest_of,
    read_config,
    read_document,
)
from contree.domain.errors import RegistryFailure

LAYERS = (b"layer zero", b"layer one")
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
DIFF_IDS = [digest_of(b"plain " + layer) for layer in LAYERS]
Change = Callable[[dict[str, Any]], None]


def _manifest(change: Change = lambda _: None) -> bytes:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", "digest": digest_of(b"{}"), "size": 2},
        "layers": [
            {"mediaType": OCI + "layer.v1.tar+gzip", "digest": digest_of(x), "size": len(x)}
            for x in LAYERS
        ],
    }
    change(document)
    return json.dumps(document).encode()


def _config(change: Change = lambda _: None) -> bytes:
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=1", "B=x=y"], "WorkingDir": "/srv"},
        "rootfs": {"type": "layers", "diff_ids": list(DIFF_IDS)},
        "history": [{"created_by": "x"}, {"empty_layer": True}, {}],
    }
    change(document)
    return json.dumps(document).encode()


def configured(change: Change, *, layer_count: int = 2) -> ImageConfig:
    return read_config(_config(change), layer_count=layer_count)


def _put(*path: str | int, value: object) -> Change:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def _without(*path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


def test_an_image_is_read_whole() -> None:
    manifest = read_document(_manifest())
    assert isinstance(manifest, ImageManifest)
    assert manifest.config.digest == digest_of(b"{}")
    assert [(one.digest, one.size) for one in manifest.layers] == [
        (digest_of(x), len(x)) for x in LAYERS
    ]
    assert read_config(_config(), layer_count=2) == ImageConfig(
        env={"A": "1", "B": "x=y"}, workdir="/srv", diff_ids=DIFF_IDS
    )
    assert manifest.config.hexdigest == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        _put("mediaType", value=DOCKER + "distribution.manifest.v2+json"),
        _put("mediaType", value="text/plain"),
        _put("mediaType", value=None),
        _put("config", "mediaType", value=DOCKER + "container.image.v1+json"),
        _put("config", "mediaType", value="application/octet-stream"),
        _put("config", "mediaType", value="text/html; charset=utf-8"),
        _without("config", "mediaType"),
        _put("layers", 0, "mediaType", value=DOCKER + "image.rootfs.diff.tar.gzip"),
        _put("layers", 0, "mediaType", value=DOCKER + "image.rootfs.foreign.diff.tar.gzip"),
        _put("layers", 0, "mediaType", value=OCI + "layer.nondistributable.v1.tar+zstd"),
        _put("layers", 0, "mediaType", value="application/x-anything"),
    ],
)
def test_media_types_decide_nothing_about_an_image(change: Change) -> None:
    manifest = read_document(_manifest(change))
    assert isinstance(manifest, ImageManifest)
    assert len(manifest.layers) == 2


def test_an_index_is_told_by_what_it_holds() -> None:
    entry = {"digest": digest_of(b"x"), "size": 1, "platform": {"os": "linux", "variant": None}}
    index = read_document(json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
    assert isinstance(index, ImageIndex)
    assert [one.digest for one in index.manifests] == [digest_of(b"x")]


@pytest.mark.parametrize(
    ("given_workdir", "workdir"),
    [
        ("", ""),
        (None, ""),
        ("/", "/"),
        ("/a//b/./c/", "/a/b/c"),
        ("relative", "/relative"),
        ("/srv/../etc", "/etc"),
        ("/../..", "/"),
        ("../x", "/x"),
    ],
)
def test_workdir_is_absolute_and_normal(given_workdir: str | None, workdir: str) -> None:
    assert configured(_put("config", "WorkingDir", value=given_workdir)).workdir == workdir


@pytest.mark.parametrize(
    ("entries", "env"),
    [
        (None, {}),
        (["A"], {}),
        (["A=1", "A=2"], {"A": "2"}),
        (["A="], {"A": ""}),
        (["=x", "A=1"], {"A": "1"}),
    ],
)
def test_env_is_read_as_docker_reads_it(entries: list[str] | None, env: dict[str, str]) -> None:
    assert configured(_put("config", "Env", value=entries)).env == env


def test_an_image_without_process_config_is_fine() -> None:
    config = configured(_put("config", value=None))
    assert (config.env, config.workdir) == ({}, "")


@pytest.mark.parametrize(
    "change",
    [
        _put("rootfs", "diff_ids", value=[]),
        _put("rootfs", "diff_ids", value=None),
        _without("rootfs", "diff_ids"),
    ],
)
def test_an_image_without_layers_may_leave_out_their_list(change: Change) -> None:
    assert configured(change, layer_count=0).diff_ids == []


BAD_MANIFESTS: dict[str, tuple[Change, str]] = {
    "schema 1": (_put("schemaVersion", value=1), "schema version 1"),
    "artifact": (_put("config", "mediaType", value="application/x"), "artifact"),
    "no config": (_put("config", value=None), "lacks"),
    "no layers": (_put("layers", value=None), "lacks"),
    "layers no list": (_put("layers", value={}), "layers"),
    "layer no object": (_put("layers", 0, value=7), "layers"),
    "encrypted": (
        _put("layers", 1, "mediaType", value=OCI + "layer.v1.tar+gzip+encrypted"),
        "layer 1 of the image is encrypted",
    ),
    "digest climbs": (_put("layers", 0, "digest", value="sha256:../../etc/passwd"), "digest"),
    "digest sha512": (_put("layers", 0, "digest", value="sha512:" + "a" * 128), "digest"),
    "config digest climbs": (_put("config", "digest", value="../../../etc/passwd"), "digest"),
    "negative size": (_put("layers", 0, "size", value=-3), "size"),
    "huge number": (_put("layers", 0, "size", value=10**30), "size"),
    "size is text": (_put("layers", 0, "size", value="10"), "size"),
}
BAD_CONFIGS: dict[str, tuple[Change, str]] = {
    "other machine": (_put("architecture", value="arm64"), "linux/arm64, not for linux/amd64"),
    "other system": (_put("os", value="windows"), "windows/amd64, not for linux/amd64"),
    "no rootfs": (_put("rootfs", value=None), "rootfs"),
    "other rootfs": (_put("rootfs", "type", value="base"), "rootfs"),
    "too few diff_ids": (_put("rootfs", "diff_ids", value=[]), "damaged"),
    "diff_id of another kind": (_put("rootfs", "diff_ids", value=["x", "y"]), "digest"),
    "env is an object": (_put("config", "Env", value={"A": "1"}), "Env"),
    "env has numbers": (_put("config", "Env", value=[1]), "Env"),
    "env has NUL": (_put("config", "Env", value=["A=\0"]), "NUL"),
    "env entry too long": (_put("config", "Env", value=["A=" + "x" * 200_000]), "longer"),
    "env too many": (_put("config", "Env", value=[f"A{n}=" for n in range(5000)]), "5000"),
    "workdir has NUL": (_put("config", "WorkingDir", value="/\0"), "control characters"),
    "workdir has a newline": (_put("config", "WorkingDir", value="/a\nb"), "control characters"),
    "workdir is a number": (_put("config", "WorkingDir", value=1), "WorkingDir"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_bad_manifest_is_refused_with_the_reason(case: str) -> None:
    change, words = BAD_MANIFESTS[case]
    with pytest.raises(RegistryFailure, match=words):
        read_document(_manifest(change))


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_refused_with_the_reason(case: str) -> None:
    change, words = BAD_CONFIGS[case]
    with pytest.raises(RegistryFailure, match=words):
        configured(change)


def test_too_many_layers_are_refused() -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"] *= module.LAYERS_MAX

    with pytest.raises(RegistryFailure, match=f"at most {module.LAYERS_MAX}"):
        read_document(_manifest(change))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"'],
    ids=["empty", "list", "cut", "null", "not UTF-8", "deep list", "deep object", "surrogate"],
)
def test_json_of_no_use_is_refused(content: bytes) -> None:
    with pytest.raises(RegistryFailure, match="config is not valid"):
        read_config(content, layer_count=2)
    with pytest.raises(RegistryFailure, match="manifest is not valid"):
        read_document(content)


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
    try:
        if document == "manifest":
            found = read_document(_manifest(change))
            assert isinstance(found, ImageManifest)
        else:
            assert configured(change).workdir[:1] in {"", "/"}
    except RegistryFailure:
        return
