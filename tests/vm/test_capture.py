"""What a real guest wrote: the tar, and the same through the layer store in another guest."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from contree.adapters.layers.store import LayerDirectory
from contree.adapters.microvm.runner import LibvirtMicroVM
from tests.support.guest_files import put_file
from tests.vm.conversation import Conversation, chunks
from tests.vm.fixtures import MIB, guest_spec, squash

pytestmark = pytest.mark.vm

OLD_S = -315521755  # before 1970: a tar can say so, squashfs cannot
LONG = "/".join(["d" * 120] * 3)

WRITE = f"""
set -e
mkdir -p /work/{LONG}
echo deep > /work/{LONG}/file
rm /keep/lower; echo new > /keep/upper
rm -r /gone; mkdir /gone; echo fresh > /gone/fresh
rm /etc/motd
cd /work
echo shared > first; ln first second
ln -s ../etc/nowhere dangling
mknod null c 1 3; mkfifo pipe
mknod whiteout-like c 0 1
echo owned > owned; chown 123:456 owned; chmod 6755 owned
echo latin > "$(printf 'caf\\351')"
echo tab > "$(printf 'tab\\there')"
printf begin > sparse
dd if=/dev/zero of=sparse bs=1 count=1 seek=50M conv=notrunc 2>/dev/null
printf end >> sparse
touch -d '1960-01-02 03:04:05' old; touch -d '2001-02-03 04:05:06' dated
chmod 1777 /work
"""

READ = f"""
cat /work/{LONG}/file
ls -a /keep; cat /keep/upper
ls -a /gone; cat /gone/fresh
[ -e /etc/motd ] || echo no motd
cd /work
[ first -ef second ] && stat -c %h first
readlink dangling
stat -c '%F %t %T' null pipe whiteout-like
stat -c '%u %g %a' owned .
cat "$(printf 'caf\\351')" "$(printf 'tab\\there')"
stat -c '%s' sparse; tail -c 3 sparse; echo
date -u -r dated '+%Y-%m-%d %H:%M:%S'
"""

SEEN = """\
deep
.
..
upper
new
.
..
fresh
fresh
no motd
2
../etc/nowhere
character special file 1 3
fifo 0 0
character special file 0 1
123 456 6755
0 0 1777
latin
tab
52428804
end
2001-02-03 04:05:06
"""


async def captured(talk: Conversation, *, bytes_max: int = 64 * MIB) -> bytes:
    return b"".join([chunk async for chunk in talk.guest.capture(bytes_max=bytes_max)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LayerDirectory]:
    """The real layer store: what it makes of a tar is what production mounts."""
    opened = LayerDirectory(tmp_path / "layers")
    yield opened
    opened.close()


async def imported(store: LayerDirectory, tree: Path, tmp_path: Path) -> str:
    """Store a directory as an OCI layer and return its diff_id."""
    blob = tmp_path / "base.tar"
    with tarfile.open(blob, "w") as archive:
        archive.add(tree, arcname=".")
    diff_id = f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"
    await store.add_imported(blob, diff_id=diff_id)
    return diff_id


async def test_everything_written_is_read_back_in_the_next_guest(
    microvm: LibvirtMicroVM, store: LayerDirectory, base_layer: Path, tmp_path: Path
) -> None:
    base = await imported(store, base_layer.with_suffix(""), tmp_path)
    async with microvm.start(guest_spec(*(await store.mount_plan([base])).squashfs)) as guest:
        talk = Conversation(guest)
        wrote = await talk.sh(WRITE)
        assert (wrote.code, wrote.stderr) == (0, b"")
        before = (await talk.sh(READ)).text
        layer = await store.add_delta(
            guest.capture(bytes_max=64 * MIB), below=[base], bytes_max=64 * MIB
        )
    assert layer is not None
    plan = await store.mount_plan([base, layer.diff_id])
    async with microvm.start(guest_spec(*plan.squashfs)) as guest:
        talk = Conversation(guest)
        after = await talk.sh(READ)
        again = await store.add_delta(
            guest.capture(bytes_max=64 * MIB), below=[base, layer.diff_id], bytes_max=64 * MIB
        )
    assert after.stderr == b""
    assert before == SEEN
    assert after.text == SEEN
    assert again is None  # nothing but reading was done


async def test_whiteouts_opaque_directories_and_attributes_are_in_the_tar(
    microvm: LibvirtMicroVM, base_layer: Path
) -> None:
    async with microvm.start(guest_spec(base_layer)) as guest:
        talk = Conversation(guest)
        assert (await talk.sh(WRITE)).code == 0
        tar = await captured(talk)
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        found = {m.name: m for m in archive.getmembers()}
    for name in ("keep/lower", "etc/motd"):
        whiteout = found[name]
        assert whiteout.ischr()
        assert (whiteout.devmajor, whiteout.devminor) == (0, 0)
    assert found["gone"].pax_headers["SCHILY.xattr.trusted.overlay.opaque"] == "y"
    assert found["work/second"].islnk()
    assert found["work/second"].linkname == "work/first"
    assert found["work/sparse"].size == 52428804
    assert len(tar) < MIB  # fifty sparse megabytes are not sent
    assert found["work/old"].mtime == OLD_S
    assert "work/caf\udce9" in found
    assert not any(name.startswith(("dev/", "proc/", "sys/")) for name in found)
    assert not {"dev", "proc", "sys"} & found.keys()


async def test_twenty_layers_are_seen_in_their_order(
    microvm: LibvirtMicroVM, base_layer: Path, tmp_path: Path
) -> None:
    layers = []
    for number in range(20):
        tree = tmp_path / f"{number}"
        tree.mkdir()
        (tree / "top").write_text(f"{number}\n")
        (tree / f"only-{number}").touch()
        layers.append(squash(tree, tmp_path / f"{number}.sqfs"))
    async with microvm.start(guest_spec(base_layer, *layers)) as guest:
        done = await Conversation(guest).sh("cat /top; ls / | grep -c only-")
    assert done.text == "19\n20\n"


async def test_an_image_of_no_layer_can_be_written_to(microvm: LibvirtMicroVM) -> None:
    async with microvm.start(guest_spec()) as guest:
        talk = Conversation(guest)
        await put_file(guest, "/a/b", chunks(b"c"), size_bytes=1, uid=0, gid=0, mode=0o644)
        tar = await captured(talk)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == [".", "a", "a/b"]


async def test_megabytes_of_delta_arrive_whole(microvm: LibvirtMicroVM, base_layer: Path) -> None:
    async with microvm.start(guest_spec(base_layer)) as guest:
        talk = Conversation(guest)
        done = await talk.sh("head -c 30M /dev/urandom > /blob; sha256sum /blob")
        tar = await captured(talk)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        blob = archive.extractfile("blob")
        assert blob is not None

        assert hashlib.sha256(blob.read()).hexdigest() == done.text.split()[0]
