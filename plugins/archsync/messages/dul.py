"""The DICOM upper layer as bytes (PS3.8 9.3): whatever pieces they come in, the same PDUs come out. No input or output.

Feed what the socket gave, as it came, and take the PDUs that are complete, one at a time. A fault is found only when
its turn comes, so what stands before it in the stream still counts; after it the stream is of no more use. What the
bodies of A-ASSOCIATE PDUs hold is not looked at here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

MAX_PDU_BYTES = 1 << 20
"""Longest PDU taken. We announce far less; some peers do not care."""

_HEAD_BYTES = 6
_HEAD = struct.Struct(">BxL")
_ITEM = struct.Struct(">LBB")
_REFUSAL = struct.Struct(">xBBB")
_P_DATA_HEAD = struct.Struct(">BBLLBB")

_ASSOCIATE_AC, _ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = range(2, 8)
_MIN_BYTES = {_ASSOCIATE_AC: 68, _ASSOCIATE_RJ: 4, _P_DATA: 6, _RELEASE_RQ: 0, _RELEASE_RP: 0, _ABORT: 4}

RELEASE_RQ = bytes((_RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_RP = bytes((_RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0))

P_DATA_OVERHEAD = 6
"""Bytes of a P-DATA-TF PDU with one item that count against the receiver's maximum length besides the fragment."""

IS_COMMAND, IS_LAST = 1, 2
"""Bits of a fragment's message control header (PS3.8 E.2)."""


class ProtocolError(Exception):
    """The bytes are not what PS3.7 and PS3.8 allow here. ``reason`` is for an A-ABORT (PS3.8 Table 9-26)."""

    def __init__(self, message: str, *, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_VALUE = 1, 2, 6


@dataclass(frozen=True, slots=True)
class AssociateAccepted:
    """A-ASSOCIATE-AC, whole, still encoded."""

    pdu: bytes


@dataclass(frozen=True, slots=True)
class AssociateRejected:
    """A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """A-RELEASE-RQ."""


@dataclass(frozen=True, slots=True)
class ReleaseAgreed:
    """A-RELEASE-RP."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """A-ABORT (PS3.8 Table 9-26)."""

    source: int
    reason: int


class Fragment(NamedTuple):
    """A presentation data value: a piece of a command or of a data set."""

    context_id: int
    control: int
    data: bytes


Event = AssociateAccepted | AssociateRejected | ReleaseRequested | ReleaseAgreed | Aborted | Fragment


class PduReader:
    """Takes PDUs, and the fragments of those with data, out of a stream of bytes."""

    def __init__(self, max_pdu_bytes: int = MAX_PDU_BYTES) -> None:
        self._max_pdu_bytes = max_pdu_bytes
        self._stream = bytearray()
        self._fragments: list[Fragment] = []  # of the PDU taken last, in reverse

    @property
    def has_partial_pdu(self) -> bool:
        """True while bytes wait for the rest of their PDU."""
        return bool(self._stream)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes as they came."""
        self._stream += data

    def next_event(self) -> Event | None:
        """The next PDU or fragment, or None when more bytes are needed.

        Raises:
            ProtocolError: the stream goes on with something else; every later call says so too.
        """
        while not self._fragments:
            stream = self._stream
            if not stream:
                return None
            kind = stream[0]
            if kind not in _MIN_BYTES:
                # An A-ASSOCIATE-RQ (1) is a PDU, but not one for a requestor.
                reason = UNEXPECTED_PDU if kind == 1 else UNRECOGNIZED_PDU
                raise ProtocolError(f"a PDU of type {kind:02X}", reason=reason)
            if len(stream) < _HEAD_BYTES:
                return None
            length = _HEAD.unpack_from(stream)[1]
            if not _MIN_BYTES[kind] <= length <= self._max_pdu_bytes:
                raise ProtocolError(f"a PDU of type {kind:02X} and {length} bytes", reason=INVALID_VALUE)
            end = _HEAD_BYTES + length
            if len(stream) < end:
                return None
            if kind != _P_DATA:
                pdu = bytes(stream[:end])
                del stream[:end]
                return _parse(kind, pdu)
            fragments = _split(stream, end)
            del stream[:end]
            fragments.reverse()
            self._fragments = fragments
        return self._fragments.pop()


def _parse(kind: int, pdu: bytes) -> Event:
    if kind == _ASSOCIATE_AC:
        return AssociateAccepted(pdu)
    if kind == _ASSOCIATE_RJ:
        return AssociateRejected(*_REFUSAL.unpack_from(pdu, _HEAD_BYTES))
    if kind == _ABORT:
        return Aborted(pdu[8], pdu[9])
    return ReleaseRequested() if kind == _RELEASE_RQ else ReleaseAgreed()


def _split(pdu: bytearray, end: int) -> list[Fragment]:
    """The items of the P-DATA-TF PDU at the beginning of a stream (PS3.8 9.3.5)."""
    fragments = []
    position = _HEAD_BYTES
    while position < end:
        if position + P_DATA_OVERHEAD > end:
            raise ProtocolError("a P-DATA item without room for its header", reason=INVALID_VALUE)
        length, context_id, control = _ITEM.unpack_from(pdu, position)
        start, position = position + P_DATA_OVERHEAD, position + 4 + length
        if length < 2 or position > end:
            raise ProtocolError(f"a P-DATA item of {length} bytes that does not fit its PDU", reason=INVALID_VALUE)
        fragments.append(Fragment(context_id, control, bytes(pdu[start:position])))
    return fragments


def max_fragment_bytes(maximum_length: int, *, at_most: int) -> int:
    """How much a fragment may hold for a receiver of PDUs up to ``maximum_length`` (0: any), always an even number.

    Fragments are even so that all but the last are, as PS3.8 9.3.5.1 asks for.
    """
    allowed = min(maximum_length, at_most) if maximum_length else at_most
    return (allowed - P_DATA_OVERHEAD) & ~1


def encode_p_data_head(context_id: int, control: int, size_bytes: int) -> bytes:
    """The 12 bytes that stand before a fragment in a P-DATA-TF PDU of its own (PS3.8 9.3.5)."""
    return _P_DATA_HEAD.pack(_P_DATA, 0, size_bytes + P_DATA_OVERHEAD, size_bytes + 2, context_id, control)


def encode_fragments(context_id: int, content: bytes, *, is_command: bool, fragment_bytes: int) -> bytes:
    """P-DATA-TF PDUs that carry a whole command or data set, none with more than ``fragment_bytes`` of it."""
    pdus = []
    kind = IS_COMMAND if is_command else 0
    for start in range(0, len(content) or 1, fragment_bytes):
        piece = content[start : start + fragment_bytes]
        is_last = start + fragment_bytes >= len(content)
        pdus += [encode_p_data_head(context_id, kind | (IS_LAST if is_last else 0), len(piece)), piece]
    return b"".join(pdus)


def encode_abort(reason: int | None = None) -> bytes:
    """An A-ABORT PDU: by the application, or by its network layer for a reason (PS3.8 9.3.8)."""
    return bytes((_ABORT, 0, 0, 0, 0, 4, 0, 0, 0 if reason is None else 2, reason or 0))
