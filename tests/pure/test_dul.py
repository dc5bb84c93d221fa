"""PDUs of the DICOM upper layer: whatever pieces the bytes come in, the same comes out, and rubbish is called so."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.messages.dul import (
    INVALID_VALUE,
    MAX_PDU_BYTES,
    RELEASE_RP,
    RELEASE_RQ,
    UNEXPECTED_PDU,
    UNRECOGNIZED_PDU,
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    Event,
    Fragment,
    PduReader,
    ProtocolError,
    ReleaseAgreed,
    ReleaseRequested,
    encode_abort,
    encode_fragments,
    encode_p_data_head,
    max_fragment_bytes,
)

ACCEPT = struct.pack(">BBL", 2, 0, 68) + bytes(range(68))
REJECT = bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 1])


def p_data(*items: tuple[int, int, bytes]) -> bytes:
    body = b"".join(struct.pack(">LBB", len(data) + 2, context, control) + data for context, control, data in items)
    return struct.pack(">BBL", 4, 0, len(body)) + body


# a stream with one of everything, and what is in it
STREAM = (
    ACCEPT
    + REJECT
    + p_data((1, 3, b"command"))
    + p_data((3, 1, b"two"), (3, 0, b""), (255, 2, bytes(300)))
    + RELEASE_RQ
    + RELEASE_RP
    + bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 6])
)
EVENTS: list[Event] = [
    AssociateAccepted(ACCEPT),
    AssociateRejected(2, 3, 1),
    Fragment(1, 3, b"command"),
    Fragment(3, 1, b"two"),
    Fragment(3, 0, b""),
    Fragment(255, 2, bytes(300)),
    ReleaseRequested(),
    ReleaseAgreed(),
    Aborted(2, 6),
]


def read(pieces: list[bytes]) -> tuple[list[Event], str | None, bool]:
    """The events, the fault that ended them, and whether bytes were left."""
    reader, events = PduReader(), []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (event := reader.next_event()) is not None:
                events.append(event)
    except ProtocolError as exc:
        return events, f"{exc}/{exc.reason}", False
    return events, None, reader.has_partial_pdu


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, len(STREAM)])
def test_everything_comes_out_in_pieces_of_any_size(size):
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert read(pieces) == (EVENTS, None, False)


def test_everything_comes_out_when_cut_in_two_anywhere():
    for cut in range(len(STREAM) + 1):
        assert read([STREAM[:cut], STREAM[cut:]]) == (EVENTS, None, False), cut


def test_a_stream_that_ends_early_gives_what_was_whole_and_no_more():
    for end in range(len(STREAM)):
        events, fault, has_rest = read([STREAM[:end]])
        assert fault is None
        assert events == EVENTS[: len(events)]
        assert has_rest or end in {0, 74, 84, 103, *(len(STREAM) - n for n in (0, 10, 20, 30))}, end


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=8))
def test_any_bytes_give_the_same_in_one_piece_and_in_many(noise, cuts):
    # bytes that matter, far more often than chance would bring them
    stream = bytes(b"\x00\x01\x02\x03\x04\x05\x06\x07\x0a\xff"[b % 10] if b > 60 else b for b in noise)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert read(pieces) == read([stream]) == read([bytes([b]) for b in stream])


@given(st.integers(0, len(STREAM) - 1), st.integers(0, 255))
def test_one_wrong_byte_never_crashes_the_reader(position, value):
    events, fault, _ = read([STREAM[:position] + bytes([value]) + STREAM[position + 1 :]])
    assert len(events) <= len(EVENTS) + 40
    assert fault is None or "/" in fault


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", UNRECOGNIZED_PDU),
        (b"\x15\x03\x01\x00\x02\x02\x46", UNRECOGNIZED_PDU),  # a TLS alert
        (b"\x00", UNRECOGNIZED_PDU),
        (b"\x08\x00\x00\x00\x00\x04abcd", UNRECOGNIZED_PDU),
        (b"\x01", UNEXPECTED_PDU),
        (struct.pack(">BBL", 4, 0, MAX_PDU_BYTES + 1), INVALID_VALUE),
        (struct.pack(">BBL", 4, 0, 0xFFFFFFFF), INVALID_VALUE),
        (struct.pack(">BBL", 4, 0, 0), INVALID_VALUE),
        (struct.pack(">BBL", 7, 0, 0), INVALID_VALUE),
        (struct.pack(">BBL", 3, 0, 3) + b"abc", INVALID_VALUE),
        (struct.pack(">BBL", 2, 0, 4) + b"abcd", INVALID_VALUE),
        (struct.pack(">BBLLBB", 4, 0, 6, 1, 1, 3), INVALID_VALUE),  # an item shorter than its header
        (struct.pack(">BBLLBB", 4, 0, 6, 3, 1, 3), INVALID_VALUE),  # an item longer than its PDU
        (struct.pack(">BBLLBB", 4, 0, 6, 0xFFFFFFFF, 1, 3), INVALID_VALUE),
        (struct.pack(">BBLLBB4s", 4, 0, 10, 2, 1, 3, b"abcd"), INVALID_VALUE),  # no room for a second item's header
    ],
)
def test_what_is_no_pdu_for_us_is_refused_with_the_reason_for_an_abort(stream, reason):
    reader = PduReader()
    reader.feed(p_data((1, 3, b"fine")) + stream)
    assert reader.next_event() == Fragment(1, 3, b"fine")
    for _ in range(2):
        with pytest.raises(ProtocolError) as caught:
            reader.next_event()
        assert caught.value.reason == reason


def test_a_wrong_type_is_seen_at_its_first_byte():
    reader = PduReader()
    reader.feed(b"S")  # SSH, SMTP and others greet first
    with pytest.raises(ProtocolError):
        reader.next_event()


def test_a_giant_pdu_is_refused_before_it_is_collected():
    reader = PduReader(max_pdu_bytes=100)
    reader.feed(struct.pack(">BBL", 4, 0, 101))
    with pytest.raises(ProtocolError):
        reader.next_event()


def test_release_and_abort_with_a_longer_body_than_prescribed_are_taken():
    body = bytes(4) + b"extra"
    assert read([struct.pack(">BBL", 5, 0, len(body)) + body])[0] == [ReleaseRequested()]
    assert read([struct.pack(">BBL", 7, 0, 7) + bytes([0, 0, 2, 1, 9, 9, 9])])[0] == [Aborted(2, 1)]


# -- what we send ----------------------------------------------------------------------------------------------------


@given(
    content=st.binary(max_size=200),
    fragment_bytes=st.integers(1, 250),
    context_id=st.integers(1, 255),
    is_command=st.booleans(),
)
def test_fragments_read_back_as_what_was_cut(content, fragment_bytes, context_id, is_command):
    pdus = encode_fragments(context_id, content, is_command=is_command, fragment_bytes=fragment_bytes)
    fragments, fault, has_rest = read([pdus])
    assert (fault, has_rest) == (None, False)
    assert all(isinstance(f, Fragment) and f.context_id == context_id for f in fragments)
    assert b"".join(f.data for f in fragments) == content
    assert max(len(f.data) for f in fragments) <= fragment_bytes
    assert [f.control & 2 for f in fragments] == [0] * (len(fragments) - 1) + [2]
    assert {f.control & 1 for f in fragments} == {int(is_command)}
    assert len(fragments) == max(1, -(-len(content) // fragment_bytes))


@pytest.mark.parametrize(
    ("maximum_length", "expected"),
    [(16384, 16378), (16383, 16376), (4096, 4090), (0, 131066), (131072, 131066), (1 << 31, 131066), (28672, 28666)],
)
def test_fragments_fit_the_receivers_maximum_length_and_are_even(maximum_length, expected):
    size = max_fragment_bytes(maximum_length, at_most=131072)
    assert size == expected
    head = encode_p_data_head(1, 0, size)
    announced = struct.unpack_from(">L", head, 2)[0]
    assert announced <= (maximum_length or announced)  # PS3.8 D.1: counts the variable field of the PDU


def test_an_abort_says_who_and_why():
    assert read([encode_abort() + encode_abort(UNRECOGNIZED_PDU)])[0] == [Aborted(0, 0), Aborted(2, 1)]
