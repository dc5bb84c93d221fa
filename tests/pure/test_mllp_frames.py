"""MLLP frames: whatever pieces the bytes come in, the same messages come out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.errors import InvalidInput, OutcomeUnknown
from archsync.messages.mllp import FrameDecoder, encode_frame

MESSAGE = st.binary(min_size=1, max_size=60).filter(lambda m: not {0x0B, 0x1C} & set(m) and m not in (b"\x06", b"\x15"))
NOISE = st.binary(max_size=10).filter(lambda m: b"\x0b" not in m)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def decode(pieces: list[bytes]) -> list[bytes]:
    decoder = FrameDecoder()
    return [message for piece in pieces for message in decoder.feed(piece)]


@given(
    parts=st.lists(st.tuples(NOISE, MESSAGE), max_size=5),
    after=NOISE,
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_messages_come_out_as_they_went_in_however_the_bytes_split(
    parts: list[tuple[bytes, bytes]], after: bytes, cuts: list[int]
) -> None:
    stream = b"".join(noise + encode_frame(message) for noise, message in parts) + after
    assert decode(split(stream, cuts)) == [message for _, message in parts]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_give_the_same_messages_in_one_piece_and_in_many(stream: bytes, cuts: list[int]) -> None:
    # bytes that matter, far more often than chance would bring them
    dense = bytes(b"\x0b\x1c\r\x06\x15AB"[b % 7] for b in stream)
    whole = decode([dense])
    assert decode(split(dense, cuts)) == whole
    assert decode([bytes([b]) for b in dense]) == whole


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (b"", []),
        (b"\x0bA\x1c\r", [b"A"]),
        (b"\x0bA\x1c\r\x0bB\x1c\r", [b"A", b"B"]),
        (b"noise\r\x1c\r\x0bA\x1c\rnoise", [b"A"]),
        (b"\x0bcut o\x0bA\x1c\r", [b"A"]),
        (b"\x0bA\x1cB\x1c\r", [b"A\x1cB"]),
        (b"\x0bA\x1c\x1c\r", [b"A\x1c"]),
        (b"\x0b\x06\x1c\r\x0bA\x1c\r", [b"A"]),
        (b"\x0b\x15\x1c\r\x0bA\x1c\r", [b"A"]),
        (b"\x06\x0bA\x1c\r", [b"A"]),
        (b"\x0b\x1c\r\x0bA\x1c\r", [b"A"]),
        (b"\x0bA\x1c", []),
        (b"\x0bA\r", []),
    ],
)
def test_only_whole_frames_are_messages(stream: bytes, messages: list[bytes]) -> None:
    assert decode([stream]) == messages


def test_a_frame_that_has_begun_is_known_as_such() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"noise")
    assert not decoder.has_partial_frame
    decoder.feed(b"\x0bA\x1c")
    assert decoder.has_partial_frame
    assert decoder.feed(b"\r") == [b"A"]
    assert not decoder.has_partial_frame


def test_a_frame_of_the_greatest_length_passes() -> None:
    assert FrameDecoder(max_message_bytes=5).feed(b"\x0b12345\x1c\r") == [b"12345"]


@pytest.mark.parametrize("pieces", [[b"", b"\x0b123456\x1c\r"], [b"\x0b123", b"456"]])
def test_a_frame_beyond_the_limit_is_given_up(pieces: list[bytes]) -> None:
    decoder = FrameDecoder(max_message_bytes=5)
    decoder.feed(pieces[0])
    with pytest.raises(OutcomeUnknown) as given_up:
        decoder.feed(pieces[1])
    assert given_up.value.code == "mllp-answer-too-long"


def test_noise_is_not_kept_however_long_it_gets() -> None:
    decoder = FrameDecoder(max_message_bytes=5)
    for _ in range(100):
        assert decoder.feed(b"x" * 1000) == []
    assert decoder.feed(b"\x0bA\x1c\r") == [b"A"]


@pytest.mark.parametrize("message", [b"", b"a\x0bb", b"a\x1cb", b"a\x1c\rb"])
def test_a_message_that_would_break_its_frame_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidInput):
        encode_frame(message)
