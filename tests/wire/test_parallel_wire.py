"""Several associations at a time, and the rate limit: every instance once, and never more than the peer allows."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom.filereader import read_dataset
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from archsync.core.transfer import Endpoint, StoreResult
from archsync.errors import OutcomeUnknown
from archsync.net.dicom.store import store_instances


class SlowPeer:
    """An archive that takes its time for each instance and counts associations. Keeps SOP Instance UIDs."""

    def __init__(self, delay_s: float) -> None:
        self.stored: list[str] = []
        self.open_associations = self.most_at_a_time = 0
        self.limit = 100
        self.hang_up_at = 10**6
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint(*self._server.getsockname(), called_ae_title="SLOW")

    def __enter__(self) -> SlowPeer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, _ = self._server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            request = A_ASSOCIATE_RQ()
            request.decode(read_pdu(connection))
            with self._lock:
                if self.open_associations >= self.limit:
                    connection.sendall(bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2]))  # local limit exceeded
                    connection.recv(10)
                    return
                self.open_associations += 1
                self.most_at_a_time = max(self.most_at_a_time, self.open_associations)
            try:
                connection.sendall(acceptance_of(request))
                self._answer(connection)
            finally:
                with self._lock:
                    self.open_associations -= 1

    def _answer(self, connection: socket.socket) -> None:
        while True:
            pdu = read_pdu(connection)
            if pdu[0] != 4:
                connection.sendall(bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                return
            command = read_dataset(BytesIO(pdu[12:]), is_implicit_VR=True, is_little_endian=True)
            while read_pdu(connection)[11] != 2:
                pass
            time.sleep(self._delay_s)
            with self._lock:
                self.hang_up_at -= 1
                if self.hang_up_at == 0:
                    return
                self.stored.append(command.AffectedSOPInstanceUID)
            connection.sendall(response_to(command.MessageID, pdu[10]))


def read_pdu(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    if len(head) < 6:
        raise EOFError
    return head + connection.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)


def acceptance_of(request: A_ASSOCIATE_RQ) -> bytes:
    primitive = request.to_primitive()
    accepted = primitive.presentation_context_definition_list
    for context in accepted:
        context.transfer_syntax = [context.transfer_syntax[0]]
        context.result = 0
    primitive.presentation_context_definition_results_list = accepted
    primitive.presentation_context_definition_list = []
    primitive.result, primitive.result_source = 0, 1
    return A_ASSOCIATE_AC(primitive).encode()


def response_to(message_id: int, context_id: int) -> bytes:
    elements = [(0x0100, 0x8001), (0x0120, message_id), (0x0800, 0x0101), (0x0900, 0)]
    command = b"".join(struct.pack("<HHLH", 0, number, 2, value) for number, value in elements)
    command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
    return struct.pack(">BBLLBB", 4, 0, len(command) + 6, len(command) + 2, context_id, 3) + command


@pytest.fixture
def slow_peer():
    """An archive that takes 20 ms for each instance."""
    with SlowPeer(delay_s=0.02) as peer:
        yield peer


def names(threads):
    return [thread.name for thread in threads if thread.name == "archsync-association"]


def test_where_answers_take_long_more_associations_share_the_work(slow_peer, copies, outgoing):
    instances = [outgoing(path) for path in copies(120)]
    outcomes = list(store_instances(replace(slow_peer.endpoint, associations=4), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 120
    assert {o.instance.sop_instance_uid for o in outcomes} == {i.sop_instance_uid for i in instances}
    assert sorted(slow_peer.stored) == sorted(i.sop_instance_uid for i in instances)
    assert slow_peer.most_at_a_time == 4
    assert names(threading.enumerate()) == []


def test_one_association_is_all_that_is_opened_unless_more_are_allowed(slow_peer, copies, outgoing):
    outcomes = list(store_instances(slow_peer.endpoint, [outgoing(path) for path in copies(40)]))
    assert len(outcomes) == 40
    assert slow_peer.most_at_a_time == 1


def test_a_peer_at_its_limit_gets_no_more(slow_peer, copies, outgoing):
    slow_peer.limit = 2
    instances = [outgoing(path) for path in copies(120)]
    outcomes = list(store_instances(replace(slow_peer.endpoint, associations=8), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 120
    assert slow_peer.most_at_a_time == 2


def test_closing_the_generator_ends_all_of_them(slow_peer, copies, outgoing):
    sending = store_instances(replace(slow_peer.endpoint, associations=4), [outgoing(path) for path in copies(200)])
    while slow_peer.most_at_a_time < 4:
        next(sending)
    sending.close()
    deadline = time.monotonic() + 10
    while slow_peer.open_associations:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert names(threading.enumerate()) == []


def test_when_one_of_them_is_hung_up_on_the_others_end_what_they_have_in_hand(slow_peer, copies, outgoing):
    slow_peer.hang_up_at = 100
    instances = [outgoing(path) for path in copies(200)]
    outcomes = []
    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the outcomes before it count too
        for outcome in store_instances(replace(slow_peer.endpoint, associations=4), instances):
            outcomes.append(outcome)  # noqa: PERF402  # list.extend would lose it
    unknown = [o for o in outcomes if o.result is StoreResult.UNKNOWN]
    assert len(unknown) == 1
    told = [o.instance.sop_instance_uid for o in outcomes if o.result is StoreResult.STORED]
    assert sorted(told) == sorted(slow_peer.stored)
    assert names(threading.enumerate()) == []


def test_the_rate_limit_is_kept(archive, endpoint, copies, outgoing):
    instances = [outgoing(path) for path in copies(10)]
    rate = 10 * 10_000
    begun = time.monotonic()
    outcomes = list(store_instances(replace(endpoint, max_bytes_per_s=rate), instances))
    size = sum(o.bytes_sent for o in outcomes)
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 10
    # A lower bound holds on the busiest machine: the last piece waits for those before it.
    assert time.monotonic() - begun >= (size - size / 10) / rate * 0.9
