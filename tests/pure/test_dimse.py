"""DIMSE commands: ours as another implementation reads them, a peer's however they are cut, and rubbish called so."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE

from archsync.messages.dimse import (
    C_ECHO_RQ,
    C_FIND_RQ,
    C_STORE_RQ,
    Command,
    Message,
    MessageReader,
    encode_request,
    parse_command,
)
from archsync.messages.dul import RELEASE_RQ, ProtocolError, ReleaseRequested, encode_fragments

CT = "1.2.840.10008.5.1.4.1.1.2"
UIDS = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,5}", fullmatch=True)


def decoded(command: bytes):
    """The command set as pydicom reads it."""
    return read_dataset(BytesIO(command), is_implicit_VR=True, is_little_endian=True)


@given(st.integers(1, 0xFFFF), UIDS, UIDS)
def test_pydicom_reads_a_c_store_request_as_ps3_7_prescribes(message_id, sop_class, sop_instance):
    encoded = encode_request(C_STORE_RQ, message_id, sop_class, with_data_set=True, sop_instance_uid=sop_instance)
    command = decoded(encoded)
    assert command.CommandGroupLength == len(encoded) - 12
    assert (command.CommandField, command.MessageID, command.Priority) == (0x0001, message_id, 0)
    assert (command.AffectedSOPClassUID, command.AffectedSOPInstanceUID) == (sop_class, sop_instance)
    assert command.CommandDataSetType != 0x0101
    assert [element.tag for element in command] == sorted(element.tag for element in command)
    assert len(encoded) % 2 == 0


def test_the_other_requests_hold_what_ps3_7_prescribes():
    find = decoded(encode_request(C_FIND_RQ, 7, "1.2", with_data_set=True))
    echo = decoded(encode_request(C_ECHO_RQ, 8, "1.2.3", with_data_set=False))
    assert (find.CommandField, find.MessageID, find.Priority, find.AffectedSOPClassUID) == (0x0020, 7, 0, "1.2")
    assert find.CommandDataSetType != 0x0101
    assert (echo.CommandField, echo.MessageID, echo.AffectedSOPClassUID) == (0x0030, 8, "1.2.3")
    assert echo.CommandDataSetType == 0x0101
    assert "Priority" not in echo


def response(status=0, message_id=1, **more) -> bytes:
    """A C-STORE-RSP as pynetdicom encodes it."""
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = message_id
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CT, "1.2.3"
    primitive.Status = status
    for keyword, value in more.items():
        setattr(primitive, keyword, value)
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = buffer.is_little_endian = True
    write_dataset(buffer, message.command_set)
    return buffer.getvalue()


def pdus(command: bytes, fragment_bytes: int = 1000, context_id: int = 1) -> bytes:
    return encode_fragments(context_id, command, is_command=True, fragment_bytes=fragment_bytes)


def messages(pieces):
    reader, found = MessageReader(), []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next_event()) is not None:
            found.append(event)
    return found


@given(st.sampled_from([0, 0xA700, 0xB007, 0xC123, 0x0124]), st.integers(0, 0xFFFF))
def test_a_response_of_another_implementation_is_read(status, message_id):
    command = parse_command(response(status, message_id, ErrorComment="x" * 20 if status else None))
    assert command == Command(0x8001, message_id, status, has_data_set=False)
    assert command.answers(C_STORE_RQ, message_id)
    assert not command.answers(C_STORE_RQ, message_id + 1)
    assert not command.answers(C_FIND_RQ, message_id)


def test_the_error_comment_is_not_kept():
    assert "SECRET" not in repr(parse_command(response(0xA700, ErrorComment="SECRET^NAME")))


def test_a_response_without_status_answers_nothing():
    whole = response()
    status = whole.index(struct.pack("<HHL", 0, 0x0900, 2))
    assert not parse_command(whole[:status] + whole[status + 10 :]).answers(C_STORE_RQ, 1)


@pytest.mark.parametrize("fragment_bytes", [1, 2, 3, 7, 12, 64, 500])
def test_a_response_may_come_in_many_fragments_and_pdus_at_once_or_byte_by_byte(fragment_bytes):
    stream = pdus(response(0xB000, 5), fragment_bytes) + pdus(response(0, 6), fragment_bytes) + RELEASE_RQ
    expected = [Message(Command(0x8001, 5, 0xB000, False)), Message(Command(0x8001, 6, 0, False)), ReleaseRequested()]
    assert messages([stream]) == expected
    assert messages([bytes([byte]) for byte in stream]) == expected


def test_fragments_of_one_response_may_share_a_pdu():
    command = response()
    body = b"".join(
        struct.pack(">LBB", len(part) + 2, 1, control) + part
        for control, part in ((1, command[:10]), (1, b""), (3, command[10:]))
    )
    assert messages([struct.pack(">BBL", 4, 0, len(body)) + body]) == [Message(Command(0x8001, 1, 0, False))]


def with_data_set(command: bytes) -> bytes:
    """The command, telling of a data set that follows."""
    return command.replace(struct.pack("<HHLH", 0, 0x0800, 2, 0x0101), struct.pack("<HHLH", 0, 0x0800, 2, 0))


@pytest.mark.parametrize("fragment_bytes", [1, 5, 1000])
def test_a_data_set_belongs_to_the_command_before_it(fragment_bytes):
    command = with_data_set(response(0xFF00))
    stream = pdus(command, fragment_bytes)
    stream += encode_fragments(1, b"identifier", is_command=False, fragment_bytes=fragment_bytes)
    expected = [Message(Command(0x8001, 1, 0xFF00, True), b"identifier")]
    assert messages([stream + stream]) == expected * 2


@pytest.mark.parametrize(
    "stream",
    [
        encode_fragments(1, b"data", is_command=False, fragment_bytes=9),  # a data set with no command
        pdus(with_data_set(response())) + pdus(response()),  # a command where the data set should be
        pdus(response()[:20]) + pdus(response()),
        pdus(b""),
        pdus(struct.pack("<HHL", 8, 5, 0)),  # an element of another group
        pdus(struct.pack("<HHL", 0, 0x0100, 4)),  # a value longer than the command
        encode_fragments(1, response(), is_command=True, fragment_bytes=20)[:32]
        + encode_fragments(3, response()[20:], is_command=True, fragment_bytes=999),
    ],
)
def test_what_is_no_message_is_refused(stream):
    with pytest.raises(ProtocolError):
        messages([stream])


def test_a_command_without_end_is_refused():
    reader = MessageReader()
    with pytest.raises(ProtocolError, match="too long"):  # noqa: PT012 - each piece is taken as it comes
        for _ in range(100):
            reader.feed(
                encode_fragments(1, bytes(1000), is_command=True, fragment_bytes=2000)[:11] + b"\x01" + bytes(1000)
            )
            reader.next_event()


@given(st.binary(max_size=120))
def test_any_bytes_are_a_command_or_refused(noise):
    dense = bytes(b if b > 40 else 0 for b in noise)
    try:
        command = parse_command(dense)
    except ProtocolError:
        return
    assert 0 <= command.command_field <= 0xFFFF


@given(st.data())
def test_a_damaged_response_is_read_or_refused_and_never_crashes(data):
    stream = bytearray(pdus(response(0, 1), 30) + RELEASE_RQ)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = messages([bytes(stream)])
    except ProtocolError:
        return
    assert len(found) <= 3
