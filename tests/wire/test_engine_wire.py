"""The sending engine against an archive that does to the byte what a test says (PS3.7 9.1.1, PS3.8 9.3)."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from pydicom import dcmread
from pynetdicom.dsutils import split_dataset
from sample_instances import bundled_instances, data_set_bytes, random_instances

from archsync.core.transfer import OutgoingInstance, StoreResult
from archsync.errors import OutcomeUnknown, PeerUnavailable
from archsync.net.dicom.store import store_instances


@pytest.fixture
def big_instance(sample, outgoing, tmp_path):
    """An instance of 32 MB: more than the kernel buffers for a peer that does not read."""
    data_set = dcmread(sample("MR_small.dcm"))
    data_set.Rows = data_set.Columns = 4096
    data_set.PixelData = bytes(range(256)) * (4096 * 4096 * 2 // 256)
    path = tmp_path / "big.dcm"
    data_set.save_as(path)
    return outgoing(path)


def path_of(instance: OutgoingInstance) -> Path:
    return Path(unquote(instance.location.removeprefix("file://")))


def send(endpoint, instances):
    """The outcomes, and the error they ended with."""
    outcomes = []
    try:
        for outcome in store_instances(endpoint, instances):
            outcomes.append(outcome)  # noqa: PERF402  # list.extend would lose those before an error
    except OutcomeUnknown as exc:
        return outcomes, exc
    return outcomes, None


# -- bytes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, OutgoingInstance]:
    return bundled_instances() | random_instances(tmp_path_factory.mktemp("random"), 60)


@pytest.mark.parametrize("max_length", [4096, 4097, 16384, 28672, 131072, 0])
def test_every_readable_file_and_random_ones_arrive_byte_for_byte_in_pdus_that_fit(scripted, files, max_length):
    archive = scripted(max_length=max_length)
    outcomes, _ = send(archive.endpoint, list(files.values()))
    stored = {o.instance.sop_instance_uid for o in outcomes if o.result is StoreResult.STORED}
    assert len(stored) > 30 + 60
    # What is cut short, or says other UIDs in its meta information, is refused.
    assert {o.code for o in outcomes if o.result is not StoreResult.STORED} <= {"file-truncated", "uid-mismatch"}
    for uid in stored:
        path = path_of(files[uid])
        assert archive.stored[uid] == data_set_bytes(path), path.name
    sizes = {size for request in archive.requests for size in request.pdu_sizes}
    assert max(sizes) <= (max_length or 131072)
    assert not any(size % 2 for size in sizes)


def test_a_large_instance_arrives_byte_for_byte_and_fills_its_pdus(scripted, big_instance):
    for max_length in (4096, 16384, 0):
        archive = scripted(max_length=max_length)
        outcomes, _ = send(archive.endpoint, [big_instance])
        path = path_of(big_instance)
        assert archive.stored[big_instance.sop_instance_uid] == path.read_bytes()[split_dataset(path)[1] :]
        assert set(archive.requests[0].pdu_sizes[1:-1]) == {max_length or 131072}
        assert outcomes[0].bytes_sent == len(archive.requests[0].data_set)


# -- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_may_come_byte_by_byte_and_in_two_pieces_cut_anywhere(scripted, copies, outgoing):
    cuts = iter(range(1, 200))

    def in_two_pieces(request):
        response = request.response()
        cut = next(cuts) % len(response)
        for piece in [bytes([b]) for b in response] if cut == 0 else (response[:cut], response[cut:]):
            request.connection.sendall(piece)
            time.sleep(0)  # gives it a chance to leave alone; nothing depends on it

    archive = scripted()
    archive.answer = in_two_pieces
    instances = [outgoing(path) for path in copies(80)]
    outcomes, error = send(archive.endpoint, instances)
    assert error is None
    assert [o.result for o in outcomes] == [StoreResult.STORED] * len(instances)


@pytest.mark.parametrize(
    ("rude", "words"),
    [
        (lambda r: r.connection.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 6])), "network layer aborted"),
        (lambda r: r.connection.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])), "released"),
        (lambda r: r.connection.sendall(b"HTTP/1.1 500\r\n\r\n"), "not DICOM"),
        (lambda r: r.connection.sendall(bytes([4, 0, 0, 0, 0, 6, 0, 0, 0, 99, 1, 3])), "not DICOM"),
        (lambda r: r.connection.sendall(r.response(message_id=77)), "another message"),
        (lambda r: r.connection.sendall(r.response()[:20]) or r.connection.shutdown(socket.SHUT_WR), "closed"),
        (lambda r: r.connection.shutdown(socket.SHUT_WR), "closed"),
        (lambda r: r.connection.shutdown(socket.SHUT_RDWR), "closed"),
        (lambda r: r.connection.sendall(r.response()[:20]), "no answer came in time"),
    ],
)
@pytest.mark.timeout(30)
def test_what_is_no_answer_is_an_unknown_outcome_at_once_with_its_reason(scripted, copies, outgoing, rude, words):
    archive = scripted()
    archive.answer = lambda request: request.respond() if len(archive.requests) < 2 else rude(request)
    instances = [outgoing(path) for path in copies(3)]
    dimse_timeout_s = 0.5 if "time" in words else 300
    outcomes, error = send(replace(archive.endpoint, dimse_timeout_s=dimse_timeout_s), instances)
    assert [o.result for o in outcomes] == [StoreResult.STORED, StoreResult.UNKNOWN]
    assert instances[1].sop_instance_uid in error.message
    assert words in error.message


@pytest.mark.timeout(30)
@pytest.mark.parametrize("end", [bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0]), bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])])
def test_an_end_that_comes_together_with_an_answer_is_no_unknown_outcome(scripted, copies, outgoing, end):
    archive = scripted()
    archive.answer = lambda request: request.connection.sendall(request.response() + end)
    sending = store_instances(archive.endpoint, [outgoing(path) for path in copies(2)])
    assert next(sending).result is StoreResult.STORED
    with pytest.raises(PeerUnavailable) as caught:
        next(sending)
    assert caught.value.code == "association-lost"
    assert len(archive.requests) == 1


@pytest.mark.timeout(30)
@pytest.mark.parametrize("end", ["abort", "reset", "hang up"])
def test_an_end_after_any_part_of_an_instance_is_an_unknown_outcome_by_name(scripted, big_instance, end):
    for received in (0, 1, 12, 16384, 100_000, 3_000_000):
        archive = scripted()

        def break_off(connection, _response, received=received):
            connection.recv(received, socket.MSG_WAITALL)
            if end == "abort":
                connection.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                connection.recv(1 << 20)
            elif end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise EOFError

        archive.read = break_off
        outcomes, error = send(archive.endpoint, [big_instance])
        assert [o.result for o in outcomes] == [StoreResult.UNKNOWN], received
        assert big_instance.sop_instance_uid in error.message


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("status", "result"), [(0xA700, StoreResult.BUSY), (0, StoreResult.UNKNOWN), (0xB000, StoreResult.UNKNOWN)]
)
def test_a_refusal_before_the_whole_instance_came_counts_and_a_success_does_not(
    scripted, big_instance, copies, outgoing, status, result
):
    archive = scripted()

    def answer_and_hang_up(connection, response):
        archive.read = None
        connection.recv(100_000)
        connection.sendall(response)
        connection.recv(1)
        raise EOFError

    archive.read = answer_and_hang_up
    archive.early_status = status
    outcomes, error = send(archive.endpoint, [big_instance, *(outgoing(path) for path in copies(2))])
    assert outcomes[0].result is result
    if result is StoreResult.BUSY:
        assert [o.result for o in outcomes[1:]] == [StoreResult.STORED] * 2
    else:
        assert big_instance.sop_instance_uid in error.message


@pytest.mark.timeout(30)
def test_an_abort_while_sending_is_seen_at_once(scripted, big_instance):
    archive = scripted()

    def abort_and_listen(connection, _response):
        connection.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        threading.Event().wait(20)

    archive.read = abort_and_listen
    patient = replace(archive.endpoint, network_timeout_s=300, dimse_timeout_s=300)
    outcomes, error = send(patient, [big_instance])
    assert [o.result for o in outcomes] == [StoreResult.UNKNOWN]
    assert "application aborted" in error.message


@pytest.mark.timeout(30)
def test_a_reader_that_stalls_is_left_after_the_network_time_out(scripted, big_instance):
    archive, over = scripted(), threading.Event()
    archive.read = lambda _connection, _response: over.wait(20)
    begun = time.monotonic()
    outcomes, error = send(replace(archive.endpoint, network_timeout_s=1, dimse_timeout_s=300), [big_instance])
    over.set()
    assert [o.result for o in outcomes] == [StoreResult.UNKNOWN]
    assert "stopped reading" in error.message
    assert time.monotonic() - begun >= 1


# -- files that change -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
def test_a_file_that_shrinks_while_it_is_sent_ends_in_an_abort_and_the_rest_goes_on(
    scripted, big_instance, copies, outgoing
):
    archive = scripted()

    def shrink_it(_connection, _response):
        archive.read = None
        os.truncate(path_of(big_instance), 100_000)

    archive.read = shrink_it
    outcomes, error = send(archive.endpoint, [big_instance, *(outgoing(path) for path in copies(2))])
    assert error is None
    assert [(o.result, o.code) for o in outcomes] == [
        (StoreResult.LIMITED, "file-changed"),
        (StoreResult.STORED, "stored"),
        (StoreResult.STORED, "stored"),
    ]
    assert archive.ends[0][:1] == b"\x07"  # A-ABORT
    assert big_instance.sop_instance_uid not in archive.stored


# -- resources -------------------------------------------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - one directory entry of its own either way


def test_no_file_socket_or_thread_is_left_after_any_kind_of_end(scripted, copies, outgoing, big_instance):
    instances = [outgoing(path) for path in copies(3)]

    def sent_to(read=None, answer=None):
        archive = scripted()
        archive.read, archive.answer = read, answer or archive.answer
        before = open_files(), threading.active_count()
        send(replace(archive.endpoint, dimse_timeout_s=0.3, network_timeout_s=0.3), [*instances, big_instance])
        deadline = time.monotonic() + 10
        while archive.open_associations and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        return before

    sent_to()
    for rude in (None, lambda r: r.connection.shutdown(socket.SHUT_RDWR), lambda r: None):
        before = sent_to(answer=rude)
        deadline = time.monotonic() + 10
        while (open_files(), threading.active_count()) > before and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert open_files() <= before[0]


SEND_ELSEWHERE = """
import resource, sys
from pathlib import Path
from archsync.core.transfer import Endpoint, OutgoingInstance
from archsync.net.dicom.store import store_instances
port, *paths = sys.argv[1:]
for path in paths:
    uid = Path(path).stem
    instance = OutgoingInstance(uid, "1.2.840.10008.5.1.4.1.1.7", uid, "1.2.840.10008.1.2.1", Path(path).as_uri())
    (outcome,) = store_instances(Endpoint("127.0.0.1", int(port), "SCRIPTED"), [instance])
    assert outcome.result.is_stored, outcome
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_instance(scripted, sample, tmp_path):
    archive = scripted()
    paths = []
    for number, size in enumerate((1000, 300_000_000)):
        data_set = dcmread(sample("CT_small.dcm"))
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
        data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del data_set.StudyInstanceUID, data_set.SeriesInstanceUID, data_set["DataSetTrailingPadding"]
        data_set.PixelData = bytes(size)
        paths.append(tmp_path / f"2.25.{number + 1}.dcm")
        data_set.save_as(paths[-1])

    command = [sys.executable, "-c", SEND_ELSEWHERE, str(archive.endpoint.port), *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "plugins")}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    small, large = map(int, output.split())
    assert large - small <= 8
