"""Sending instances fitted: a file that says what the archive is to have as it is, else a corrected copy."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom.dsutils import split_dataset

from archsync.core.fitting import Fitting, Modification
from archsync.core.study import Facility, Patient, Study
from archsync.core.transfer import OutgoingInstance, StoreResult
from archsync.core.uid_map import InstanceUids, UidMap
from archsync.errors import OutcomeUnknown, PeerUnavailable
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import Rudeness, SimulatedArchive

IMPLICIT = "1.2.840.10008.1.2"
NOTE = "sent with the patient and UIDs the platform gives"
# As CT_small.dcm has it; it names no issuer.
PATIENT = Patient("p-1", "1CT1", "HOSP", "CompressedSamples^CT1", None, "O")
FACILITY = Facility("f-1", "North", "NORTH", "HOSP", "1.2.999.1", "ISO")
CHANGED = Modification(modified_at=datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), modifying_system="archsync at North")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, for one test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def uids_in(path: Path) -> InstanceUids:
    header = dcmread(path, stop_before_pixels=True, force=True)
    return InstanceUids(header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)


def fitted(*instances: OutgoingInstance, patient: Patient = PATIENT, **uids: str) -> list[OutgoingInstance]:
    """The instances, as they are to be at an archive that knows ``patient``, with these UIDs in place of their own."""
    pairs = []
    for instance in instances:
        old = InstanceUids(instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
        pairs.append((old, replace(old, **uids)))
    study = Study("s-1", pairs[0][1].study_instance_uid, patient, FACILITY, "Completed")
    fitting = Fitting(uid_map=UidMap.of(pairs), study=study, patient=patient, modification=CHANGED)
    return [
        replace(i, **uids, source_sop_instance_uid=i.sop_instance_uid, fitting=fitting) for i in instances
    ]  # fmt: skip


def received(archive: SimulatedArchive, instance: OutgoingInstance) -> Dataset:
    return dcmread(archive.stored[instance.sop_instance_uid].path)


def data_set_bytes(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


# -- files that say what the archive is to have ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "patient",
    [
        PATIENT,
        replace(PATIENT, name="CompressedSamples^CT1^^^"),
        replace(PATIENT, issuer_of_patient_id=None, sex=None),
    ],
)
def test_a_file_that_fits_goes_out_byte_for_byte(archive, endpoint, sample, outgoing, patient):
    (instance,) = fitted(outgoing(sample("CT_small.dcm")), patient=patient)
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.result is StoreResult.STORED
    assert NOTE not in outcome.message
    assert data_set_bytes(archive.stored[instance.sop_instance_uid].path) == data_set_bytes(sample("CT_small.dcm"))


def test_an_instance_without_fitting_is_refused_when_its_study_is_another(archive, endpoint, sample, outgoing):
    instance = outgoing(sample("CT_small.dcm"), study_instance_uid="1.2.3")
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.code == "uid-mismatch"
    assert archive.association_count == 0


# -- coerced on sending ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "keyword", "value"),
    [
        ({"patient": replace(PATIENT, name="compressedsamples^CT1")}, "PatientName", "compressedsamples^CT1"),
        ({"patient": replace(PATIENT, patient_id="1CT2")}, "PatientID", "1CT2"),
        ({"patient": replace(PATIENT, birth_date=date(1961, 2, 3))}, "PatientBirthDate", "19610203"),
        ({"patient": replace(PATIENT, sex="F")}, "PatientSex", "F"),
        ({"study_instance_uid": "1.2.3"}, "StudyInstanceUID", "1.2.3"),
        ({"series_instance_uid": "1.2.3.4"}, "SeriesInstanceUID", "1.2.3.4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_differs_goes_out_corrected_under_its_uid(
    archive, endpoint, sample, outgoing, temporary, change, keyword, value
):
    source = dcmread(sample("CT_small.dcm"))
    (instance,) = fitted(outgoing(sample("CT_small.dcm")), **change)
    (outcome,) = store_instances(endpoint, [instance])
    assert (outcome.result, outcome.status) == (StoreResult.STORED, 0)
    assert outcome.message.endswith(NOTE)
    result = received(archive, instance)
    assert result.SOPInstanceUID == source.SOPInstanceUID
    assert result[keyword].value == value
    assert result.PixelData == source.PixelData
    (item,) = result.OriginalAttributesSequence
    assert item.ReasonForTheAttributeModification == "COERCE"
    assert item.AttributeModificationDateTime == "20250102030405.000000+0000"
    (modified,) = item.ModifiedAttributesSequence
    assert modified[keyword].value == source[keyword].value
    assert "SOPInstanceUID" not in modified
    assert outcome.bytes_sent == len(data_set_bytes(archive.stored[instance.sop_instance_uid].path))
    assert list(temporary.iterdir()) == []


def test_an_issuer_that_is_another_is_corrected(archive, endpoint, sample, outgoing, tmp_path):
    data_set = dcmread(sample("CT_small.dcm"))
    data_set.IssuerOfPatientID = "ELSEWHERE"
    data_set.save_as(tmp_path / "issued.dcm")
    (instance,) = fitted(outgoing(tmp_path / "issued.dcm"))
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.message.endswith(NOTE)
    assert received(archive, instance).IssuerOfPatientID == "HOSP"


def test_what_the_platform_does_not_know_of_the_same_patient_stays(archive, endpoint, sample, outgoing, tmp_path):
    data_set = dcmread(sample("CT_small.dcm"))
    data_set.PatientBirthDate, data_set.IssuerOfPatientID = "19610203", "HOSP"
    data_set.save_as(tmp_path / "born.dcm")
    patient = replace(PATIENT, name="Corrected^Name", sex=None, issuer_of_patient_id=None)
    (instance,) = fitted(outgoing(tmp_path / "born.dcm"), patient=patient)
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.result is StoreResult.STORED
    result = received(archive, instance)
    assert (result.PatientBirthDate, result.PatientSex, result.IssuerOfPatientID) == ("19610203", "O", "HOSP")
    (modified,) = result.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert [element.keyword for element in modified] == ["PatientName"]


def test_only_files_that_differ_are_corrected_and_each_instance_is_told_of_once(
    archive, endpoint, sample, outgoing, temporary
):
    names = ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm"]
    instances = fitted(*(outgoing(sample(name)) for name in names[:1]))
    for name in names[1:]:
        header = dcmread(sample(name))
        instances += fitted(outgoing(sample(name)), patient=replace(PATIENT, patient_id=f"{header.PatientID}-NEW"))
    outcomes = list(store_instances(endpoint, instances))
    assert [o.instance for o in outcomes] == instances
    assert [NOTE in o.message for o in outcomes] == [False, True, True]
    assert archive.association_count == 1
    assert archive.stored[instances[2].sop_instance_uid].transfer_syntax_uid == instances[2].transfer_syntax_uid


def test_a_corrected_copy_is_re_encoded_for_a_peer_that_takes_only_that(archive, endpoint, sample, outgoing):
    archive.behave(Rudeness(accept_transfer_syntaxes=(IMPLICIT,)))
    (instance,) = fitted(outgoing(sample("CT_small.dcm")), patient=replace(PATIENT, patient_id="1CT2"))
    (outcome,) = store_instances(endpoint, [instance])
    assert outcome.sent_transfer_syntax_uid == IMPLICIT
    result = received(archive, instance)
    assert (result.PatientID, result.PixelData) == ("1CT2", dcmread(sample("CT_small.dcm")).PixelData)


# -- replacements ----------------------------------------------------------------------------------------------------


def test_a_replacement_goes_out_under_its_new_uids(archive, endpoint, sample, outgoing):
    new = {"study_instance_uid": "2.25.1", "series_instance_uid": "2.25.2", "sop_instance_uid": "2.25.3"}
    (instance,) = fitted(outgoing(sample("CT_small.dcm")), **new)
    (outcome,) = store_instances(endpoint, [instance])
    assert (outcome.result, outcome.instance.sop_instance_uid) == (StoreResult.STORED, "2.25.3")
    assert list(archive.stored) == ["2.25.3"]
    result = received(archive, instance)
    assert uids_in(archive.stored["2.25.3"].path) == InstanceUids("2.25.1", "2.25.2", "2.25.3")
    item = result.OriginalAttributesSequence[0]
    assert item.ReasonForTheAttributeModification == "CORRECT"
    assert item.ModifiedAttributesSequence[0].SOPInstanceUID == uids_in(sample("CT_small.dcm")).sop_instance_uid


def test_the_file_of_another_instance_is_refused_whatever_the_fitting(archive, endpoint, sample, outgoing):
    (instance,) = fitted(outgoing(sample("CT_small.dcm")), sop_instance_uid="2.25.3")
    (outcome,) = store_instances(endpoint, [replace(instance, location=sample("MR_small.dcm").as_uri())])
    assert (outcome.result, outcome.code) == (StoreResult.REFUSED, "uid-mismatch")
    assert archive.association_count == 0


def test_a_new_uid_that_the_map_does_not_give_is_refused(archive, endpoint, sample, outgoing):
    (instance,) = fitted(outgoing(sample("CT_small.dcm")), sop_instance_uid="2.25.3")
    (outcome,) = store_instances(endpoint, [replace(instance, sop_instance_uid="2.25.4")])
    assert outcome.code == "uid-not-mapped"
    assert archive.stored == {}


def test_an_instance_can_not_change_its_uid_without_a_fitting(sample, outgoing):
    with pytest.raises(ValueError, match="without a fitting"):
        replace(outgoing(sample("CT_small.dcm")), source_sop_instance_uid="1.2.3")


def test_an_instance_can_not_be_fitted_to_nothing(sample, outgoing):
    (instance,) = fitted(outgoing(sample("CT_small.dcm")))
    with pytest.raises(ValueError, match="no study or series"):
        replace(instance, series_instance_uid=None)


# -- the same bytes --------------------------------------------------------------------------------------------------


def test_a_resend_is_the_same_byte_for_byte(archive, endpoint, sample, outgoing):
    for name in ("CT_small.dcm", "JPEG2000.dcm", "image_dfl.dcm", "reportsi.dcm"):
        (instance,) = fitted(outgoing(sample(name)), patient=replace(PATIENT, patient_id="NEW", name="Müller^Jörg"))
        sent = []
        for _ in range(2):
            (outcome,) = store_instances(endpoint, [instance])
            assert outcome.result is StoreResult.STORED
            sent.append(data_set_bytes(archive.stored[instance.sop_instance_uid].path))
        assert sent[0] == sent[1], name


COPY_ELSEWHERE = """
import hashlib, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import test_fitting_wire as here
from archsync.core.transfer import OutgoingInstance
from archsync.net.dicom.fitting import corrected_copy
from archsync.net.dicom.opened import open_instance
(instance,) = here.fitted(here.described(Path(sys.argv[3])), patient=here.RENAMED)
with corrected_copy(instance, open_instance(instance).facts) as (copy, _):
    print(hashlib.sha256(Path(copy.path).read_bytes()).hexdigest())
"""
RENAMED = replace(PATIENT, patient_id="NEW", name="Müller^Jörg")


def described(path: Path) -> OutgoingInstance:
    header = dcmread(path, stop_before_pixels=True)
    uids = uids_in(path)
    return OutgoingInstance(
        path.name, header.SOPClassUID, uids.sop_instance_uid, header.file_meta.TransferSyntaxUID, path.as_uri(),
        study_instance_uid=uids.study_instance_uid, series_instance_uid=uids.series_instance_uid,
    )  # fmt: skip


def test_another_process_makes_the_same_copy(sample):
    here = Path(__file__).parent
    command = [sys.executable, "-c", COPY_ELSEWHERE, here, here.parents[1] / "plugins", sample("reportsi.dcm")]
    environments = ({"PYTHONHASHSEED": "1", "TZ": "UTC"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"})
    digests = {
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for environment in environments
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2


# -- the temporary folder --------------------------------------------------------------------------------------------


def renamed(paths: list[Path], outgoing: Callable[..., OutgoingInstance]) -> list[OutgoingInstance]:
    return fitted(
        *(outgoing(path) for path in paths), patient=replace(PATIENT, name="SECRET^NAME", patient_id="SECRET")
    )


def test_between_two_instances_there_is_no_copy(archive, endpoint, copies, outgoing, temporary):
    left = [list(temporary.iterdir()) for _ in store_instances(endpoint, renamed(copies(5), outgoing))]
    assert left == [[]] * 5


def test_the_copy_is_deleted_when_no_answer_comes(archive, endpoint, copies, outgoing, temporary):
    archive.behave(Rudeness(abort_after_stores=1))
    sending = store_instances(endpoint, renamed(copies(3), outgoing))
    with pytest.raises(OutcomeUnknown):
        list(sending)
    assert len(archive.stored) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.timeout(30)
def test_there_is_one_copy_at_a_time_for_nobody_else_and_it_goes_with_a_task_that_is_terminated(
    archive, endpoint, copies, outgoing, temporary
):
    class Terminated(Exception):
        """What Airflow raises in a task on SIGTERM."""

    found: list[tuple[str, int]] = []

    def terminate(*_):
        found.extend((path.name, path.stat().st_mode & 0o777) for path in sorted(temporary.rglob("*")))
        raise Terminated

    archive.behave(Rudeness(stall_at_store=2, stall_s=3))
    sending = store_instances(endpoint, renamed(copies(3), outgoing))
    next(sending)
    before = signal.signal(signal.SIGALRM, terminate)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Terminated):
            next(sending)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (folder, mode), (file, _) = found
    assert folder.startswith("archsync-corrected-")
    assert (file, mode) == ("corrected.dcm", 0o700)
    assert list(temporary.iterdir()) == []


@contextmanager
def small_files() -> Iterator[None]:
    """As on a full disk, no file can grow beyond 8 KiB: not a fixture, for the report of the tests is a file, too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_ends_the_attempt_for_now_without_a_word_on_the_patient(
    archive, endpoint, sample, outgoing, temporary
):
    sending = store_instances(endpoint, renamed([sample("CT_small.dcm")], outgoing))
    with small_files(), pytest.raises(PeerUnavailable) as caught:
        next(sending)
    error = caught.value
    assert (error.code, error.reached_peer) == ("no-room-for-copy", True)
    assert "folder for temporary files" in error.message
    assert not any(word in error.message for word in ("SECRET", str(temporary)))
    assert error.__suppress_context__
    assert list(temporary.iterdir()) == []
    assert archive.stored == {}


def test_a_folder_that_is_not_there_ends_the_attempt_after_what_needs_none(
    archive, endpoint, sample, outgoing, copies, temporary
):
    temporary.rmdir()
    fits = fitted(outgoing(sample("CT_small.dcm")))
    sending = store_instances(endpoint, [*fits, *renamed(copies(1), outgoing)])
    assert next(sending).result is StoreResult.STORED
    with pytest.raises(PeerUnavailable, match="folder for temporary files") as caught:
        next(sending)
    assert caught.value.code == "no-room-for-copy"


def test_a_file_that_can_not_be_corrected_is_refused_and_the_rest_goes_on(archive, endpoint, sample, outgoing, copies):
    odd = fitted(outgoing(sample("CT_small.dcm")), patient=replace(PATIENT, name="SECRET\\NAME"))
    outcomes = list(store_instances(endpoint, [*odd, *renamed(copies(1), outgoing)]))
    assert [o.code for o in outcomes] == ["text-not-encodable", "stored"]
    assert "SECRET" not in outcomes[0].message


def test_nothing_of_the_patient_is_logged_or_shown(archive, endpoint, copies, outgoing, caplog, recwarn):
    caplog.set_level("DEBUG")
    archive.behave(Rudeness(accept_transfer_syntaxes=(IMPLICIT,)))
    (outcome,) = store_instances(endpoint, renamed(copies(1), outgoing))
    assert outcome.result is StoreResult.STORED
    said = [caplog.text, repr(outcome), *(str(warning.message) for warning in recwarn)]
    assert not any("SECRET" in text for text in said)


def test_a_file_that_changes_to_what_the_archive_is_to_have_goes_out_as_it_is(archive, endpoint, copies, outgoing):
    paths = copies(2)
    instances = renamed(paths, outgoing)
    sending = store_instances(endpoint, instances)
    assert NOTE in next(sending).message
    data_set = dcmread(paths[1])
    data_set.PatientName, data_set.PatientID, data_set.PatientSex = "SECRET^NAME", "SECRET", "O"
    data_set.save_as(paths[1])
    assert NOTE not in next(sending).message
    assert data_set_bytes(archive.stored[instances[1].sop_instance_uid].path) == data_set_bytes(paths[1])
