"""Built as a round trip: what the writer writes, `tarfile` and our own reader read back."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.adapters.layers.tar.reader import Rules, TarReader
from contree.adapters.layers.tar.writer import END_OF_ARCHIVE, header, padding

COMPONENTS = st.binary(min_size=1, max_size=60).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
PATHS = st.lists(COMPONENTS, min_size=1, max_size=8).map(b"/".join)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=40).filter(lambda n: b"=" not in n and b"\0" not in n),
    st.binary(max_size=300),
    max_size=3,
).map(lambda pairs: tuple(sorted(pairs.items())))
KINDS = [
    Kind.REGULAR,
    Kind.DIRECTORY,
    Kind.SYMLINK,
    Kind.HARD_LINK,
    Kind.CHARACTER_DEVICE,
    Kind.BLOCK_DEVICE,
    Kind.FIFO,
]


@st.composite
def entries(draw: st.DrawFn) -> tuple[TarEntry, bytes]:
    kind = draw(st.sampled_from(KINDS))
    data = draw(st.binary(max_size=1200)) if kind is Kind.REGULAR else b""
    links = kind in (Kind.SYMLINK, Kind.HARD_LINK)
    devices = kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
    device = st.tuples(
        st.integers(0, bounds.DEVICE_MAJOR_MAX), st.integers(0, bounds.DEVICE_MINOR_MAX)
    )
    entry = TarEntry(
        path=draw(PATHS),
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, bounds.ID_MAX)),
        gid=draw(st.integers(0, bounds.ID_MAX)),
        mtime_s=draw(st.integers(-(2**40), 2**40)),
        size_bytes=len(data),
        link=draw(PATHS) if links else b"",
        device=draw(device) if devices else (0, 0),
        xattrs=draw(XATTRS),
        stored_bytes=len(data),
    )
    return entry, data


def written(entry: TarEntry, data: bytes) -> bytes:
    return header(entry) + data + padding(len(data)) + END_OF_ARCHIVE


@given(case=entries())
def test_our_reader_reads_back_every_field(case: tuple[TarEntry, bytes]) -> None:
    entry, data = case
    tar = written(entry, data)
    for rules in Rules:
        reader = TarReader(io.BytesIO(tar), rules)
        (found,) = [(one, b"".join(reader.chunks())) for one in reader]
        assert found[1] == data
        for name in TarEntry.__slots__:
            if name not in ("offset", "data_offset"):
                assert getattr(found[0], name) == getattr(entry, name), name


@given(case=entries())
def test_tarfile_reads_back_the_same(case: tuple[TarEntry, bytes]) -> None:
    entry, data = case
    with tarfile.open(fileobj=io.BytesIO(written(entry, data))) as archive:
        (member,) = archive.getmembers()
        assert member.name.encode("utf-8", "surrogateescape") == entry.path.rstrip(b"/")
        told = (member.mode, member.uid, member.gid, int(member.mtime))
        assert told == (entry.mode, entry.uid, entry.gid, entry.mtime_s)
        assert member.linkname.encode("utf-8", "surrogateescape") == entry.link
        if member.isreg():
            body = archive.extractfile(member)
            assert body is not None
            assert body.read() == data
        if member.isdev() and not member.isfifo():
            assert (member.devmajor, member.devminor) == entry.device


def test_plain_entries_need_no_extended_header() -> None:
    entry = TarEntry(path=b"etc/passwd", kind=Kind.REGULAR, mode=0o644, mtime_s=1)
    assert len(header(entry)) == bounds.BLOCK_BYTES
    long = TarEntry(path=b"d" * 101, kind=Kind.REGULAR)
    assert len(header(long)) == 3 * bounds.BLOCK_BYTES


def test_a_record_counts_its_own_digits() -> None:
    for size in range(80, 110):
        entry = TarEntry(path=b"x", kind=Kind.FIFO, xattrs=((b"u", b"v" * size),))
        (found,) = TarReader(io.BytesIO(written(entry, b"")), Rules.GUEST)
        assert found.xattrs == entry.xattrs
