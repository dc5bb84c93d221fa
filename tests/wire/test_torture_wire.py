"""The sending engine against a peer that does its worst at every step: what comes of it, and how soon."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
import threading
import time
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.filereader import read_dataset
from pynetdicom.pdu import A_ASSOCIATE_RQ
from test_leaks_wire import make_certificate

from archsync.core.tls import TlsSettings
from archsync.core.transfer import Endpoint, StoreResult
from archsync.errors import ArchsyncError, DestinationMisconfigured, OutcomeUnknown, PeerUnavailable
from archsync.net.dicom.store import store_instances

ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0])
RELEASE_RQ = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])
UNRECOGNIZED, UNEXPECTED, INVALID = 1, 2, 6
LATENESS_S = 1.0

pytestmark = pytest.mark.timeout(60)


def send(endpoint, instances):
    """The outcomes, and the error they ended with."""
    outcomes = []
    try:
        for outcome in store_instances(endpoint, instances):
            outcomes.append(outcome)  # noqa: PERF402  # list.extend would lose those before an error
    except ArchsyncError as exc:
        return outcomes, exc
    return outcomes, None


def results(outcomes):
    return [outcome.result for outcome in outcomes]


@pytest.fixture
def instance(sample, outgoing):
    return outgoing(sample("CT_small.dcm"))


@pytest.fixture
def big_instance(sample, outgoing, tmp_path):
    """More than the kernel buffers for a peer that does not read."""
    data_set = dcmread(sample("MR_small.dcm"))
    data_set.Rows = data_set.Columns = 4096
    data_set.PixelData = bytes(4096 * 4096 * 2)
    path = tmp_path / "big.dcm"
    data_set.save_as(path)
    return outgoing(path)


# -- the negotiation -------------------------------------------------------------------------------------------------


def test_an_acceptance_may_come_byte_by_byte_and_in_two_pieces_cut_anywhere(scripted, instance):
    archive, cuts, sizes = scripted(), itertools.count(), []

    def in_pieces(connection, acceptance):
        sizes.append(len(acceptance))
        cut = next(cuts)
        pieces = [bytes([b]) for b in acceptance] if cut == 0 else [acceptance[:cut], acceptance[cut:]]
        for piece in filter(None, pieces):
            connection.sendall(piece)
            time.sleep(0)  # gives it a chance to leave alone; nothing depends on it

    archive.accept = in_pieces
    send(archive.endpoint, [instance])
    for _ in range(sizes[0]):
        outcomes, error = send(archive.endpoint, [instance])
        assert (results(outcomes), error) == ([StoreResult.STORED], None)


@pytest.mark.parametrize("end", ["hang up", "reset"])
def test_an_acceptance_that_breaks_off_anywhere_is_no_association(scripted, instance, end):
    archive, cut = scripted(), 0

    def break_off(connection, acceptance):
        connection.sendall(acceptance[:cut])
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise EOFError

    archive.accept = break_off
    endpoint = replace(archive.endpoint, connect_timeout_s=0.2)  # of the question whether it would rather speak TLS
    for cut in (0, 1, 6, 7, 75, 100):
        outcomes, error = send(endpoint, [instance])
        assert (outcomes, type(error), error.code) == ([], PeerUnavailable, "association-no-answer"), cut
    assert archive.requests == []


@pytest.mark.parametrize("end", [ABORT, RELEASE_RQ, ABORT[:3] + bytes(7)])
def test_an_end_together_with_the_acceptance_leaves_nothing_unknown(scripted, instance, end):
    archive = scripted()
    archive.accept = lambda connection, acceptance: connection.sendall(acceptance + end)
    outcomes, error = send(archive.endpoint, [instance])
    assert outcomes == []
    assert (type(error), error.code, error.reached_peer) == (PeerUnavailable, "association-lost", True)
    assert archive.requests == []


@pytest.mark.parametrize("damage", ["context not proposed", "even context", "no items", "of another type"])
def test_an_acceptance_that_says_nonsense_is_called_so(scripted, instance, damage):
    def nonsense(connection, acceptance):
        context = acceptance.index(b"\x21\0") + 4  # of the first presentation context item
        connection.sendall(
            {
                "context not proposed": acceptance[:context] + b"\xfb" + acceptance[context + 1 :],
                "even context": acceptance[:context] + b"\x02" + acceptance[context + 1 :],
                "no items": struct.pack(">BxL", 2, 68) + acceptance[6:74],
                "of another type": struct.pack(">BxL", 4, 6) + struct.pack(">LBB", 2, 1, 3),
            }[damage]
        )

    archive = scripted()
    archive.accept = nonsense
    outcomes, error = send(archive.endpoint, [instance])
    assert outcomes == []
    assert isinstance(error, DestinationMisconfigured)
    assert error.code in ("not-dicom", "no-common-context")


# -- the answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pdu", "reason"),
    [
        *((bytes([kind, 0, 0, 0, 0, 4, 0, 0, 0, 0]), UNRECOGNIZED) for kind in (0, 8, 9, 0x15, 0x48, 0x80, 0xFF)),
        (bytes([1, 0, 0, 0, 0, 4, 0, 0, 0, 0]), UNEXPECTED),  # A-ASSOCIATE-RQ
        (struct.pack(">BxL", 2, 68) + bytes(68), UNEXPECTED),  # A-ASSOCIATE-AC, again
        (bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 1]), UNEXPECTED),  # A-ASSOCIATE-RJ
        (bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]), UNEXPECTED),  # A-RELEASE-RP
        (struct.pack(">BxL", 4, 0xFFFFFFFF), INVALID),
        (struct.pack(">BxLLBB", 4, 6, 99, 1, 3), INVALID),
        (struct.pack(">BxLLBB4x", 4, 10, 6, 1, 2), UNEXPECTED),  # a data set without a command
    ],
    ids=lambda value: value.hex()[:24] if isinstance(value, bytes) else None,
)
def test_a_pdu_out_of_place_is_an_unknown_outcome_and_answered_by_an_abort(scripted, copies, outgoing, pdu, reason):
    archive = scripted()
    archive.answer = lambda r: r.respond() if len(archive.requests) < 2 else r.connection.sendall(pdu)
    instances = [outgoing(path) for path in copies(3)]
    outcomes, error = send(archive.endpoint, instances)
    assert results(outcomes) == [StoreResult.STORED, StoreResult.UNKNOWN]
    assert isinstance(error, OutcomeUnknown)
    assert instances[1].sop_instance_uid in error.message
    deadline = time.monotonic() + 10
    while not archive.ends and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert archive.ends[0][:1] == b"\x07"
    assert archive.ends[0][8:10] in (bytes([2, reason]), bytes([2, INVALID])), "PS3.8 Table 9-26"


def test_a_reset_in_place_of_an_answer_is_an_unknown_outcome_at_once(scripted, copies, outgoing):
    def reset(request):
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise EOFError

    archive = scripted()
    archive.answer = lambda r: r.respond() if len(archive.requests) < 2 else reset(r)
    instances = [outgoing(path) for path in copies(3)]
    outcomes, error = send(replace(archive.endpoint, dimse_timeout_s=300), instances)
    assert results(outcomes) == [StoreResult.STORED, StoreResult.UNKNOWN]
    assert isinstance(error, OutcomeUnknown)
    assert instances[1].sop_instance_uid in error.message


def test_an_abort_after_any_part_of_an_answer_is_an_unknown_outcome(scripted, instance):
    archive, cut = scripted(), 0
    # Within the answer's PDU the abort is part of it: only the end of the stream tells.
    archive.answer = lambda r: (
        r.connection.sendall(r.response()[:cut] + ABORT),
        r.connection.shutdown(socket.SHUT_WR),
    )
    for cut in range(0, 60, 4):
        outcomes, error = send(archive.endpoint, [instance])
        assert results(outcomes) == [StoreResult.UNKNOWN], cut
        assert instance.sop_instance_uid in error.message


def test_several_answers_may_come_in_one_piece_and_cut_anywhere(scripted, copies, outgoing):
    instances = [outgoing(path) for path in copies(4)]
    for cut in (*range(1, 300, 9), 10_000):
        archive, hoard = scripted(window=4), []

        def answer(request, hoard=hoard, cut=cut):
            hoard.append(request)
            if len(hoard) == 4:
                responses = b"".join(r.response() for r in hoard)
                for piece in filter(None, (responses[:cut], responses[cut:])):
                    request.connection.sendall(piece)
                    time.sleep(0)

        archive.answer = answer
        outcomes, error = send(archive.endpoint, instances)
        assert (results(outcomes), error) == ([StoreResult.STORED] * 4, None), cut


def says_stored(stream: bytes, message_id: int) -> bool:
    """Tell, by pydicom, whether a stream begins with an answer to a message that says that it was stored."""
    with contextlib.suppress(Exception):
        command = read_dataset(BytesIO(stream[12:]), is_implicit_VR=True, is_little_endian=True)
        status = command.Status
        return command.MessageIDBeingRespondedTo == message_id and (status < 0x200 or status >> 12 == 0xB)
    return False


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_answer_never_counts_unless_it_still_says_stored(scripted_once, instance, damage):
    said = []

    def answer(request):
        response = bytearray(request.response())
        for position, value in damage:
            response[position % len(response)] = value
        said.append((bytes(response), request.message_id))
        request.connection.sendall(response)
        request.connection.shutdown(socket.SHUT_WR)  # nothing more comes, whatever length it announces

    scripted_once.answer = answer
    outcomes, error = send(scripted_once.endpoint, [instance])
    assert len(outcomes) == 1
    if outcomes[0].result.is_stored:
        assert says_stored(*said[0])
    elif outcomes[0].result is StoreResult.UNKNOWN:
        assert isinstance(error, OutcomeUnknown)
        assert instance.sop_instance_uid in error.message


@pytest.fixture
def scripted_once(scripted):
    return scripted()


# -- the release -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "release",
    [
        lambda c, agreed: [c.sendall(bytes([b])) for b in agreed],
        lambda c, agreed: c.sendall(RELEASE_RQ + agreed),  # both at once (PS3.8 7.2.2)
        lambda c, agreed: c.sendall(ABORT),
        lambda c, agreed: c.sendall(b"HTTP/1.1 500\r\n\r\n"),
        lambda c, agreed: c.sendall(agreed[:5]),
        lambda c, agreed: c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
        lambda c, agreed: c.shutdown(socket.SHUT_RDWR),
        lambda c, agreed: threading.Event().wait(2),  # silence
    ],
)
def test_whatever_comes_of_the_release_what_was_stored_stays_so(scripted, copies, outgoing, release):
    archive = scripted()
    archive.release = release
    instances = [outgoing(path) for path in copies(2)]
    outcomes, error = send(replace(archive.endpoint, acse_timeout_s=0.5), instances)
    assert (results(outcomes), error) == ([StoreResult.STORED] * 2, None)
    assert archive.ends == [RELEASE_RQ]


# -- time-outs -------------------------------------------------------------------------------------------------------


def assert_in_time(attempt, timeout_s: float) -> None:
    """The attempt takes as long as the time-out and not a second more. A busy machine gets three tries."""
    took_s = []
    for _ in range(3):
        begun = time.monotonic()
        attempt()
        took_s.append(time.monotonic() - begun)
        assert took_s[-1] > timeout_s - 0.05
        if took_s[-1] < timeout_s + LATENESS_S:
            return
    raise AssertionError(took_s)


TIMEOUT_S = 0.6


def patient(endpoint: Endpoint, **impatient: float) -> Endpoint:
    """One that would wait for ever, but for what is said."""
    names = ("connect_timeout_s", "acse_timeout_s", "dimse_timeout_s", "network_timeout_s")
    return replace(endpoint, **{**dict.fromkeys(names, 300), **impatient})


def test_a_connection_that_is_not_taken_is_given_up_in_time(instance):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # fill its queue: what comes now is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        endpoint = patient(Endpoint(*server.getsockname(), "FULL"), connect_timeout_s=TIMEOUT_S)

        def attempt():
            _, error = send(endpoint, [instance])
            assert (type(error), error.code) == (PeerUnavailable, "connection-timeout")

        assert_in_time(attempt, TIMEOUT_S)


def test_a_handshake_that_is_not_answered_is_given_up_in_time(raw_peer, instance):
    address = raw_peer(lambda connection: connection.recv(1 << 20) and threading.Event().wait(TIMEOUT_S + 1))
    endpoint = patient(Endpoint(*address, "SILENT", tls=TlsSettings()), connect_timeout_s=TIMEOUT_S)

    def attempt():
        _, error = send(endpoint, [instance])
        assert (type(error), error.code) == (PeerUnavailable, "tls-no-answer")

    begun = time.monotonic()
    attempt()
    assert time.monotonic() - begun > TIMEOUT_S - 0.05


@pytest.mark.parametrize("pieces", [0, 20])
def test_an_acceptance_that_does_not_come_or_trickles_is_given_up_in_time(scripted, instance, pieces):
    archive = scripted()

    def trickle(connection, acceptance):
        for byte in acceptance[:pieces]:
            connection.sendall(bytes([byte]))
            threading.Event().wait(0.1)
        connection.recv(1)

    archive.accept = trickle
    endpoint = patient(archive.endpoint, acse_timeout_s=TIMEOUT_S)

    def attempt():
        _, error = send(endpoint, [instance])
        assert (type(error), error.code) == (PeerUnavailable, "association-timeout")

    assert_in_time(attempt, TIMEOUT_S)


@pytest.mark.parametrize("pieces", [0, 20])
def test_an_answer_that_does_not_come_or_trickles_is_given_up_in_time(scripted, instance, pieces):
    archive = scripted()

    def trickle(request):
        for byte in request.response()[:pieces]:
            request.connection.sendall(bytes([byte]))
            threading.Event().wait(0.1)
        request.connection.recv(1)

    archive.answer = trickle
    endpoint = patient(archive.endpoint, dimse_timeout_s=TIMEOUT_S)

    def attempt():
        outcomes, error = send(endpoint, [instance])
        assert results(outcomes) == [StoreResult.UNKNOWN]
        assert "no answer came in time" in error.message

    assert_in_time(attempt, TIMEOUT_S)


def test_a_reader_that_stalls_is_given_up_in_time(scripted, big_instance):
    archive, over = scripted(), threading.Event()
    archive.read = lambda _connection, _response: over.wait(20)
    endpoint = patient(archive.endpoint, network_timeout_s=TIMEOUT_S)

    def attempt():
        outcomes, error = send(endpoint, [big_instance])
        assert results(outcomes) == [StoreResult.UNKNOWN]
        assert "stopped reading" in error.message

    assert_in_time(attempt, TIMEOUT_S)
    over.set()


def test_a_reader_that_stalls_behind_tls_is_given_up_in_time(scripted, raw_peer, big_instance, tmp_path):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate_file, key_file = make_certificate(tmp_path / "archive")
    context.load_cert_chain(certificate_file, key_file)
    over, acceptance_of = threading.Event(), scripted()._acceptance_of

    def stall(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            stream = secure.makefile("rb")
            head = stream.read(6)
            request = A_ASSOCIATE_RQ()
            request.decode(head + stream.read(struct.unpack(">2xL", head)[0]))
            secure.sendall(acceptance_of(request))
            over.wait(TIMEOUT_S + LATENESS_S)

    tls = TlsSettings(ca_file=certificate_file, check_hostname=False)
    endpoint = patient(Endpoint(*raw_peer(stall), "SECURE", tls=tls), network_timeout_s=TIMEOUT_S)

    def attempt():
        outcomes, error = send(endpoint, [big_instance])
        assert results(outcomes) == [StoreResult.UNKNOWN]
        assert "stopped reading" in error.message

    begun = time.monotonic()
    attempt()
    assert time.monotonic() - begun > TIMEOUT_S - 0.05
    over.set()
