"""DIMSE commands as bytes (PS3.7), without input or output: requests of ours, and what a peer's messages say.

A command set is a list of elements of group 0000 in Implicit VR Little Endian (PS3.7 6.3.1), so a request is a few
packed numbers and a response a short walk. Error Comment (0000,0902) is not kept: archives put names and ids there.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from archsync.messages.dul import (
    INVALID_VALUE,
    IS_COMMAND,
    IS_LAST,
    UNEXPECTED_PDU,
    Event,
    Fragment,
    PduReader,
    ProtocolError,
)

C_STORE_RQ, C_FIND_RQ, C_ECHO_RQ = 0x0001, 0x0020, 0x0030
_IS_RESPONSE = 0x8000

_NO_DATA_SET, _WITH_DATA_SET = 0x0101, 0x0001
_MEDIUM_PRIORITY = 0x0000

MAX_COMMAND_BYTES = 1 << 16
MAX_DATA_SET_BYTES = 1 << 24
"""Far more than any answer to C-FIND; a C-STORE response has no data set."""

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_GROUP_LENGTH = struct.Struct("<HHLL")
_NUMBER = struct.Struct("<HHLH")


def _uid_element(number: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    if len(value) % 2:
        value += b"\0"
    return _ELEMENT.pack(0, number, len(value)) + value


def encode_request(
    kind: int, message_id: int, sop_class_uid: str, *, with_data_set: bool, sop_instance_uid: str | None = None
) -> bytes:
    """The command set of a C-STORE-RQ, C-FIND-RQ or C-ECHO-RQ (PS3.7 9.3.1.1, 9.3.2.1, 9.3.5.1).

    ``sop_instance_uid`` is for C-STORE.
    """
    body = b"".join(
        (
            _uid_element(0x0002, sop_class_uid),
            _NUMBER.pack(0, 0x0100, 2, kind),
            _NUMBER.pack(0, 0x0110, 2, message_id),
            _NUMBER.pack(0, 0x0700, 2, _MEDIUM_PRIORITY) if kind != C_ECHO_RQ else b"",
            _NUMBER.pack(0, 0x0800, 2, _WITH_DATA_SET if with_data_set else _NO_DATA_SET),
            _uid_element(0x1000, sop_instance_uid) if sop_instance_uid else b"",
        )
    )
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


class Command(NamedTuple):
    """What counts in a peer's command set. ``status`` and ``responded_to`` are None where it has none."""

    command_field: int
    responded_to: int | None
    status: int | None
    has_data_set: bool

    def answers(self, request: int, message_id: int) -> bool:
        """True for a complete response to request ``message_id`` of kind ``request`` (its Command Field)."""
        return (
            self.command_field == request | _IS_RESPONSE and self.responded_to == message_id and self.status is not None
        )


class Message(NamedTuple):
    """A peer's whole message."""

    command: Command
    data_set: bytes = b""


def parse_command(encoded: bytes) -> Command:
    """Read a command set.

    Raises:
        ProtocolError: it is not one.
    """
    numbers: dict[int, int] = {}
    position, end = 0, len(encoded)
    while position < end:
        if position + _ELEMENT.size > end:
            raise ProtocolError("a command set that ends in an element's header", reason=INVALID_VALUE)
        group, number, length = _ELEMENT.unpack_from(encoded, position)
        position += _ELEMENT.size
        if group != 0 or position + length > end:
            raise ProtocolError("a command set whose elements are not of group 0000", reason=INVALID_VALUE)
        if length == _US.size:
            numbers[number] = _US.unpack_from(encoded, position)[0]
        position += length
    if 0x0100 not in numbers:
        raise ProtocolError("a command set without Command Field", reason=INVALID_VALUE)
    has_data_set = numbers.get(0x0800, _NO_DATA_SET) != _NO_DATA_SET
    return Command(numbers[0x0100], numbers.get(0x0120), numbers.get(0x0900), has_data_set)


class MessageReader:
    """Takes messages, and PDUs other than those with data, out of a stream of bytes (PS3.7 6.3, PS3.8 Annex E)."""

    def __init__(self) -> None:
        self._pdus = PduReader()
        self._context_id = 0
        self._encoded = bytearray()
        self._command: Command | None = None  # whose data set is coming
        self._peeked: Message | Event | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes as they came."""
        self._pdus.feed(data)

    def next_event(self) -> Message | Event | None:
        """The next message or other PDU, or None when more bytes are needed; never a :class:`Fragment`.

        Raises:
            ProtocolError: the stream goes on with something else.
        """
        event = self.peek_event()
        self._peeked = None
        return event

    def peek_event(self) -> Message | Event | None:
        """As :meth:`next_event`, and leaves it there for the next call."""
        if self._peeked is None:
            self._peeked = self._read_event()
        return self._peeked

    def _read_event(self) -> Message | Event | None:
        while True:
            event = self._pdus.next_event()
            if not isinstance(event, Fragment):
                return event
            message = self._add(event)
            if message is not None:
                return message

    def _add(self, fragment: Fragment) -> Message | None:
        is_command = bool(fragment.control & IS_COMMAND)
        if is_command == (self._command is not None):
            raise ProtocolError("a command where a data set should go on, or the reverse", reason=UNEXPECTED_PDU)
        if (self._encoded or self._command) and fragment.context_id != self._context_id:
            raise ProtocolError("a message that changes its presentation context", reason=INVALID_VALUE)
        self._context_id = fragment.context_id
        self._encoded += fragment.data
        if len(self._encoded) > (MAX_COMMAND_BYTES if is_command else MAX_DATA_SET_BYTES):
            raise ProtocolError("a message too long for any answer", reason=INVALID_VALUE)
        if not fragment.control & IS_LAST:
            return None
        content = bytes(self._encoded)
        self._encoded.clear()
        if not is_command:
            command, self._command = self._command, None
            assert command is not None, "a data set follows a command"
            return Message(command, content)
        command = parse_command(content)
        if command.has_data_set:
            self._command = command
            return None
        return Message(command)
