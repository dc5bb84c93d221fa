"""Second opinions on rejection notes: dicom3tools' and DCMTK's validators, and highdicom's reader."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import highdicom
import pytest
from pydicom import dcmread

from archsync.core.rejection import (
    AssigningAuthority,
    NoteIdentity,
    NoteSubject,
    RejectedInstance,
    RejectionTitle,
    TitleModifier,
)
from archsync.messages.rejection_note import build_rejection_note, encode_note

ECG = "1.2.840.10008.5.1.4.1.1.9.1.1"
STUDY = "1.2.276.0.7230010.3.1.2.1"
SAMPLES = (
    *("CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm", "waveform_ecg.dcm", "reportsi.dcm", "liver_1frame.dcm"),
    *("rtplan.dcm", "rtdose.dcm"),
)
FULL = NoteSubject(
    study_instance_uid=STUDY,
    patient_id="P-1",
    patient_name="Roe^Jane",
    issuer_of_patient_id=AssigningAuthority("CITY", "1.2.276.0.76.3", "ISO"),
    birth_date=date(1970, 1, 2),
    sex="F",
    study_date=date(2026, 3, 1),
    study_time=time(8, 30, 15),
    study_id="42",
    study_description="CT Abdomen",
    accession_number="ACC9",
    issuer_of_accession_number=AssigningAuthority("RIS", "1.2.276.0.76.4", "ISO"),
    referring_physician="Poe^Edgar",
)
SUBJECTS = {
    "everything known": FULL,
    "little known": NoteSubject(study_instance_uid=STUDY, patient_id="P-1"),
    "accents": replace(FULL, patient_name="Müller^Jürgen"),
    "ideographs": replace(FULL, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう"),
}


@pytest.fixture(scope="module")
def instances(sample: Callable[[str], Path]) -> tuple[RejectedInstance, ...]:
    """Instances of each kind of SOP class, moved into one study."""
    headers = [dcmread(sample(name), stop_before_pixels=True) for name in SAMPLES]
    return tuple(RejectedInstance(STUDY, h.SeriesInstanceUID, h.SOPInstanceUID, h.SOPClassUID) for h in headers)


@pytest.fixture
def note_file(tmp_path: Path, instances) -> Callable[..., Path]:
    """Writes the note about the instances as it would be sent."""

    def write(
        subject: NoteSubject = FULL,
        title: RejectionTitle = RejectionTitle.QUALITY,
        named: tuple[RejectedInstance, ...] = instances,
    ) -> Path:
        is_quality = title is RejectionTitle.QUALITY
        note = build_rejection_note(
            subject,
            named,
            title=title,
            identity=NoteIdentity("4711", "vna1"),
            issued_at=datetime(2026, 3, 9, 14, 5, 6, tzinfo=UTC),
            time_zone=ZoneInfo("Europe/Berlin"),
            modifier=TitleModifier.MOTION_BLUR if is_quality else None,
            description="Repeated" if is_quality else None,
        )
        path = tmp_path / "note.dcm"
        path.write_bytes(encode_note(note, held=[i.sop_instance_uid for i in instances]))
        return path

    return write


def complaints(*command: str | Path) -> list[str]:
    """The errors that a validator prints; its exit code alone is no proof, nor is silence when it could not start."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    found = [line for line in lines if line.startswith(("Error", "E:", "F:", "Abort"))]
    return found or ([f"exit code {done.returncode}"] if done.returncode else [])


@pytest.mark.parametrize("title", RejectionTitle)
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_dciodvfy_finds_no_error(program, note_file, subject: NoteSubject, title: RejectionTitle) -> None:
    assert complaints(program("dciodvfy"), note_file(subject, title)) == []


@pytest.mark.parametrize("title", RejectionTitle)
@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_dsrdump_reads_it_without_error(program, note_file, subject: NoteSubject, title: RejectionTitle) -> None:
    assert complaints(program("dsrdump"), note_file(subject, title)) == []


def test_dsrdump_shows_title_modifier_description_and_each_instance(program, note_file, instances) -> None:
    done = subprocess.run([program("dsrdump"), "+Pu", note_file()], capture_output=True, text=True, check=True)
    for line in (
        '"Rejected for Quality Reasons")=SEPARATE',
        'CODE:(,,"Document Title Modifier")=(111210,DCM,"Motion blur")',
        'TEXT:(,,"Key Object Description")="Repeated"',
    ):
        assert line in done.stdout
    assert [i.sop_instance_uid for i in instances if i.sop_instance_uid not in done.stdout] == []


@pytest.mark.parametrize(
    ("validator", "keyword"),
    [("dciodvfy", "SeriesNumber"), ("dciodvfy", "ConceptNameCodeSequence"), ("dsrdump", "ContinuityOfContent")],
)
def test_a_validator_that_finds_an_error_is_heard(program, note_file, validator: str, keyword: str) -> None:
    path = note_file()
    note = dcmread(path)
    del note[keyword]
    note.save_as(path)
    assert complaints(program(validator), path)


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_highdicom_reads_the_same_title_and_references(note_file, instances, subject: NoteSubject) -> None:
    named = tuple(i for i in instances if i.sop_class_uid != ECG)  # its reader knows no WAVEFORM items
    path = note_file(subject, RejectionTitle.QUALITY, named)
    document = highdicom.ko.KeyObjectSelectionDocument.from_dataset(dcmread(path))
    title = document.content[0].ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    assert {document.resolve_reference(i.sop_instance_uid) for i in named} == {
        (STUDY, i.series_instance_uid, i.sop_instance_uid) for i in named
    }
    found = {}
    for kind in ("IMAGE", "COMPOSITE"):
        for item in document.content.get_references(value_type=highdicom.sr.ValueTypeValues(kind)):
            found[item.referenced_sop_instance_uid] = item.referenced_sop_class_uid
    assert found == {i.sop_instance_uid: i.sop_class_uid for i in named}
