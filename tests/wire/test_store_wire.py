"""C-STORE against the simulated archive: what arrives, what is reported, and how rudeness ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.dsutils import split_dataset

from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreResult
from archsync.errors import DestinationMisconfigured, OutcomeUnknown, PeerUnavailable
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import ChosenStatus, Rudeness, SimulatedArchive

IMPLICIT = "1.2.840.10008.1.2"
SAMPLES = {
    "explicit": "CT_small.dcm",
    "implicit": "MR_small_implicit.dcm",
    "big endian": "MR_small_bigendian.dcm",
    "deflated": "image_dfl.dcm",
    "RLE": "SC_rgb_rle.dcm",
    "RLE, several frames": "SC_rgb_rle_2frame.dcm",
    "JPEG 2000": "JPEG2000.dcm",
    "JPEG baseline": "SC_rgb_jpeg_dcmtk.dcm",
    "JPEG lossless": "SC_rgb_jpeg_gdcm.dcm",
    "many frames": "examples_ybr_color.dcm",
    "ECG": "waveform_ecg.dcm",
    "SR": "reportsi.dcm",
    "SEG": "liver_1frame.dcm",
}


def data_set_bytes(path: Path) -> bytes:
    """The data set as it lies in the file, cut out by pynetdicom rather than by our own reader.

    An odd one (deflated, unpadded) gets the byte that makes it even.
    """
    data_set = path.read_bytes()[split_dataset(path)[1] :]
    return data_set + b"\0" * (len(data_set) % 2)


def results(outcomes):
    return [outcome.result for outcome in outcomes]


def wait_until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.01)


def test_every_kind_of_instance_arrives_byte_for_byte_on_one_association(archive, endpoint, sample, outgoing):
    files = {}
    for name in SAMPLES.values():
        instance = outgoing(sample(name))
        files.setdefault(instance.sop_instance_uid, (sample(name), instance))  # some samples share a UID
    outcomes = list(store_instances(endpoint, [instance for _, instance in files.values()]))
    assert results(outcomes) == [StoreResult.STORED] * len(files)
    assert archive.association_count == 1
    for uid, (path, instance) in files.items():
        assert data_set_bytes(archive.stored[uid].path) == data_set_bytes(path), path.name
        assert archive.stored[uid].transfer_syntax_uid == instance.transfer_syntax_uid
    for outcome in outcomes:
        assert outcome.status == 0
        assert outcome.sent_transfer_syntax_uid == outcome.instance.transfer_syntax_uid
        assert outcome.bytes_sent == len(data_set_bytes(files[outcome.instance.sop_instance_uid][0]))


def test_the_sample_of_every_syntax_is_really_in_that_syntax(sample):
    syntaxes = {dcmread(sample(name), stop_before_pixels=True).file_meta.TransferSyntaxUID for name in SAMPLES.values()}
    assert len(syntaxes) == 8


def test_outcomes_come_one_by_one_and_closing_the_generator_ends_the_association(archive, endpoint, copies, outgoing):
    sending = store_instances(endpoint, [outgoing(path) for path in copies(5)])
    first = next(sending)
    assert list(archive.stored) == [first.instance.sop_instance_uid]
    assert archive.open_associations == 1
    sending.close()
    wait_until(lambda: archive.open_associations == 0)
    assert len(archive.requests) == 1


def test_sending_nothing_opens_no_association(archive, endpoint):
    assert list(store_instances(endpoint, [])) == []
    assert archive.association_count == 0


def test_more_than_128_contexts_take_several_associations(archive, endpoint, sample, outgoing, tmp_path):
    data_set = dcmread(sample("MR_small.dcm"))
    instances = []
    sop_classes = [context.abstract_syntax for context in AllStoragePresentationContexts[:100]]
    for number, sop_class in enumerate(sop_classes):
        data_set.SOPClassUID = data_set.file_meta.MediaStorageSOPClassUID = sop_class
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = tmp_path / f"{number}.dcm"
        data_set.save_as(path)
        instances.append(outgoing(path))
    outcomes = list(store_instances(endpoint, instances))
    assert results(outcomes) == [StoreResult.STORED] * 100
    assert archive.association_count == 2
    assert {stored.sop_class_uid for stored in archive.stored.values()} == set(sop_classes)


# Statuses


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (0xB000, StoreResult.WARNING),
        (0xA700, StoreResult.BUSY),
        (0xA900, StoreResult.REFUSED),
        (0xC123, StoreResult.REFUSED),
        (0x0110, StoreResult.LIMITED),
        (0x0111, StoreResult.WARNING),
    ],
)
def test_a_status_concerns_its_instance_and_the_rest_goes_on(archive, endpoint, copies, outgoing, status, result):
    archive.behave(Rudeness(statuses=(ChosenStatus(status=status, nth=2),)))
    outcomes = list(store_instances(endpoint, [outgoing(path) for path in copies(3)]))
    assert results(outcomes) == [StoreResult.STORED, result, StoreResult.STORED]
    assert [outcome.status for outcome in outcomes] == [0, status, 0]
    assert f"(status {status:04X})" in outcomes[1].message
    assert archive.association_count == 1


def test_not_authorised_stops_the_destination(archive, endpoint, copies, outgoing):
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0x0124, nth=2),)))
    sending = store_instances(endpoint, [outgoing(path) for path in copies(4)])
    assert results([next(sending), next(sending)]) == [StoreResult.STORED, StoreResult.STOP]
    with pytest.raises(DestinationMisconfigured) as caught:
        next(sending)
    assert caught.value.code == "not-authorized"
    assert len(archive.requests) == 2


def test_three_busy_answers_in_a_row_end_the_attempt(archive, endpoint, copies, outgoing):
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0xA700, nth=2, times=9),)))
    sending = store_instances(endpoint, [outgoing(path) for path in copies(9)])
    outcomes = [next(sending) for _ in range(4)]
    assert results(outcomes) == [StoreResult.STORED] + [StoreResult.BUSY] * 3
    with pytest.raises(PeerUnavailable) as caught:
        next(sending)
    assert caught.value.reached_peer
    assert len(archive.requests) == 4


def test_busy_answers_with_stored_ones_between_do_not_end_the_attempt(archive, endpoint, copies, outgoing):
    paths = copies(6)
    instances = [outgoing(path) for path in paths]
    busy = tuple(
        ChosenStatus(status=0xA700, sop_instance_uid=i.sop_instance_uid) for i in instances if i is not instances[2]
    )
    archive.behave(Rudeness(statuses=busy[:4]))
    outcomes = list(store_instances(endpoint, instances))
    assert results(outcomes).count(StoreResult.BUSY) == 4


def test_orthancs_answer_to_any_failure_is_no_call_for_patience(archive, endpoint, copies, outgoing):
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0xA700, nth=1, times=9),)))
    orthanc = replace(endpoint, profile=ArchiveProfile.ORTHANC)
    outcomes = list(store_instances(orthanc, [outgoing(path) for path in copies(5)]))
    assert {(outcome.result, outcome.code) for outcome in outcomes} == {(StoreResult.LIMITED, "store-failed")}
    assert len(outcomes) == 5


# Unknown outcomes


@pytest.mark.timeout(30)
def test_an_abort_in_place_of_an_answer_is_an_unknown_outcome_seen_at_once(archive, endpoint, copies, outgoing):
    # The DIMSE time-out is 60 s; seeing the abort only then would run into the test's own time-out.
    archive.behave(Rudeness(abort_after_stores=2))
    instances = [outgoing(path) for path in copies(5)]
    outcomes = []
    with pytest.raises(OutcomeUnknown, match=instances[2].sop_instance_uid) as caught:
        _collect(store_instances(endpoint, instances), outcomes)
    assert results(outcomes) == [StoreResult.STORED] * 2 + [StoreResult.UNKNOWN]
    assert "aborted" in caught.value.message
    assert len(archive.requests) == 3
    again = list(store_instances(endpoint, instances[2:]))
    assert results(again) == [StoreResult.STORED] * 3
    assert set(archive.stored) == {instance.sop_instance_uid for instance in instances}


def _collect(sending, outcomes):
    """Append each outcome as it comes, so that those before an error are kept."""
    for outcome in sending:
        outcomes.append(outcome)  # list.extend would lose them


def test_a_stall_past_the_time_out_is_an_unknown_outcome(archive, endpoint, copies, outgoing):
    archive.behave(Rudeness(stall_at_store=2, stall_s=30))
    instances = [outgoing(path) for path in copies(3)]
    outcomes = []
    with pytest.raises(OutcomeUnknown, match="no answer came in time"):
        _collect(store_instances(replace(endpoint, dimse_timeout_s=0.5), instances), outcomes)
    assert results(outcomes) == [StoreResult.STORED, StoreResult.UNKNOWN]
    assert outcomes[1].status is None


@pytest.mark.timeout(30)
def test_a_task_that_is_terminated_while_it_waits_leaves_no_association_behind(archive, endpoint, copies, outgoing):
    class Terminated(Exception):
        """What Airflow raises in a task on SIGTERM."""

    def terminate(*_):
        raise Terminated

    archive.behave(Rudeness(stall_at_store=2, stall_s=3))
    sending = store_instances(endpoint, [outgoing(path) for path in copies(3)])
    next(sending)
    before = signal.signal(signal.SIGALRM, terminate)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Terminated):
            next(sending)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: archive.open_associations == 0)
    assert [thread.name for thread in threading.enumerate() if "Requestor" in thread.name] == []


def test_nothing_of_the_patient_is_logged(archive, endpoint, sample, outgoing, tmp_path, caplog, recwarn):
    caplog.set_level("DEBUG")
    data_set = dcmread(sample("CT_small.dcm"))
    with disable_value_validation():
        data_set.PatientName = "SECRET^" + "X" * 80  # values that break their VR are those that libraries quote
        data_set.PatientBirthDate = "SECRET"
    path = tmp_path / "odd.dcm"
    with disable_value_validation():
        data_set.save_as(path)
    archive.behave(Rudeness(accept_transfer_syntaxes=(IMPLICIT,)))
    (outcome,) = store_instances(endpoint, [outgoing(path)])
    assert outcome.result is StoreResult.STORED
    said = [caplog.text, repr(outcome), *(str(warning.message) for warning in recwarn)]
    assert not any("SECRET" in text for text in said)


# Files


def test_bad_files_are_refused_by_name_and_the_rest_goes_on(archive, endpoint, sample, outgoing, copies, tmp_path):
    good = copies(9)
    patient = "DOE^JOHN"
    folder = tmp_path / patient
    folder.mkdir()
    text = folder / "text.dcm"
    text.write_text("This is not DICOM. " * 20)
    empty = folder / "empty.dcm"
    empty.touch()
    cut = folder / "cut.dcm"
    cut.write_bytes(good[0].read_bytes()[:-100])
    other_header = folder / "header.dcm"
    data_set = dcmread(good[1])
    data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data_set.save_as(other_header, enforce_file_format=False)
    where = {
        "file-missing": outgoing(good[0], location=(folder / "gone.dcm").as_uri()),
        "file-not-regular": outgoing(good[1], location=folder.as_uri()),
        "file-not-dicom": outgoing(good[2], location=text.as_uri()),
        "file-truncated": outgoing(good[0], location=cut.as_uri()),
        "unknown-location-scheme": outgoing(good[4], location="s3://bucket/DOE^JOHN/1.dcm"),
    }
    lies = [
        outgoing(good[5], sop_instance_uid="1.2.3"),
        outgoing(good[6], study_instance_uid="1.2.3"),
        outgoing(good[7], series_instance_uid="1.2.3"),
        outgoing(good[8], sop_class_uid="1.2.840.10008.5.1.4.1.1.2"),
        outgoing(other_header),
    ]
    also_not_dicom = outgoing(good[3], location=empty.as_uri())
    fine = [outgoing(sample("CT_small.dcm")), outgoing(sample("JPEG2000.dcm"))]
    outcomes = list(store_instances(endpoint, [fine[0], *where.values(), *lies, also_not_dicom, fine[1]]))
    refused = [outcome for outcome in outcomes if outcome.result is StoreResult.REFUSED]
    assert [o.code for o in refused] == [*where, *["uid-mismatch"] * len(lies), "file-not-dicom"]
    assert set(archive.stored) == {instance.sop_instance_uid for instance in fine}
    for outcome in refused:
        assert outcome.instance.sop_instance_uid in outcome.message
        assert patient not in outcome.message
        assert outcome.status is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_we_may_not_read_is_refused(endpoint, outgoing, copies):
    (path,) = copies(1)
    instance = outgoing(path)
    path.chmod(0)
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.code == "file-unreadable"


def test_when_no_file_can_be_sent_the_archive_is_not_bothered(archive, endpoint, outgoing, copies):
    (path,) = copies(1)
    (outcome,) = store_instances(endpoint, [outgoing(path, study_instance_uid="1.2.3")])
    assert outcome.result is StoreResult.REFUSED
    assert archive.association_count == 0


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm"])
def test_the_truncated_samples_are_found_out(endpoint, sample, outgoing, name):
    (outcome,) = store_instances(endpoint, [outgoing(sample(name))])
    assert outcome.code == "file-truncated"


@pytest.mark.parametrize(
    "name",
    [
        *("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "SC_rgb_rle_2frame.dcm"),
        *("MR_small_jp2klossless.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm", "liver_1frame.dcm"),
    ],
)
def test_an_image_cut_in_its_second_half_is_never_sent(archive, endpoint, sample, outgoing, tmp_path, name):
    source = sample(name)
    whole = source.read_bytes()
    cut = tmp_path / "cut.dcm"
    for size in range(len(whole) - 10, len(whole) // 2, -max(1, len(whole) // 40)):
        cut.write_bytes(whole[:size])
        (outcome,) = store_instances(endpoint, [outgoing(source, location=cut.as_uri())])
        # (The deflated sample has a trailer of 8 bytes. Cut inside the header, UIDs may be missing instead.)
        assert outcome.code in ("file-truncated", "uid-mismatch"), size
    assert archive.association_count == 0


def test_a_file_replaced_while_the_job_runs_is_checked_again(archive, endpoint, sample, outgoing, copies):
    paths = copies(4)
    instances = [outgoing(path) for path in paths]
    sending = store_instances(endpoint, instances)
    assert next(sending).result is StoreResult.STORED
    shutil.copy(sample("CT_small.dcm"), paths[1])  # another instance
    paths[2].unlink()
    data_set = dcmread(paths[3])  # the same instance with other content
    data_set.ImageComments = "a later version"
    data_set.save_as(paths[3])
    assert [(outcome.result, outcome.code) for outcome in sending] == [
        (StoreResult.REFUSED, "uid-mismatch"),
        (StoreResult.REFUSED, "file-missing"),
        (StoreResult.STORED, "stored"),
    ]
    assert data_set_bytes(archive.stored[instances[3].sop_instance_uid].path) == data_set_bytes(paths[3])


def test_a_file_changed_while_it_is_sent_does_not_count_as_stored(archive, endpoint, outgoing, copies):
    paths = copies(2)
    archive.behave(Rudeness(stall_at_store=1, stall_s=1.5))

    def change():
        wait_until(lambda: archive.requests)
        with paths[0].open("ab") as stream:
            stream.write(b"\0\0")

    changer = threading.Thread(target=change)
    changer.start()
    outcomes = list(store_instances(endpoint, [outgoing(path) for path in paths]))
    changer.join()
    assert [(o.result, o.code) for o in outcomes] == [
        (StoreResult.LIMITED, "file-changed"),
        (StoreResult.STORED, "stored"),
    ]


def test_the_files_syntax_wins_over_the_platforms(archive, endpoint, sample, outgoing):
    instance = outgoing(sample("JPEG2000.dcm"), transfer_syntax_uid=ExplicitVRLittleEndian)
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.result is StoreResult.STORED
    assert "not as the platform says" in outcome.message
    assert data_set_bytes(archive.stored[instance.sop_instance_uid].path) == data_set_bytes(sample("JPEG2000.dcm"))


@pytest.mark.parametrize("name", ["ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm"])
def test_a_file_without_preamble_and_meta_information_is_sent(archive, endpoint, sample, name):
    header = dcmread(sample(name), force=True)
    instance = OutgoingInstance(
        name, header.SOPClassUID, header.SOPInstanceUID, ExplicitVRLittleEndian, sample(name).as_uri()
    )
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.result is StoreResult.STORED
    assert data_set_bytes(archive.stored[instance.sop_instance_uid].path) == sample(name).read_bytes()


# The race of pynetdicom 3.0.4 that loses responses under load


@pytest.mark.timeout(100)
def test_hundreds_of_small_stores_on_a_busy_machine_lose_no_response(archive, endpoint, outgoing, copies):
    instances = [outgoing(path) for path in copies(40)]
    impatient = replace(endpoint, dimse_timeout_s=10)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        for _ in range(6):
            outcomes = list(store_instances(impatient, instances))
            assert results(outcomes) == [StoreResult.STORED] * len(instances)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert len(archive.requests) == 6 * len(instances)


def test_many_associations_at_once_do_not_disturb_each_other(tmp_path, outgoing, copies):
    instances = [outgoing(path) for path in copies(40)]
    with SimulatedArchive(tmp_path / "busy") as archive:
        endpoint = Endpoint(*archive.address, called_ae_title="SIMARCHIVE")
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda start: list(store_instances(endpoint, instances[start::8])), range(8))
            assert results(outcome for part in parts for outcome in part) == [StoreResult.STORED] * 40
        assert len(archive.stored) == 40
