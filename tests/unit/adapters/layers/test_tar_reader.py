"""Built with tars of `tarfile`, patched byte by byte for what `tarfile` would not write."""

from __future__ import annotations

import io
import struct
import tarfile
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contree.adapters.layers.reading.content import read_range
from contree.adapters.layers.tar import bounds
from contree.adapters.layers.tar.entry import Kind, TarEntry
from contree.adapters.layers.tar.reader import Rules, TarReader
from contree.domain.errors import LayerRefused
from tests.support import layer_tars as tars
from tests.support.layer_tars import device, directory, file, hard_link, root, symlink


def entries(tar: bytes, rules: Rules = Rules.IMPORT) -> list[TarEntry]:
    return list(TarReader(io.BytesIO(tar), rules))


def contents(tar: bytes, rules: Rules = Rules.IMPORT) -> dict[bytes, bytes]:
    reader = TarReader(io.BytesIO(tar), rules)
    return {entry.path: b"".join(reader.chunks()) for entry in reader}


def summed(header: bytes) -> bytes:
    """The 512-byte header with its checksum made right."""
    blank = header[:148] + b"        " + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def patched(member: tars.Member, at: int, value: bytes) -> bytes:
    tar = tars.tar_bytes([member], format=tarfile.USTAR_FORMAT)
    return summed(tar[:at] + value + tar[at + len(value) : 512]) + tar[512:]


def refused(tar: bytes, match: str, rules: Rules = Rules.IMPORT) -> None:
    with pytest.raises(LayerRefused, match=match):
        entries(tar, rules)


def test_each_type_is_read_with_its_metadata() -> None:
    members = [
        root(mode=0o700),
        directory("d", mode=0o1777, uid=3, gid=4, mtime=5),
        file("d/f", b"abc", mode=0o4755, xattrs={"user.x": "y", "user.a": "\udcff"}),
        hard_link("d/h", "d/f"),
        symlink("s", "../any//text/"),
        device("c", 5, 300),
        tars.Member(name="b", type=tarfile.BLKTYPE, device=(4095, 1_048_575)),
        tars.Member(name="p", type=tarfile.FIFOTYPE),
    ]
    found = {entry.path: entry for entry in entries(tars.guest_bytes(members), Rules.GUEST)}
    kinds = [entry.kind for entry in found.values()]
    assert kinds == [
        Kind.DIRECTORY,
        Kind.DIRECTORY,
        Kind.REGULAR,
        Kind.HARD_LINK,
        Kind.SYMLINK,
        Kind.CHARACTER_DEVICE,
        Kind.BLOCK_DEVICE,
        Kind.FIFO,
    ]
    held = found[b"d"]
    assert (held.mode, held.uid, held.gid, held.mtime_s) == (0o1777, 3, 4, 5)
    assert found[b"d/f"].xattrs == ((b"user.a", b"\xff"), (b"user.x", b"y"))
    assert (found[b"d/h"].link, found[b"s"].link) == (b"d/f", b"../any//text/")
    assert (found[b"c"].device, found[b"b"].device) == ((5, 300), (4095, 1_048_575))


def test_a_symlink_has_the_mode_that_linux_shows() -> None:
    (entry,) = entries(tars.tar_bytes([symlink("s", "t", mode=0o644)]))
    assert entry.mode == 0o777


def test_content_that_is_not_taken_is_skipped() -> None:
    tar = tars.tar_bytes([file("a", b"1" * 600_000), file("b", b"2")])
    assert [entry.path for entry in entries(tar)] == [b"a", b"b"]
    assert contents(tar) == {b"a": b"1" * 600_000, b"b": b"2"}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_long_names_and_large_numbers_are_read(form: int) -> None:
    long = "d/" * 120 + "n" * 200
    members = [
        file(long, b"1", uid=3_000_000_000, gid=2**31, mtime=2**34),
        symlink("s", "t" * 400),
        file("caf\udce9", mtime=-77),
    ]
    first, second, third = entries(tars.tar_bytes(members, format=form))
    assert first.path == long.encode()
    assert (first.uid, first.gid, first.mtime_s) == (3_000_000_000, 2**31, 2**34)
    assert second.link == b"t" * 400
    assert (third.path, third.mtime_s) == (b"caf\xe9", -77)


def test_an_ustar_prefix_belongs_to_the_name() -> None:
    name = "p" * 90 + "/" + "n" * 90
    (entry,) = entries(tars.tar_bytes([file(name)], format=tarfile.USTAR_FORMAT))
    assert entry.path == name.encode()


def test_fractions_of_a_second_are_rounded_down() -> None:
    members = [file("a", pax={"mtime": "5.999"}), file("b", pax={"mtime": "-0.5"})]
    assert [entry.mtime_s for entry in entries(tars.tar_bytes(members))] == [5, -1]


def test_a_seventh_edition_directory_is_one() -> None:
    (entry,) = entries(patched(file("old/"), 156, b"\0"))
    assert (entry.path, entry.kind) == (b"old", Kind.DIRECTORY)


def test_a_global_header_is_ignored() -> None:
    global_header = tars.tar_bytes([tars.Member(name="g", type=b"g", data=b"16 path=changed\n")])
    tar = global_header[:1024] + tars.tar_bytes([file("kept")])
    assert [entry.path for entry in entries(tar)] == [b"kept"]
    refused(tar, "header type 'g'", Rules.GUEST)


SEGMENTS = [(4096, b"A" * 700), (1 << 30, b"B" * 5)]
SPARSE_SIZE = (1 << 30) + 1000


def test_a_sparse_file_of_gnu_1_0_is_read() -> None:
    tar = tars.tar_bytes([tars.sparse("s", SEGMENTS, SPARSE_SIZE), file("next", b"x")])
    sparse, after = entries(tar)
    assert (sparse.path, sparse.size_bytes) == (b"s", SPARSE_SIZE)
    assert sparse.segments == ((4096, 700), (1 << 30, 5))
    assert tar[sparse.data_offset :][: sparse.stored_bytes] == b"A" * 700 + b"B" * 5
    assert (after.path, after.segments) == (b"next", None)


def test_a_sparse_file_of_pax_0_1_is_read() -> None:
    pax = {
        "GNU.sparse.size": "5000",
        "GNU.sparse.name": "real",
        "GNU.sparse.map": "100,3,4997,3",
        "GNU.sparse.numblocks": "2",
    }
    (entry,) = entries(tars.tar_bytes([file("GNUSparseFile.1/x", b"abcdef", pax=pax)]))
    assert (entry.path, entry.size_bytes) == (b"real", 5000)
    assert entry.segments == ((100, 3), (4997, 3))


def test_an_old_gnu_sparse_file_with_more_headers_is_read() -> None:
    pairs = [(1000 * n, 1) for n in range(8)]
    packed = [b"%011o\0%011o\0" % pair for pair in pairs]
    head = bytearray(tars.tar_bytes([file("s", b"12345678")], format=tarfile.GNU_FORMAT)[:512])
    head[156:157] = b"S"
    head[386:482] = b"".join(packed[:4])
    head[482] = 1
    head[483:495] = b"%011o\0" % 9000
    more = b"".join(packed[4:]).ljust(504, b"\0") + bytes(8)
    tar = summed(bytes(head)) + more + b"12345678".ljust(512, b"\0") + bytes(1024)
    reader = TarReader(io.BytesIO(tar), Rules.IMPORT)
    (entry,) = [(entry, b"".join(reader.chunks())) for entry in reader]
    assert entry[0].segments == tuple(pairs)
    assert (entry[0].size_bytes, entry[1]) == (9000, b"12345678")
    refused(tar, "entry type 'S'", Rules.GUEST)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../x", "component"),
        ("a/../x", "component"),
        ("/../x", "component"),
        ("a/..", "component"),
        ("..", "component"),
        ("n" * 256, "255 bytes"),
        ("d/" * 2050 + "x", "4095 bytes"),
        ("a\0b", "NUL"),
    ],
)
def test_a_name_that_no_layer_may_have_is_refused(name: str, match: str) -> None:
    refused(tars.tar_bytes([file("x", pax={"path": name})]), match)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/x", b"x"),
        ("//x", b"x"),
        ("a//x", b"a/x"),
        ("a/./x", b"a/x"),
        (".//x", b"x"),
        ("./x/", b"x"),
        ("x/.", b"x"),
    ],
)
def test_an_imported_name_counts_from_the_root(name: str, path: bytes) -> None:
    """As Docker and containerd take the names that kaniko, ko and others write."""
    tar = tars.tar_bytes([file("x", b"content", pax={"path": name})])
    assert contents(tar) == {path: b"content"}
    assert entries(tar)[0].kind is Kind.REGULAR
    refused(tars.guest_bytes([root(), file("x", pax={"path": name})]), "'", Rules.GUEST)


@pytest.mark.parametrize("name", ["/", ".", "./", "//", "/."])
def test_an_imported_name_may_be_the_root(name: str) -> None:
    (entry,) = entries(tars.tar_bytes([directory("d", mode=0o750, pax={"path": name})]))
    assert (entry.path, entry.kind, entry.mode) == (b"", Kind.DIRECTORY, 0o750)
    refused(tars.tar_bytes([file("x", pax={"path": name})]), "the root is not a directory")


def test_a_pax_value_of_no_bytes_says_nothing() -> None:
    """POSIX.1-2017 pax: it deletes the record, so the header's own field counts."""
    tar = tars.tar_bytes([file("kept", b"x", pax={"path": "", "uid": "", "mtime": ""})])
    (entry,) = entries(tar)
    assert (entry.path, entry.uid) == (b"kept", 0)


@pytest.mark.parametrize("target", ["../x", "/../x", "a/../../x", ".."])
def test_a_hard_link_out_of_the_layer_is_refused(target: str) -> None:
    refused(tars.tar_bytes([hard_link("h", "x", pax={"linkpath": target})]), "hard link target")


@pytest.mark.parametrize("target", ["/a/x", "a//x", "./a/./x"])
def test_an_imported_hard_links_target_counts_from_the_root(target: str) -> None:
    (entry,) = entries(tars.tar_bytes([hard_link("h", "x", pax={"linkpath": target})]))
    assert (entry.kind, entry.link) == (Kind.HARD_LINK, b"a/x")


def test_a_symlink_to_nothing_is_refused() -> None:
    refused(tars.tar_bytes([symlink("s", "")]), "impossible target")


@pytest.mark.parametrize("target", ["t" * 4096, "a\0b"])
def test_an_impossible_symlink_is_refused(target: str) -> None:
    refused(tars.tar_bytes([symlink("s", "x", pax={"linkpath": target})]), "impossible target")


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (124, b"99999999999\0", "size is not a number"),
        (124, b"\xff" * 12, "negative size"),
        (108, b"\xff" * 8, "uid -1"),
        (116, b"\x80\0\0\xff\xff\xff\xff\xff", "gid"),
        (136, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "impossible time"),
        (156, b"D", "entry type 'D'"),
        (156, b"M", "entry type 'M'"),
        (156, b"\xff", "entry type"),
    ],
)
def test_an_impossible_field_is_refused(at: int, value: bytes, match: str) -> None:
    refused(patched(file("f"), at, value), match)


def test_a_device_number_out_of_range_is_refused() -> None:
    refused(patched(device("d", 1, 1), 329, b"0010000\0"), "out of range")
    refused(patched(device("d", 1, 1), 337, b"4000000\0"), "out of range")
    refused(patched(device("d", 1, 1), 329, b"\xff" * 8), "out of range")


def test_a_wrong_checksum_is_refused() -> None:
    tar = bytearray(tars.tar_bytes([file("f")]))
    tar[0] ^= 1
    refused(bytes(tar), "checksum")


@pytest.mark.parametrize(
    "pax",
    [
        {"uid": "4294967295"},
        {"gid": "-1"},
        {"uid": "1e3"},
        {"size": "9" * 30},
        {"mtime": "12:00"},
        {"mtime": "9" * 19},
        {"SCHILY.xattr." + "n" * 256: "v"},
        {"SCHILY.xattr.user.large": "v" * 65_537},
        {"SCHILY.xattr.": "v"},
    ],
)
def test_an_impossible_pax_value_is_refused(pax: dict[str, str]) -> None:
    with pytest.raises(LayerRefused):
        entries(tars.tar_bytes([file("f", pax=pax)]))


def raw_pax(body: bytes, *, claimed: int | None = None) -> bytes:
    head = bytearray(tars.tar_bytes([file("x", body)], format=tarfile.USTAR_FORMAT)[:512])
    head[156:157] = b"x"
    head[124:136] = b"%011o\0" % (len(body) if claimed is None else claimed)
    return summed(bytes(head)) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize(
    "body",
    [
        b"path=x\n",
        b"5 a=b\n",
        b"99 path=x\n",
        b"8 path=x\n",
        b"0 a=b\n",
        b"-9 path=x\n",
        b"9 path=x\n\n",
        b"5 =b\n",
        b"7 nokey\n",
        b"9" * 400,
    ],
)
def test_a_malformed_pax_header_is_refused(body: bytes) -> None:
    refused(raw_pax(body) + tars.tar_bytes([file("f")]), "pax header")


def test_an_extended_header_is_bounded_before_it_is_read() -> None:
    claimed = bounds.PAX_HEADER_BYTES_MAX + 1
    refused(raw_pax(b"", claimed=claimed) + bytes(claimed), "extended headers over")
    once = raw_pax(b"%d comment=%s\n" % (300_016, b"c" * 300_000))
    refused(once * 5 + tars.tar_bytes([file("f")]), "extended headers over")


def test_a_stream_that_ends_in_a_header_is_refused() -> None:
    refused(raw_pax(b"9 path=x\n") + bytes(1024), "after an extended header")


@pytest.mark.parametrize(
    ("pairs", "size", "match"),
    [
        ([(0, 5), (3, 5)], 100, "not in order"),
        ([(50, 5), (3, 5)], 100, "not in order"),
        ([(96, 5)], 100, "past the end"),
        ([(0, 4)], 100, "does not match"),
        ([(0, 6)], 100, "does not match"),
    ],
)
def test_a_sparse_map_that_lies_is_refused(
    pairs: list[tuple[int, int]], size: int, match: str
) -> None:
    text = f"{len(pairs)}\n" + "".join(f"{a}\n{b}\n" for a, b in pairs)
    good = tars.sparse("s", [(0, b"12345")], size)
    lying = file("x", text.encode().ljust(512, b"\0") + b"12345", pax=good.pax)
    if sum(length for _, length in pairs) == 10:
        lying = file("x", text.encode().ljust(512, b"\0") + b"1234567890", pax=good.pax)
    refused(tars.tar_bytes([lying]), match)


@pytest.mark.parametrize(
    "text",
    [
        b"x\n",
        b"-1\n",
        b"2\n1\n",
        b"99999999\n",
        b"1\n1 1\n1\n",
        b"7" * 600,
        b"1\n" + b"1" * 30,
        b"",
    ],
)
def test_a_malformed_sparse_map_is_refused(text: bytes) -> None:
    pax = tars.sparse("s", [], 10).pax
    refused(tars.tar_bytes([file("x", text, pax=pax)]), "sparse")


def test_withdrawn_and_unknown_sparse_formats_are_refused() -> None:
    refused(tars.tar_bytes([file("x", pax={"GNU.sparse.numblocks": "0"})]), "0.0")
    pax = {"GNU.sparse.major": "2", "GNU.sparse.minor": "0"}
    refused(tars.tar_bytes([file("x", pax=pax)]), "unknown format")


@pytest.mark.parametrize("rules", Rules)
@pytest.mark.parametrize("map_", ["", "5,0"])
@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE])
def test_only_a_regular_file_is_sparse(kind: bytes, map_: str, rules: Rules) -> None:
    """Else its map is content in the tar that we make of it, and no reader finds what follows."""
    pax = {"GNU.sparse.map": map_, "GNU.sparse.size": "1000000"}
    member = tars.Member(name="x", type=kind, link="t", pax=pax)
    refused(tars.tar_bytes([member]), "sparse but not a regular file", rules)


@pytest.mark.parametrize("keep", [1, 511, 513, 700, 1023, 1536])
def test_a_stream_that_is_cut_off_is_refused(keep: int) -> None:
    tar = tars.guest_bytes([file("f", b"x" * 600)])[:keep]
    refused(tar, "cut off|no end marker", Rules.GUEST)
    if keep % 512:
        refused(tar, "cut off")


def test_a_guests_stream_ends_exactly() -> None:
    tar = tars.guest_bytes([root()])
    assert len(entries(tar, Rules.GUEST)) == 1
    refused(tar + b"\0", "after the end", Rules.GUEST)
    refused(tar[:-512], "no end marker", Rules.GUEST)
    assert len(entries(tar + b"anything", Rules.IMPORT)) == 1
    assert len(entries(tar[:-1024], Rules.IMPORT)) == 1


def test_a_guests_link_has_no_content() -> None:
    tar = patched(symlink("s", "t"), 124, b"00000001000\0") + bytes(1024)
    refused(tar, "has content", Rules.GUEST)
    assert [entry.path for entry in entries(tar)] == [b"s"]


def small_sources() -> st.SearchStrategy[bytes]:
    """Valid tars with a few bytes changed, and plain noise."""
    valid = tars.tar_bytes(
        [
            root(),
            file("d" * 120, b"abc", xattrs={"user.a": "b"}, mtime=-1),
            tars.sparse("s", [(10, b"x" * 9)], 5000),
            hard_link("h", "d" * 120),
            device("c", 1, 2),
        ]
    )
    edits = st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=4)
    return st.one_of(st.binary(max_size=3000), edits.map(lambda pairs: _edited(valid, pairs)))


def _edited(data: bytes, pairs: list[tuple[int, int]]) -> bytes:
    """Change bytes, and make header checksums right again, so that more is reached."""
    out = bytearray(data)
    for at, value in pairs:
        out[at] = value
        start = at - at % 512
        if out[start + 257 : start + 262] == b"ustar":
            out[start : start + 512] = summed(bytes(out[start : start + 512]))
    return bytes(out)


@given(data=small_sources(), rules=st.sampled_from(Rules))
@example(data=b"", rules=Rules.IMPORT)
def test_any_bytes_are_read_or_refused(data: bytes, rules: Rules) -> None:
    reader = TarReader(io.BytesIO(data), rules)
    try:
        for entry in reader:
            assert b".." not in entry.path.split(b"/")
            assert not entry.path.startswith(b"/")
            assert sum(len(chunk) for chunk in reader.chunks()) == entry.stored_bytes
    except LayerRefused:
        pass


class Endless:
    """An entry of 64 GiB: zeros for ever after its header."""

    def __init__(self, header: bytes) -> None:
        self._header = header
        self.given = 0

    def read(self, size: int, /) -> bytes:
        piece = self._header[:size] or bytes(size)
        self._header = self._header[size:]
        self.given += len(piece)
        return piece


def test_memory_does_not_grow_with_content() -> None:
    header = patched(file("huge"), 124, b"\x80" + struct.pack(">3xQ", 64 << 30))[:512]
    source = Endless(header)
    reader = TarReader(source, Rules.IMPORT)
    tracemalloc.start()
    try:
        next(iter(reader))
        for _, chunk in zip(range(400), reader.chunks(), strict=False):
            assert len(chunk) <= bounds.CONTENT_CHUNK_BYTES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.given > 100 * 2**20
    assert peak < 4 * 2**20


def test_a_tar_shorter_than_its_index_is_an_error(tmp_path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    with path.open("rb") as stream, pytest.raises(EOFError):
        list(read_range(stream.fileno(), 1, 5))
