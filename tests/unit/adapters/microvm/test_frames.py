"""Built by hypothesis: valid streams, damaged streams and plain noise, fed in arbitrary pieces."""

import struct
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contree.adapters.microvm.agent.frames import (
    MAX_GUEST_PAYLOAD_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_OUTPUT_CHUNK_BYTES,
    FrameDecoder,
    GuestProtocolError,
)
from contree.adapters.microvm.agent.messages import (
    GuestFrame,
    GuestFrameType,
    Output,
    SpawnStage,
    StdinCredit,
    Stream,
)

HEADER_BYTES = 8


def frame(kind: int, payload: bytes, reserved: int = 0) -> bytes:
    return struct.pack("<IHH", len(payload), kind, reserved) + payload


def text(raw: bytes) -> bytes:
    return struct.pack("<H", len(raw)) + raw


U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NAME = st.binary(max_size=64)


@st.composite
def payloads(draw: st.DrawFn, kind: GuestFrameType) -> bytes:
    """A well-formed payload of this kind, by the book: docs/guest-protocol.md section 4."""
    match kind:
        case GuestFrameType.READY:
            fixed = struct.pack("<HHIQ", 1, draw(st.integers(0, 3)), draw(U32), draw(U64))
            return fixed + text(draw(NAME)) + text(draw(NAME))
        case GuestFrameType.CONFIGURED:
            return struct.pack("<QQ", draw(U64), draw(U64))
        case GuestFrameType.PREPARED | GuestFrameType.REHEARSED:
            return struct.pack("<Q", draw(U64))
        case GuestFrameType.FILE_OK:
            return struct.pack("<Q", draw(U64))
        case GuestFrameType.SPAWNED | GuestFrameType.SIGNALLED:
            return struct.pack("<II", draw(U32), draw(U32))
        case GuestFrameType.STDIN_CREDIT:
            return struct.pack("<II", draw(U32), draw(st.integers(1, 2**32 - 1)))
        case GuestFrameType.SPAWN_FAILED:
            stage = draw(st.sampled_from(SpawnStage))
            return struct.pack("<IHHi", draw(U32), stage, 0, draw(st.integers(0, 133)))
        case GuestFrameType.OUTPUT:
            head = struct.pack("<IB", draw(U32), draw(st.sampled_from(Stream)))
            return head + draw(st.binary(min_size=1, max_size=200))
        case GuestFrameType.TRUNCATED:
            dropped = draw(st.integers(1, 2**64 - 1))
            return struct.pack(
                "<IBQQ", draw(U32), draw(st.sampled_from(Stream)), draw(U64), dropped
            )
        case GuestFrameType.EXITED:
            code, signal = draw(
                st.one_of(
                    st.tuples(st.integers(0, 255), st.just(-1)),
                    st.tuples(st.just(-1), st.integers(1, 64)),
                )
            )
            head = struct.pack("<IIii", draw(U32), draw(U32), code, signal)
            usage = [draw(st.integers(-(2**63), 2**63 - 1)) for _ in range(18)]
            return head + struct.pack("<IQ18q", draw(st.integers(0, 3)), draw(U64), *usage)
        case GuestFrameType.CAPTURED:
            return struct.pack("<QQQ", draw(U64), draw(U64), draw(U64))
        case GuestFrameType.ERROR:
            head = struct.pack("<HHiI", draw(st.integers(0, 11)), draw(st.integers(1, 9)), 5, 1)
            return head + text(draw(st.binary(max_size=100)))


FRAMES = st.sampled_from(GuestFrameType).flatmap(
    lambda kind: payloads(kind).map(lambda payload: frame(kind, payload))
)
STREAMS = st.lists(FRAMES, max_size=12).map(b"".join)


def feed_in_pieces(stream: bytes, cuts: Sequence[int]) -> list[GuestFrame]:
    decoder, frames, at = FrameDecoder(), [], 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        frames += decoder.feed(stream[at:cut])
        assert decoder.buffered_bytes <= HEADER_BYTES + MAX_GUEST_PAYLOAD_BYTES
        at = cut
    return frames


@given(st.lists(FRAMES, max_size=12))
def test_every_well_formed_frame_is_decoded(frames: list[bytes]) -> None:
    assert len(FrameDecoder().feed(b"".join(frames))) == len(frames)


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=20))
def test_the_same_frames_come_out_however_the_stream_is_cut(stream: bytes, cuts: list[int]) -> None:
    assert feed_in_pieces(stream, cuts) == FrameDecoder().feed(stream)


@given(STREAMS)
def test_one_byte_at_a_time_gives_the_same_frames(stream: bytes) -> None:
    assert feed_in_pieces(stream, range(len(stream))) == FrameDecoder().feed(stream)


@given(st.binary(max_size=4096), st.lists(st.integers(0, 4096), max_size=5))
def test_noise_ends_in_the_protocol_s_error_or_in_waiting(noise: bytes, cuts: list[int]) -> None:
    with suppress(GuestProtocolError):  # the only exception there may be
        feed_in_pieces(noise, cuts)


@given(STREAMS, st.data())
def test_a_damaged_stream_never_strays(stream: bytes, data: st.DataObject) -> None:
    damaged = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(GuestProtocolError):
        feed_in_pieces(bytes(damaged), [])


@given(FRAMES, st.binary(min_size=1, max_size=8))
def test_bytes_after_the_last_field_are_refused(whole: bytes, extra: bytes) -> None:
    kind = GuestFrameType(int.from_bytes(whole[4:6], "little"))
    if kind is GuestFrameType.OUTPUT:
        return  # its data runs to the end
    with pytest.raises(GuestProtocolError, match="after the last field"):
        FrameDecoder().feed(frame(kind, whole[HEADER_BYTES:] + extra))


@given(FRAMES, st.integers(1, 8))
def test_a_payload_cut_short_is_refused(whole: bytes, missing: int) -> None:
    kind = GuestFrameType(int.from_bytes(whole[4:6], "little"))
    payload = whole[HEADER_BYTES:]
    if kind is GuestFrameType.OUTPUT and len(payload) - missing > 5:
        return
    with pytest.raises(GuestProtocolError):
        FrameDecoder().feed(frame(kind, payload[: max(0, len(payload) - missing)]))


def test_a_length_over_the_limit_is_refused_before_its_payload_is_kept() -> None:
    decoder = FrameDecoder()
    header = struct.pack("<IHH", MAX_GUEST_PAYLOAD_BYTES + 1, GuestFrameType.OUTPUT, 0)
    with pytest.raises(GuestProtocolError, match="65537 bytes"):
        decoder.feed(header)
    assert decoder.buffered_bytes == 0


def test_a_decoder_that_refused_once_refuses_for_good() -> None:
    decoder = FrameDecoder()
    with pytest.raises(GuestProtocolError):
        decoder.feed(frame(0x1234, b""))
    with pytest.raises(GuestProtocolError):
        decoder.feed(frame(GuestFrameType.FILE_OK, bytes(8)))


@pytest.mark.parametrize(
    ("kind", "payload", "reason"),
    [
        (0x0001, b"", "is no GuestFrameType"),
        (GuestFrameType.OUTPUT, struct.pack("<IB", 1, 3) + b"x", "is no Stream"),
        (GuestFrameType.OUTPUT, struct.pack("<IB", 1, 1), "chunk of 0 bytes"),
        (
            GuestFrameType.OUTPUT,
            struct.pack("<IB", 1, 1) + bytes(MAX_OUTPUT_CHUNK_BYTES + 1),
            "chunk of 32769 bytes",
        ),
        (GuestFrameType.READY, struct.pack("<HHIQ", 1, 4, 1, 0), "is no AgentState"),
        (
            GuestFrameType.READY,
            struct.pack("<HHIQ", 1, 0, 1, 0) + text(bytes(257)),
            "text of 257 bytes",
        ),
        (GuestFrameType.SPAWN_FAILED, struct.pack("<IHHi", 1, 9, 0, 0), "is no SpawnStage"),
        (GuestFrameType.SPAWN_FAILED, struct.pack("<IHHi", 1, 8, 1, 0), "reserved field"),
        (GuestFrameType.TRUNCATED, struct.pack("<IBQQ", 1, 1, 5, 0), "nothing dropped"),
        (GuestFrameType.STDIN_CREDIT, struct.pack("<II", 1, 0), "of nothing"),
        (
            GuestFrameType.ERROR,
            struct.pack("<HHiI", 1, 1, 0, 0) + text(bytes(MAX_MESSAGE_BYTES + 1)),
            "text of 1025 bytes",
        ),
        (
            GuestFrameType.ERROR,
            struct.pack("<HHiIH", 1, 1, 0, 0, 9) + b"short",
            "exceeds its payload",
        ),
        (GuestFrameType.ERROR, struct.pack("<HHiI", 1, 10, 0, 0) + text(b""), "GuestErrorCode"),
    ],
)
def test_a_malformed_frame_is_refused_with_the_reason(
    kind: int, payload: bytes, reason: str
) -> None:
    with pytest.raises(GuestProtocolError, match=reason):
        FrameDecoder().feed(frame(kind, payload))


@pytest.mark.parametrize(
    ("code", "signal", "flags"),
    [(-1, -1, 0), (0, 9, 0), (256, -1, 0), (-2, -1, 0), (-1, 0, 0), (-1, 65, 0), (0, -1, 8)],
)
def test_an_impossible_exit_is_refused(code: int, signal: int, flags: int) -> None:
    payload = struct.pack("<IIiiIQ18q", 1, 2, code, signal, flags, 3, *([0] * 18))
    with pytest.raises(GuestProtocolError, match="EXITED"):
        FrameDecoder().feed(frame(GuestFrameType.EXITED, payload))


def test_a_reserved_header_field_must_be_zero() -> None:
    with pytest.raises(GuestProtocolError, match="reserved header field"):
        FrameDecoder().feed(frame(GuestFrameType.FILE_OK, bytes(8), reserved=1))


def test_text_that_is_not_utf8_is_shown_escaped() -> None:
    payload = struct.pack("<HHiI", 10, 5, 0, 0) + text(b"caf\xe9")
    (error,) = FrameDecoder().feed(frame(GuestFrameType.ERROR, payload))
    assert getattr(error, "message", None) == "caf\\xe9"


def test_golden_bytes_of_two_frames() -> None:
    stream = bytes.fromhex(
        "08000000088000000500000000000100" + "0700000006800000" + "03000000026869"
    )
    assert FrameDecoder().feed(stream) == [
        StdinCredit(spid=5, count=65_536),
        Output(spid=3, stream=Stream.STDERR, data=b"hi"),
    ]
