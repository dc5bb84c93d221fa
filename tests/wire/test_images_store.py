"""Studies whose images are on a web server, sent to an archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom.dsutils import split_dataset

from archsync.core.fitting import Fitting, Modification
from archsync.core.study import ExamStatus, Patient, Study
from archsync.core.transfer import Share, StoreResult
from archsync.core.uid_map import InstanceUids, UidMap
from archsync.errors import PeerUnavailable
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.referring import read_references
from archsync.net.dicom.store import store_instances
from archsync.net.remote import ahead, copying, web
from archsync.simulate.image_server import ImageRudeness, SimulatedImageServer

SAMPLES = (
    "CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "SC_rgb_rle_2frame.dcm",
    "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_ybr_color.dcm", "waveform_ecg.dcm", "reportsi.dcm",
)  # fmt: skip


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(copying, "PAUSES_S", (0.0, 0.01, 0.01))
    monkeypatch.setattr(web, "SILENCE_TIMEOUT_S", 2.0)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    with SimulatedImageServer(folder) as server:
        yield server


@pytest.fixture
def on_web(server, outgoing):
    """Puts a file on the web server; gives the instance with its location there."""

    def put(path, kind="files"):
        shutil.copy(path, server.folder / path.name)
        return outgoing(path, location=server.url(path.name, kind=kind))

    return put


@pytest.fixture
def study(on_web, copies):
    """Instances of one series, on the web server."""
    return lambda count, kind="files": [on_web(path, kind) for path in copies(count)]


def data_set_bytes(path):
    data_set = path.read_bytes()[split_dataset(path)[1] :]
    return data_set + b"\0" * (len(data_set) % 2)


def open_copies() -> int:
    descriptors = Path("/proc/self/fd").iterdir()
    return sum(path.is_symlink() and "(deleted)" in str(path.readlink()) for path in descriptors)


@pytest.fixture
def nothing_is_left():
    """Tells, asked at the end, whether no copy stays open and no thread busy, once those have noticed."""
    before = open_copies()  # pytest has some of its own

    def check() -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            busy = [thread for thread in threading.enumerate() if thread.name.startswith("archsync-images")]
            if not busy and open_copies() == before:
                return True
            threading.Event().wait(0.01)
        return False

    return check


def asked(server):
    return [path.rpartition("/")[2] for path, _ in server.requests]


@pytest.mark.parametrize("kind", ["files", "wado"])
def test_every_kind_of_instance_arrives_byte_for_byte(archive, endpoint, server, sample, on_web, kind, nothing_is_left):
    instances = {on_web(sample(name), kind).sop_instance_uid: (name, on_web(sample(name), kind)) for name in SAMPLES}
    outcomes = list(store_instances(endpoint, [instance for _, instance in instances.values()]))
    assert {outcome.result for outcome in outcomes} == {StoreResult.STORED}
    for uid, (name, instance) in instances.items():
        assert data_set_bytes(archive.stored[uid].path) == data_set_bytes(sample(name)), name
        assert archive.stored[uid].transfer_syntax_uid == instance.transfer_syntax_uid
    assert sorted(asked(server)) == sorted(name for name, _ in instances.values()), "each is asked for once"
    assert nothing_is_left()


def test_a_study_arrives_over_several_associations_and_no_image_is_asked_for_twice(
    scripted, server, study, nothing_is_left
):
    archive = scripted(delay_s=0.01)
    instances = study(120)
    outcomes = list(store_instances(archive.endpoint, instances, Pace(Share(associations=4))))
    assert {outcome.result for outcome in outcomes} == {StoreResult.STORED}
    assert len(archive.stored) == len(outcomes) == 120
    assert archive.most_at_a_time > 1
    assert len(set(asked(server))) == 120
    # A machine that is busy enough may leave one so slow that it is given up and asked for again.
    assert len(server.requests) <= 125
    assert nothing_is_left()


def test_images_are_copied_ahead_several_at_a_time(archive, endpoint, server, study):
    server.delay_s = 0.05
    instances = study(24)
    assert all(outcome.result.is_stored for outcome in store_instances(endpoint, instances))
    assert server.most_at_a_time == ahead.COPIES_AT_A_TIME


def test_no_more_is_copied_ahead_than_there_is_to_be_room_for(scripted, server, study, monkeypatch):
    archive = scripted()
    sent, go_on = threading.Event(), threading.Event()

    def answer(request):
        sent.set()
        go_on.wait(20)
        request.respond()

    archive.answer = answer
    instances = study(60)
    before = open_copies()
    sending = store_instances(archive.endpoint, instances)
    outcomes = []
    worker = threading.Thread(target=lambda: outcomes.extend(sending))
    worker.start()
    assert sent.wait(20)
    enough = 1 + ahead.MAX_FILES  # what is sent, and what is ahead of that
    deadline = time.monotonic() + 10
    while len(server.requests) < enough and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert open_copies() - before <= enough
    assert len(server.requests) == enough
    go_on.set()
    worker.join(20)
    assert len(outcomes) == 60

    big = [replace(instance, size_bytes=ahead.MAX_BYTES) for instance in instances]
    server.requests.clear()
    go_on.clear()
    sent.clear()
    worker = threading.Thread(target=lambda: outcomes.extend(store_instances(archive.endpoint, big)))
    worker.start()
    assert sent.wait(20)
    assert len(server.requests) <= 3, "one at a time, where they are large"
    go_on.set()
    worker.join(20)
    assert len(outcomes) == 120


def test_an_image_that_is_gone_is_named_and_the_rest_goes_on(archive, endpoint, server, study):
    instances = study(5)
    (server.folder / "0002.dcm").unlink()
    outcomes = {outcome.instance: outcome for outcome in store_instances(endpoint, instances)}
    refused = outcomes.pop(instances[2])
    assert (refused.result, refused.code) == (StoreResult.REFUSED, "file-missing")
    assert instances[2].sop_instance_uid in refused.message
    assert {outcome.result for outcome in outcomes.values()} == {StoreResult.STORED}


@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_image_that_can_not_be_had_now_waits_and_the_rest_goes_on(
    archive, endpoint, server, study, place, nothing_is_left
):
    instances = study(5)

    class Overloaded(SimulatedImageServer):
        def take_rudeness(self):
            return ImageRudeness(status=503) if self.requests[-1][0].endswith("x.dcm") else ImageRudeness()

    with Overloaded(server.folder) as overloaded:
        instances[place] = replace(instances[place], location=overloaded.url("x.dcm"))
        outcomes = {outcome.instance: outcome for outcome in store_instances(endpoint, instances)}
    busy = outcomes.pop(instances[place])
    assert (busy.result, busy.code, busy.status) == (StoreResult.BUSY, "image-source-unavailable", None)
    assert {outcome.result for outcome in outcomes.values()} == {StoreResult.STORED}
    assert nothing_is_left()


@pytest.mark.parametrize("sent_before", [0, 3])
def test_a_source_that_is_down_ends_the_attempt_after_three_images(
    archive, endpoint, server, study, sent_before, nothing_is_left
):
    instances = study(40)
    outcomes = []

    class GoesDown(SimulatedImageServer):
        def take_rudeness(self):
            name = self.requests[-1][0].rpartition("/")[2]
            return ImageRudeness(status=503) if name >= f"{sent_before:04}" else ImageRudeness()

    with GoesDown(server.folder) as down:
        instances = [replace(i, location=down.url(f"{n:04}.dcm")) for n, i in enumerate(instances)]
        with pytest.raises(PeerUnavailable, match="3 images in a row could not be had; instance") as caught:
            outcomes.extend(store_instances(endpoint, instances))  # as far as it goes
        assert len({path for path, _ in down.requests}) <= sent_before + 3 + ahead.MAX_FILES
    assert caught.value.reached_peer
    results = [outcome.result for outcome in outcomes]
    assert results == [StoreResult.STORED] * sent_before + [StoreResult.BUSY] * 3
    assert nothing_is_left()


def test_what_is_no_dicom_file_is_named(archive, endpoint, server, study, nothing_is_left):
    instances = study(3)
    (server.folder / "0001.dcm").write_text("<html>Please log in</html>")
    codes = {outcome.instance: outcome.code for outcome in store_instances(endpoint, instances)}
    assert codes[instances[1]] == "file-not-dicom"
    assert nothing_is_left()


def test_half_an_image_is_never_sent(archive, endpoint, server, study):
    """A server that forgets the end and says that this is all."""
    instances = study(2)
    whole = (server.folder / "0000.dcm").read_bytes()
    (server.folder / "0000.dcm").write_bytes(whole[:-100])
    (first, second) = sorted(store_instances(endpoint, instances), key=lambda outcome: outcome.instance.location)
    assert (first.result, first.code) == (StoreResult.REFUSED, "file-truncated")
    assert second.result is StoreResult.STORED


def test_closing_the_generator_drops_what_was_copied_ahead(archive, endpoint, server, study, nothing_is_left):
    sending = store_instances(endpoint, study(30))
    assert next(sending).result.is_stored
    sending.close()
    assert nothing_is_left()


def test_an_archive_that_can_not_be_reached_leaves_nothing_behind(
    endpoint, server, study, unused_port, nothing_is_left
):
    with pytest.raises(PeerUnavailable):
        list(store_instances(replace(endpoint, port=unused_port), study(30)))
    assert nothing_is_left()


@pytest.fixture
def unused_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as closed:
        return closed.getsockname()[1]


def test_an_image_that_differs_goes_out_corrected(archive, endpoint, sample, on_web, nothing_is_left):
    source = dcmread(sample("CT_small.dcm"))
    instance = on_web(sample("CT_small.dcm"))
    uids = InstanceUids(instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
    fitting = Fitting(
        uid_map=UidMap.of([(uids, uids)]),
        study=Study("1", instance.study_instance_uid, "1", "CITY", ExamStatus.COMPLETED),
        patient=Patient("1", "NEW", None, "New^Name", None, None),
        modification=Modification(modified_at=datetime(2025, 1, 2, tzinfo=UTC), modifying_system="ARCHSYNC"),
    )
    (outcome,) = store_instances(endpoint, [replace(instance, fitting=fitting)])
    assert outcome.result is StoreResult.STORED
    result = dcmread(archive.stored[instance.sop_instance_uid].path)
    assert result.PatientName == "New^Name"
    assert result.PixelData == source.PixelData
    assert nothing_is_left()


def test_an_image_that_the_archive_does_not_take_goes_out_decompressed(
    tmp_path, endpoint, archive, sample, on_web, nothing_is_left
):
    from archsync.simulate.rudeness import Rudeness

    archive.behave(Rudeness(accept_transfer_syntaxes=("1.2.840.10008.1.2.1",)))
    instance = on_web(sample("SC_rgb_rle.dcm"))
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.result is StoreResult.STORED, outcome
    expected = dcmread(sample("SC_rgb_rle.dcm")).pixel_array
    assert (dcmread(archive.stored[instance.sop_instance_uid].path).pixel_array == expected).all()
    assert nothing_is_left()


def test_what_an_image_points_at_is_read_from_there(sample, on_web, nothing_is_left):
    instance = on_web(sample("liver_1frame.dcm"), "wado")
    there = read_references(instance.location, sop_instance_uid=instance.sop_instance_uid)
    here = read_references(sample("liver_1frame.dcm").as_uri(), sop_instance_uid=instance.sop_instance_uid)
    assert there == here
    assert here
    assert nothing_is_left()


SEND_ELSEWHERE = """
import resource, sys
from archsync.core.transfer import Endpoint, OutgoingInstance
from archsync.net.dicom.store import store_instances
port, *locations = sys.argv[1:]
for number, location in enumerate(locations):
    uid = f"2.25.{number + 1}"
    instance = OutgoingInstance(uid, "1.2.840.10008.5.1.4.1.1.7", uid, "1.2.840.10008.1.2.1", location)
    (outcome,) = store_instances(Endpoint("127.0.0.1", int(port), "SCRIPTED"), [instance])
    assert outcome.result.is_stored, outcome
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("kind", ["files", "wado"])
def test_memory_does_not_grow_with_the_image(scripted, server, sample, kind):
    archive = scripted()
    for number, size in enumerate((1000, 200_000_000)):
        data_set = dcmread(sample("CT_small.dcm"))
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
        data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del data_set.StudyInstanceUID, data_set.SeriesInstanceUID, data_set["DataSetTrailingPadding"]
        data_set.PixelData = bytes(size)
        data_set.save_as(server.folder / f"{number}.dcm")
    locations = [server.url(f"{number}.dcm", kind=kind) for number in range(2)]
    command = [sys.executable, "-c", SEND_ELSEWHERE, str(archive.endpoint.port), *locations]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "plugins")}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    small, large = map(int, output.split())
    assert large - small <= 8
