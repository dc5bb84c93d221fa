"""Associations that do not come about, or break: each ends as the right error, soon, with a sentence to act on."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import replace

import pytest
from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

from archsync.core.transfer import Endpoint, StoreResult
from archsync.errors import ConfigurationError, DestinationMisconfigured, OutcomeUnknown, PeerUnavailable
from archsync.net.dicom.echo import echo
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import Rudeness


def send(endpoint, instances):
    return list(store_instances(endpoint, instances))


@pytest.mark.parametrize(
    ("result", "source", "reason", "error", "code"),
    [
        (1, 1, 7, DestinationMisconfigured, "called-ae-title-unknown"),
        (1, 1, 3, DestinationMisconfigured, "calling-ae-title-refused"),
        (1, 1, 2, DestinationMisconfigured, "application-context"),
        (1, 2, 2, DestinationMisconfigured, "protocol-version"),
        (1, 1, 1, PeerUnavailable, "association-rejected"),
        (2, 1, 1, PeerUnavailable, "association-rejected"),
        (2, 3, 1, PeerUnavailable, "peer-congested"),
        (2, 3, 2, PeerUnavailable, "association-limit"),
    ],
)
def test_a_refused_association_ends_as_its_reason_says_and_a_later_one_succeeds(
    archive, endpoint, sample, outgoing, result, source, reason, error, code
):
    archive.behave(Rudeness(refuse_associations=1, refuse_result=result, refuse_source=source, refuse_reason=reason))
    instances = [outgoing(sample("CT_small.dcm"))]
    with pytest.raises(error) as caught:
        send(endpoint, instances)
    assert caught.value.code == code
    assert getattr(caught.value, "reached_peer", True)
    assert archive.requests == []
    assert [outcome.result for outcome in send(endpoint, instances)] == [StoreResult.STORED]


def test_an_unknown_ae_title_is_named(archive, endpoint):
    archive.behave(Rudeness(known_calling_ae_titles=("OTHER",)))
    with pytest.raises(DestinationMisconfigured, match="does not accept our calling AE title 'ARCHSYNC'"):
        echo(endpoint)
    archive.behave(Rudeness(check_called_ae_title=True))
    with pytest.raises(DestinationMisconfigured, match="does not know the called AE title 'WRONG'"):
        echo(replace(endpoint, called_ae_title="WRONG"))
    echo(endpoint)


def test_a_closed_port_is_unreachable(endpoint, archive):
    archive.stop()
    with pytest.raises(PeerUnavailable) as caught:
        echo(endpoint)
    assert (caught.value.code, caught.value.reached_peer) == ("connection-refused", False)
    assert f"port {endpoint.port}" in caught.value.message


def test_an_unknown_host_is_unreachable(endpoint):
    with pytest.raises(PeerUnavailable) as caught:
        echo(replace(endpoint, host="no-such-host.invalid"))
    assert (caught.value.code, caught.value.reached_peer) == ("host-not-found", False)


@pytest.mark.parametrize("title", ["", "   ", "SEVENTEEN_LETTERS", "BACK\\SLASH", "UMLÄUT"])
def test_a_bad_ae_title_is_our_fault(endpoint, title):
    for wrong in ({"called_ae_title": title}, {"calling_ae_title": title}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            echo(replace(endpoint, **wrong))


def peer_at(address):
    return Endpoint(
        *address,
        called_ae_title="RUDE",
        connect_timeout_s=5,
        acse_timeout_s=0.5,
        dimse_timeout_s=0.5,
        network_timeout_s=0.5,
    )


def test_a_peer_that_takes_the_connection_and_says_nothing_is_unreachable(raw_peer):
    address = raw_peer(lambda connection: connection.recv(1_000_000) and threading.Event().wait(2))
    with pytest.raises(PeerUnavailable) as caught:
        echo(peer_at(address))
    assert (caught.value.code, caught.value.reached_peer) == ("association-timeout", False)


def test_a_peer_that_hangs_up_without_an_answer_is_unreachable(raw_peer):
    def hang_up(connection):
        connection.recv(100)
        connection.close()

    with pytest.raises(PeerUnavailable) as caught:
        echo(peer_at(raw_peer(hang_up)))
    assert (caught.value.code, caught.value.reached_peer) == ("association-no-answer", False)


def test_another_service_on_the_port_is_a_wrong_setting(raw_peer):
    def answer(connection):
        connection.recv(1_000_000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.recv(100)

    with pytest.raises(DestinationMisconfigured) as caught:
        echo(peer_at(raw_peer(answer)))
    assert caught.value.code == "not-dicom"


@pytest.mark.parametrize(("source", "reason", "words"), [(0, 0, "application"), (2, 1, "did not recognize a PDU")])
def test_an_abort_in_place_of_an_answer_is_tried_again(raw_peer, source, reason, words):
    def abort(connection):
        connection.recv(1_000_000)
        connection.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, source, reason]))
        connection.recv(100)

    with pytest.raises(PeerUnavailable, match=words) as caught:
        echo(peer_at(raw_peer(abort)))
    assert (caught.value.code, caught.value.reached_peer) == ("association-aborted", True)


def test_a_peer_that_accepts_none_of_our_contexts_is_a_wrong_setting(sample, outgoing):
    entity = AE(ae_title="WORKLIST")
    entity.add_supported_context("1.2.840.10008.5.1.4.31")  # Modality Worklist
    server = entity.start_server(("127.0.0.1", 0), block=False)
    endpoint = Endpoint(*server.server_address, called_ae_title="WORKLIST")
    try:
        for attempt in (lambda: echo(endpoint), lambda: send(endpoint, [outgoing(sample("CT_small.dcm"))])):
            with pytest.raises(DestinationMisconfigured) as caught:
                attempt()
            assert caught.value.code == "no-common-context"
    finally:
        entity.shutdown()


# Peers that accept the association and then misbehave


def read_pdu(connection):
    head = connection.recv(6, socket.MSG_WAITALL)
    return head + connection.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)


def accept_association(connection):
    """Accept every context with its first transfer syntax, as a peer of few words would."""
    request = A_ASSOCIATE_RQ()
    request.decode(read_pdu(connection))
    primitive = request.to_primitive()
    accepted = primitive.presentation_context_definition_list
    for context in accepted:
        context.transfer_syntax = [context.transfer_syntax[0]]
        context.result = 0
    primitive.presentation_context_definition_results_list = accepted
    primitive.presentation_context_definition_list = []
    primitive.result, primitive.result_source = 0, 1
    primitive.user_information = [
        item for item in primitive.user_information if not isinstance(item, AsynchronousOperationsWindowNegotiation)
    ]
    connection.sendall(A_ASSOCIATE_AC(primitive).encode())


@pytest.fixture
def big_instance(sample, outgoing, tmp_path):
    """An instance larger than what the kernel buffers for a peer that does not read."""
    from pydicom import dcmread

    data_set = dcmread(sample("MR_small.dcm"))
    data_set.Rows = data_set.Columns = 4096
    data_set.PixelData = bytes(4096 * 4096 * 2)
    path = tmp_path / "big.dcm"
    data_set.save_as(path)
    return outgoing(path)


@pytest.mark.timeout(30)
def test_a_peer_that_stops_reading_is_given_up_after_the_network_time_out(raw_peer, big_instance):
    over = threading.Event()

    def stop_reading(connection):
        accept_association(connection)
        over.wait(20)

    sending = store_instances(peer_at(raw_peer(stop_reading)), [big_instance])
    assert next(sending).result is StoreResult.UNKNOWN
    with pytest.raises(OutcomeUnknown, match=big_instance.sop_instance_uid):
        next(sending)
    over.set()
    assert not [thread for thread in threading.enumerate() if "Requestor" in thread.name and not thread.daemon]


@pytest.mark.timeout(30)
def test_a_large_instance_may_take_longer_to_leave_than_the_dimse_time_out(raw_peer, big_instance):
    received = []

    def read_slowly(connection):
        accept_association(connection)
        while True:
            piece = connection.recv(1_000_000)
            if not piece:
                return
            received.append(len(piece))
            threading.Event().wait(0.05)

    slow_link = replace(peer_at(raw_peer(read_slowly)), network_timeout_s=5, dimse_timeout_s=0.3)
    with pytest.raises(OutcomeUnknown, match="no answer came in time"):
        send(slow_link, [big_instance])
    assert sum(received) > 4096 * 4096 * 2  # all of it left before patience ran out


@pytest.mark.timeout(30)
def test_a_hang_up_in_the_middle_of_an_instance_is_an_unknown_outcome_seen_at_once(raw_peer, big_instance):
    def hang_up(connection):
        accept_association(connection)
        connection.recv(100_000)
        connection.close()

    patient = replace(peer_at(raw_peer(hang_up)), network_timeout_s=300, dimse_timeout_s=300)
    with pytest.raises(OutcomeUnknown, match="connection was closed"):
        send(patient, [big_instance])


def response_to(connection, status, message_id):
    """A C-STORE-RSP made by hand (PS3.7 9.3.1.2, PS3.8 9.3.5)."""

    def element(number, value):
        return struct.pack("<HHL", 0, number, len(value)) + value

    def short(number, value):
        return element(number, struct.pack("<H", value))

    command = short(0x0100, 0x8001) + short(0x0120, message_id) + short(0x0800, 0x0101) + short(0x0900, status)
    command = element(0x0000, struct.pack("<L", len(command))) + command
    pdv = bytes([1, 3]) + command
    connection.sendall(struct.pack(">BBLL", 4, 0, len(pdv) + 4, len(pdv)) + pdv)


def read_message(connection):
    """Read PDUs up to the end of a data set."""
    while True:
        pdu = read_pdu(connection)
        if pdu[11] == 2:  # control header of the first item: last fragment of a data set
            return


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("shift", "result"), [(0, StoreResult.STORED), (1, StoreResult.UNKNOWN)])
def test_an_answer_to_another_message_does_not_count(raw_peer, sample, outgoing, shift, result):
    def answer(connection):
        accept_association(connection)
        read_message(connection)
        response_to(connection, 0x0000, 1 + shift)
        read_pdu(connection)
        connection.sendall(bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]))  # A-RELEASE-RP
        connection.recv(100)

    outcomes = []
    sending = store_instances(peer_at(raw_peer(answer)), [outgoing(sample("CT_small.dcm"))])
    try:
        for outcome in sending:
            outcomes.append(outcome)  # noqa: PERF402  # list.extend would lose it
    except OutcomeUnknown:
        assert result is StoreResult.UNKNOWN
    assert [outcome.result for outcome in outcomes] == [result]


@pytest.mark.timeout(30)
def test_a_release_by_the_peer_between_two_instances_is_no_unknown_outcome(raw_peer, sample, outgoing):
    def release_after_one(connection):
        accept_association(connection)
        read_message(connection)
        response_to(connection, 0x0000, 1)
        connection.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))  # A-RELEASE-RQ
        connection.recv(1000)

    instances = [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small.dcm"))]
    sending = store_instances(peer_at(raw_peer(release_after_one)), instances)
    assert next(sending).result is StoreResult.STORED
    threading.Event().wait(0.3)  # the release must have arrived, which nothing here can observe
    with pytest.raises(PeerUnavailable) as caught:
        next(sending)
    assert (caught.value.code, caught.value.reached_peer) == ("association-lost", True)
