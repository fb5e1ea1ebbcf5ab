"""Built on layouts in a temporary directory, read back with tarfile and json alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from infra.images import rootfs
from infra.images.debian import RootfsNotBuiltError
from infra.images.oci_layout import ImageConfig, OciLayout
from infra.images.rootfs import small_image

TAR = b"any bytes: a layout does not judge" * 1000


def test_equal_content_gives_equal_digests(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        layout = OciLayout(tmp_path / name)
        layer = layout.add_layer(io.BytesIO(TAR))
        written.append(layout.add_image("tag", [layer], ImageConfig(env={"A": "1"})))
    assert written[0] == written[1]


def test_every_blob_has_its_digest_and_size(tmp_path: Path) -> None:
    layout = OciLayout(tmp_path)
    layer = layout.add_layer(io.BytesIO(TAR))
    image = layout.add_image("tag", [layer])
    for blob in (layer, image.manifest, image.config):
        content = layout.blob_path(blob.digest).read_bytes()
        assert blob.digest == "sha256:" + hashlib.sha256(content).hexdigest()
        assert blob.size_bytes == len(content)
    assert gzip.decompress(layout.blob_path(layer.digest).read_bytes()) == TAR
    assert layer.diff_id == "sha256:" + hashlib.sha256(TAR).hexdigest()


def test_a_tag_names_its_last_image(tmp_path: Path) -> None:
    layout = OciLayout(tmp_path)
    layer = layout.add_layer(io.BytesIO(TAR))
    layout.add_image("tag", [])
    last = layout.add_image("tag", [layer])
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [last.manifest.digest]


def test_the_small_image_is_built_once(tmp_path: Path) -> None:
    first = small_image(images_dir=tmp_path)
    marker = first.layout / "still-here"
    marker.touch()
    assert small_image(images_dir=tmp_path) == first
    assert marker.exists()
    assert first.layer_count == 2


def test_a_missing_package_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RootfsNotBuiltError, match="make setup"):
        small_image(images_dir=tmp_path, packages_dir=tmp_path)


def test_a_broken_build_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def build(layout: Path) -> rootfs.BuiltImage:
        (layout / "half").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rootfs._cached(tmp_path, "broken", "", build, lambda _line: None)
    assert [path.name for path in tmp_path.iterdir()] == [".broken.lock"]


def test_a_split_keeps_every_entry_and_repeats_the_parents(tmp_path: Path) -> None:
    whole, base, python = (tmp_path / name for name in ("whole.tar", "base.tar", "python.tar"))
    with tarfile.open(whole, "w") as tar:
        for name in ("./", "./usr/", "./usr/lib/", "./usr/lib/python3.11/"):
            directory = tarfile.TarInfo(name)
            directory.type = tarfile.DIRTYPE
            tar.addfile(directory)
        for name in ("./usr/lib/os-release", "./usr/lib/python3.11/ast.py"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("./usr/lib/linked")
        link.type, link.linkname = tarfile.LNKTYPE, "./usr/lib/python3.11/ast.py"
        tar.addfile(link)
    assert rootfs._split(whole, base, python) == 7
    with tarfile.open(base) as lower, tarfile.open(python) as upper:
        assert lower.getnames() == [".", "./usr", "./usr/lib", "./usr/lib/os-release"]
        assert upper.getnames() == [
            *(".", "./usr", "./usr/lib", "./usr/lib/python3.11"),
            *("./usr/lib/python3.11/ast.py", "./usr/lib/linked"),
        ]
