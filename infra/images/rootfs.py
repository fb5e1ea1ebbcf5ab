"""Real root filesystems as OCI images, made from the distribution's packages and cached.

`small_image`: busybox in a few megabytes, two layers with a whiteout; needs no network.
`python_image`: Debian with Python, over 200 MB and 10,000 files, two layers; needs the Debian
mirror that this machine's apt uses, once. Neither installs anything on this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.images.debian import SUITE, Progress, RootfsNotBuiltError, debian_tar
from infra.images.oci_layout import ImageConfig, OciLayout
from infra.images.registry import PACKAGES_DIR, REPOSITORY_ROOT

IMAGES_DIR = REPOSITORY_ROOT / ".cache" / "images"
PYTHON_PACKAGES = ("python3",)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An image in an OCI layout. `size_bytes` is the sum of the uncompressed layers' tars.

    `repository` is where it is pushed by habit, `tag` names it in the layout and in a registry.
    """

    layout: Path
    repository: str
    tag: str
    layer_count: int
    entry_count: int
    size_bytes: int


def small_image(*, images_dir: Path = IMAGES_DIR, packages_dir: Path = PACKAGES_DIR) -> BuiltImage:
    """Return busybox as an image: shell and tools in layer 1, a change with a whiteout in layer 2.

    Raises RootfsNotBuiltError when `make setup-dev` has not unpacked busybox.
    """
    busybox = packages_dir / "busybox-static" / "bin" / "busybox"
    if not busybox.exists():
        raise RootfsNotBuiltError(f"{busybox} is missing: run `make setup-dev`")
    with busybox.open("rb") as program:
        content = hashlib.file_digest(program, "sha256").hexdigest()
    return _cached(
        images_dir,
        "busybox",
        content,
        lambda layout: _build_small(layout, busybox),
        lambda _message: None,
    )


def python_image(
    *, images_dir: Path = IMAGES_DIR, progress: Progress = lambda _message: None
) -> BuiltImage:
    """Return Debian with Python as an image: the system in layer 1, Python in layer 2.

    `progress` gets a line now and then: building takes about half a minute, the cache no time.
    Raises RootfsNotBuiltError with mmdebstrap's last words.
    """
    return _cached(
        images_dir,
        "python",
        repr((SUITE, PYTHON_PACKAGES)),
        lambda layout: _build_python(layout, progress),
        progress,
    )


@contextmanager
def _locked(images_dir: Path, name: str) -> Iterator[None]:
    images_dir.mkdir(parents=True, exist_ok=True)
    with (images_dir / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cached(
    images_dir: Path,
    name: str,
    material: str,
    build: Callable[[Path], BuiltImage],
    progress: Progress,
) -> BuiltImage:
    """Return what `build` made of equal material by an equal recipe (the code in this folder).

    Built aside and renamed, so that an interrupted build leaves nothing that looks whole.
    """
    recipe = hashlib.sha256(material.encode())
    for source in ("rootfs.py", "debian.py", "oci_layout.py"):
        recipe.update((Path(__file__).parent / source).read_bytes())
    directory = images_dir / f"{name}-{recipe.hexdigest()[:16]}"
    with _locked(images_dir, name):
        if not (directory / "built.json").exists():
            progress(f"building the image '{name}'")
            for outdated in images_dir.glob(f"{name}-*"):
                shutil.rmtree(outdated)
            partial = Path(tempfile.mkdtemp(prefix=f"{name}-partial-", dir=images_dir))
            try:
                built = build(partial)
                (partial / "built.json").write_text(
                    json.dumps({**asdict(built), "layout": ""}, indent=2)
                )
                partial.chmod(0o755)
                partial.replace(directory)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        facts = json.loads((directory / "built.json").read_bytes())
    return BuiltImage(**{**facts, "layout": directory})


def _build_small(layout_dir: Path, busybox: Path) -> BuiltImage:
    applets = subprocess.run(
        [busybox, "--list"], check=True, capture_output=True, text=True
    ).stdout.split()
    layout = OciLayout(layout_dir)
    tars = [_small_base(busybox, applets), _small_change()]
    layers = [layout.add_layer(io.BytesIO(tar)) for tar in tars]
    layout.add_image("latest", layers, ImageConfig(env={"PATH": PATH}))
    return BuiltImage(
        layout=layout_dir,
        repository="library/busybox",
        tag="latest",
        layer_count=len(tars),
        entry_count=sum(_count_entries(tar) for tar in tars),
        size_bytes=sum(len(tar) for tar in tars),
    )


def _small_base(busybox: Path, applets: list[str]) -> bytes:
    files = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
        "etc/hostname": b"busybox\n",
        "etc/replaced": b"this file is gone in the layer above\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "usr/bin", "var"):
            directory = tarfile.TarInfo(name)
            directory.type = tarfile.DIRTYPE
            directory.mode = {"root": 0o700, "tmp": 0o1777}.get(name, 0o755)
            tar.addfile(directory)
        program = tarfile.TarInfo("bin/busybox")
        program.mode, program.size = 0o755, busybox.stat().st_size
        with busybox.open("rb") as content:
            tar.addfile(program, content)
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(link)
        for name, text in files.items():
            _add_file(tar, name, text)
    return buffer.getvalue()


def _small_change() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        directory = tarfile.TarInfo("etc")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        _add_file(tar, "etc/.wh.replaced", b"")
        _add_file(tar, "etc/os-release", b'ID=busybox\nPRETTY_NAME="Busybox, statically linked"\n')
    return buffer.getvalue()


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = 0o644, len(content)
    tar.addfile(entry, io.BytesIO(content))


def _count_entries(tar: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return len(opened.getnames())


def _build_python(layout_dir: Path, progress: Progress) -> BuiltImage:
    whole, base, python = (layout_dir / f"{name}.tar" for name in ("whole", "base", "python"))
    progress(f"downloading and unpacking Debian {SUITE} with {', '.join(PYTHON_PACKAGES)}")
    debian_tar(whole, packages=PYTHON_PACKAGES, progress=progress)
    progress(f"packing {whole.stat().st_size // 2**20} MiB into layers")
    entry_count = _split(whole, base, python)
    layout = OciLayout(layout_dir)
    layers = []
    for part in (base, python):
        with part.open("rb") as tar:
            layers.append(layout.add_layer(tar))
    layout.add_image("latest", layers, ImageConfig(env={"PATH": PATH, "LANG": "C.UTF-8"}))
    size_bytes = base.stat().st_size + python.stat().st_size
    for part in (whole, base, python):
        part.unlink()
    return BuiltImage(
        layout=layout_dir,
        repository="debian/python",
        tag="latest",
        layer_count=len(layers),
        entry_count=entry_count,
        size_bytes=size_bytes,
    )


def _is_python(name: str) -> bool:
    return any(part.startswith(("python3", "libpython3")) for part in name.split("/"))


def _split(whole: Path, base: Path, python: Path) -> int:
    """Divide a root filesystem's tar into two layers; return how many entries it has.

    Each layer's tar has the parents of what it holds, as image builders write them.
    """
    directories: dict[str, tarfile.TarInfo] = {}
    written: set[str] = set()
    count = 0
    with (
        tarfile.open(whole) as source,
        tarfile.open(base, "w", format=tarfile.PAX_FORMAT) as lower,
        tarfile.open(python, "w", format=tarfile.PAX_FORMAT) as upper,
    ):
        for member in source:
            count += 1
            member.mtime = int(member.mtime)  # one pax record less for each file
            if member.isdir():
                directories[member.name] = member
            content = source.extractfile(member) if member.isreg() else None
            if not _is_python(member.linkname if member.islnk() else member.name):
                lower.addfile(member, content)
                continue
            parts = member.name.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                if parent in directories and parent not in written:
                    upper.addfile(directories[parent])
                    written.add(parent)
            written.add(member.name)
            upper.addfile(member, content)
    return count
