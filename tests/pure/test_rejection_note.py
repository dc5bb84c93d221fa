"""Rejection notes: what is in them, that they are always the same, and that no wrong one gets out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, date, datetime, time
from io import BytesIO
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from archsync.core.rejection import (
    AssigningAuthority,
    NoteIdentity,
    NoteSubject,
    RejectedInstance,
    RejectionTitle,
    TitleModifier,
    split_instances,
)
from archsync.errors import InvalidInput
from archsync.messages.rejection_check import value_type
from archsync.messages.rejection_note import build_rejection_note, check_note, encode_note, named_instances

KOS = "1.2.840.10008.5.1.4.1.1.88.59"
CT = "1.2.840.10008.5.1.4.1.1.2"
ECG = "1.2.840.10008.5.1.4.1.1.9.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.11"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
PRIVATE = "1.3.12.2.1107.5.9.1"
CLASSES = (CT, ECG, SR, PRESENTATION_STATE, KOS, PRIVATE)

BERLIN = ZoneInfo("Europe/Berlin")
ISSUED_AT = datetime(2026, 3, 9, 14, 5, 6, tzinfo=UTC)
IDENTITY = NoteIdentity("4711", "vna1")
SUBJECT = NoteSubject(
    study_instance_uid="1.2.3",
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


def instance(number: int, *, series: int = 1, sop_class: str = CT, study: str = "1.2.3") -> RejectedInstance:
    return RejectedInstance(study, f"1.2.3.{series}", f"1.2.3.{series}.{number}", sop_class)


INSTANCES = (instance(1), instance(2), instance(1, series=2, sop_class=ECG), instance(1, series=3, sop_class=SR))
HELD = {i.sop_instance_uid for i in INSTANCES}


def build(instances=INSTANCES, *, subject: NoteSubject = SUBJECT, **changes) -> Dataset:
    values = {
        "title": RejectionTitle.QUALITY,
        "identity": IDENTITY,
        "issued_at": ISSUED_AT,
        "time_zone": BERLIN,
        "modifier": TitleModifier.POSITIONING,
        "description": "Repeated with arms up",
    }
    return build_rejection_note(subject, instances, **{**values, **changes})


def encode(note: Dataset, held=HELD) -> bytes:
    return encode_note(note, held=held)


def values(data_set: Dataset, *keywords: str) -> list[str]:
    return [str(data_set[keyword].value) for keyword in keywords]


# -- content ---------------------------------------------------------------------------------------------------------


def test_the_note_has_every_module_and_the_destinations_patient_and_study() -> None:
    note = dcmread(BytesIO(encode(build())))
    assert note.file_meta.MediaStorageSOPClassUID == note.SOPClassUID == KOS
    assert note.file_meta.MediaStorageSOPInstanceUID == note.SOPInstanceUID == IDENTITY.sop_instance_uid
    assert note.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    found = {element.keyword: str(element.value) for element in note if element.VR != "SQ"}
    assert found == {
        "SOPClassUID": KOS,
        "SOPInstanceUID": IDENTITY.sop_instance_uid,
        "TimezoneOffsetFromUTC": "+0100",
        "PatientName": "Roe^Jane",
        "PatientID": "P-1",
        "IssuerOfPatientID": "CITY",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyInstanceUID": "1.2.3",
        "StudyDate": "20260301",
        "StudyTime": "083015",
        "StudyID": "42",
        "StudyDescription": "CT Abdomen",
        "AccessionNumber": "ACC9",
        "ReferringPhysicianName": "Poe^Edgar",
        "Modality": "KO",
        "SeriesInstanceUID": IDENTITY.series_instance_uid,
        "SeriesNumber": "999",
        "SeriesDescription": "Rejected for Quality Reasons",
        "Manufacturer": "archsync",
        "InstanceNumber": "1",
        "ContentDate": "20260309",
        "ContentTime": "150506",
        "ValueType": "CONTAINER",
        "ContinuityOfContent": "SEPARATE",
    }
    assert len(note.ReferencedPerformedProcedureStepSequence) == 0
    assert values(note.IssuerOfPatientIDQualifiersSequence[0], "UniversalEntityID", "UniversalEntityIDType") == [
        "1.2.276.0.76.3", "ISO",
    ]  # fmt: skip
    issuer = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    for holder in (note, note.ReferencedRequestSequence[0]):
        assert values(holder.IssuerOfAccessionNumberSequence[0], *issuer) == ["RIS", "1.2.276.0.76.4", "ISO"]
    assert note.ReferencedRequestSequence[0].AccessionNumber == "ACC9"
    assert values(note.ContentTemplateSequence[0], "MappingResource", "TemplateIdentifier") == ["DCMR", "2010"]


def test_the_content_is_title_modifier_description_and_one_reference_per_instance() -> None:
    note = dcmread(BytesIO(encode(build())))
    code = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    assert values(note.ConceptNameCodeSequence[0], *code) == ["113001", "DCM", "Rejected for Quality Reasons"]
    modifier, description, *references = note.ContentSequence
    assert values(modifier, "RelationshipType", "ValueType") == ["HAS CONCEPT MOD", "CODE"]
    assert values(modifier.ConceptNameCodeSequence[0], *code) == ["113011", "DCM", "Document Title Modifier"]
    assert values(modifier.ConceptCodeSequence[0], *code) == ["111209", "DCM", "Positioning"]
    assert values(description, "RelationshipType", "ValueType", "TextValue") == [
        "CONTAINS", "TEXT", "Repeated with arms up",
    ]  # fmt: skip
    assert values(description.ConceptNameCodeSequence[0], *code) == ["113012", "DCM", "Key Object Description"]
    assert [
        (item.ValueType, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID, item.RelationshipType)
        for item in references
    ] == [
        ("IMAGE", "1.2.3.1.1", "CONTAINS"),
        ("IMAGE", "1.2.3.1.2", "CONTAINS"),
        ("WAVEFORM", "1.2.3.2.1", "CONTAINS"),
        ("COMPOSITE", "1.2.3.3.1", "CONTAINS"),
    ]


def test_what_is_unknown_is_empty_and_never_absent() -> None:
    note = build(subject=NoteSubject(study_instance_uid="1.2.3", patient_id="P-1"), modifier=None, description=None)
    for keyword in (
        "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
        "ReferringPhysicianName",
    ):  # fmt: skip
        assert str(note[keyword].value) == "", keyword
    for keyword in ("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "ReferencedRequestSequence"):
        assert keyword not in note
    assert len(note.ContentSequence) == len(INSTANCES)
    encode(note)


@pytest.mark.parametrize(
    ("authority", "present"),
    [
        (AssigningAuthority("CITY"), {"IssuerOfPatientID"}),
        (AssigningAuthority(None, "1.2.3", "ISO"), {"IssuerOfPatientIDQualifiersSequence"}),
        (AssigningAuthority("CITY", "1.2.3"), {"IssuerOfPatientID"}),  # an id without its type says nothing
        (None, set()),
    ],
)
def test_the_issuer_is_copied_as_far_as_it_is_known(authority, present: set[str]) -> None:
    note = build(subject=dataclasses.replace(SUBJECT, issuer_of_patient_id=authority))
    assert {k for k in ("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence") if k in note} == present


@pytest.mark.parametrize("title", RejectionTitle)
def test_each_title_makes_a_note_that_passes_our_check(title: RejectionTitle) -> None:
    note = build(title=title, modifier=None)
    check_note(note, held=HELD)
    assert note.ConceptNameCodeSequence[0].CodeMeaning == note.SeriesDescription == title.meaning


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [
        (CT, "IMAGE"),
        ("1.2.840.10008.5.1.4.1.1.1.2", "IMAGE"),  # mammography, "Image Storage - For Presentation"
        ("1.2.840.10008.5.1.4.1.1.6.2", "IMAGE"),  # Enhanced US Volume
        ("1.2.840.10008.5.1.4.1.1.66.4", "IMAGE"),  # Segmentation
        ("1.2.840.10008.5.1.4.1.1.481.1", "IMAGE"),  # RT Image
        ("1.2.840.10008.5.1.4.1.1.77.1.5.4", "IMAGE"),  # ophthalmic tomography
        (ECG, "WAVEFORM"),
        ("1.2.840.10008.5.1.4.1.1.9.4.1", "WAVEFORM"),  # voice
        ("1.2.840.10008.5.1.4.1.1.88.77", "COMPOSITE"),  # Waveform Annotation SR
        ("1.2.840.10008.5.1.4.1.1.4.2", "COMPOSITE"),  # MR Spectroscopy
        ("1.2.840.10008.5.1.4.1.1.66", "COMPOSITE"),  # Raw Data
        ("1.2.840.10008.5.1.4.1.1.66.5", "COMPOSITE"),  # Surface Segmentation
        ("1.2.840.10008.5.1.4.1.1.481.5", "COMPOSITE"),  # RT Plan
        ("1.2.840.10008.5.1.4.1.1.104.1", "COMPOSITE"),  # Encapsulated PDF
        (PRESENTATION_STATE, "COMPOSITE"),
        (KOS, "COMPOSITE"),
        (PRIVATE, "COMPOSITE"),
    ],
)
def test_the_sop_class_decides_the_value_type(sop_class: str, expected: str) -> None:
    assert value_type(sop_class) == expected


# -- characters, dates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Müller^Jürgen", "山田^太郎", "Иванов^Иван", "Yamada^Tarou=山田^太郎=やまだ^たろう"])
def test_names_of_any_script_survive_in_utf_8(name: str) -> None:
    note = dcmread(BytesIO(encode(build(subject=dataclasses.replace(SUBJECT, patient_name=name)))))
    assert note.SpecificCharacterSet == "ISO_IR 192"
    assert note.PatientName == name


def test_the_character_set_follows_from_any_text_of_the_note() -> None:
    assert "SpecificCharacterSet" not in build()
    assert build(description="Aufnahme verwackelt – wiederholt").SpecificCharacterSet == "ISO_IR 192"
    issuer = AssigningAuthority("KLINIK-SÜD")
    assert build(subject=dataclasses.replace(SUBJECT, issuer_of_patient_id=issuer)).SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("patient_name", "Roe\\Jane", "Patient's Name"),
        ("patient_id", "P\r1", "Patient ID"),
        ("accession_number", "A\\B", "Accession Number"),
        ("study_description", "a\nb", "Study Description"),
        ("sex", "♀", "Patient's Sex"),
    ],
)
def test_a_value_that_would_split_or_break_is_named_and_not_quoted(field: str, value: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as caught:
        build(subject=dataclasses.replace(SUBJECT, **{field: value}))
    assert caught.value.code == "note-value"
    assert value not in caught.value.message


@pytest.mark.filterwarnings("ignore:The value length")  # said by pydicom when the test reads it back
def test_a_value_longer_than_dicom_allows_goes_out_as_the_images_have_it() -> None:
    subject = dataclasses.replace(SUBJECT, accession_number="A" * 17, patient_id="P" * 70)
    note = dcmread(BytesIO(encode(build(subject=subject))))
    assert (note.AccessionNumber, note.PatientID) == ("A" * 17, "P" * 70)


@pytest.mark.parametrize(
    ("study_date", "study_time", "offset", "content"),
    [
        (date(2026, 7, 1), time(8), "+0200", "20260309160506"),  # a summer's study, issued in winter
        (date(2026, 1, 1), time(8), "+0100", "20260309150506"),
        (date(2026, 3, 29), time(1, 30), "+0100", "20260309150506"),  # the night the clocks went forward
        (date(2026, 3, 29), None, "+0200", "20260309160506"),
        (None, None, "+0100", "20260309150506"),
    ],
)
def test_the_offset_is_right_for_the_study_and_for_the_note(study_date, study_time, offset: str, content: str) -> None:
    note = build(subject=dataclasses.replace(SUBJECT, study_date=study_date, study_time=study_time))
    assert note.TimezoneOffsetFromUTC == offset
    assert note.ContentDate + note.ContentTime == content


def test_offsets_west_of_greenwich_and_of_half_hours_are_written_with_their_sign() -> None:
    assert build(time_zone=ZoneInfo("America/St_Johns")).TimezoneOffsetFromUTC == "-0330"
    assert build(time_zone=ZoneInfo("Asia/Kathmandu")).TimezoneOffsetFromUTC == "+0545"
    assert build(time_zone=UTC).TimezoneOffsetFromUTC == "+0000"


# -- laws ------------------------------------------------------------------------------------------------------------

members = st.sets(st.tuples(st.integers(1, 99), st.integers(1, 4)), min_size=1, max_size=25)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\\=^"), max_size=20)


@st.composite
def withdrawn(draw) -> tuple[RejectedInstance, ...]:
    classes = st.sampled_from(CLASSES)
    return tuple(instance(n, series=s, sop_class=draw(classes)) for n, s in draw(members))


def evidence_of(note: Dataset) -> list[tuple[str, str, str, str]]:
    return [
        (study.StudyInstanceUID, series.SeriesInstanceUID, ref.ReferencedSOPInstanceUID, ref.ReferencedSOPClassUID)
        for study in note.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for ref in series.ReferencedSOPSequence
    ]


def content_of(note: Dataset) -> list[tuple[str, str]]:
    references = [item.ReferencedSOPSequence[0] for item in note.ContentSequence if "ReferencedSOPSequence" in item]
    return [(ref.ReferencedSOPInstanceUID, ref.ReferencedSOPClassUID) for ref in references]


@given(withdrawn())
def test_a_note_references_exactly_the_withdrawn_instances(instances) -> None:
    held = {i.sop_instance_uid for i in instances}
    note = dcmread(BytesIO(encode(build(instances), held)))
    expected = sorted((*dataclasses.astuple(i),) for i in instances)
    assert sorted(evidence_of(note)) == expected
    assert sorted(content_of(note)) == sorted((i.sop_instance_uid, i.sop_class_uid) for i in instances)
    assert set(named_instances(note)) == held


@given(withdrawn(), names, st.sampled_from(RejectionTitle), st.integers(0, 2**31))
def test_same_arguments_give_same_bytes_and_they_are_those_pydicom_writes(instances, name, title, seconds) -> None:
    held = {i.sop_instance_uid for i in instances}

    def note() -> Dataset:
        subject = dataclasses.replace(SUBJECT, patient_name=name)
        issued_at = datetime.fromtimestamp(seconds, UTC)
        return build(instances, subject=subject, title=title, modifier=None, description=name, issued_at=issued_at)

    encoded = encode(note(), held)
    assert encode(note(), held) == encoded
    assert encode(dcmread(BytesIO(encoded)), held) == encoded
    reference, written = note(), BytesIO()
    reference.file_meta = dcmread(BytesIO(encoded)).file_meta
    dcmwrite(written, reference, enforce_file_format=True)
    assert written.getvalue() == encoded


@given(withdrawn(), st.integers(1, 7))
def test_split_notes_cover_all_once_and_differ(instances, size) -> None:
    held = {i.sop_instance_uid for i in instances}
    notes = [
        dcmread(BytesIO(encode(build(part, identity=NoteIdentity("4711", "vna1", part=number)), held)))
        for number, part in enumerate(split_instances(instances, max_references=size), start=1)
    ]
    assert sorted(uid for note in notes for uid in named_instances(note)) == sorted(held)
    assert len({note.SOPInstanceUID for note in notes}) == len(notes)
    assert len({note.SeriesInstanceUID for note in notes}) == 1
    assert [note.InstanceNumber for note in notes] == [*range(1, len(notes) + 1)]


# -- what must not get out -------------------------------------------------------------------------------------------


def test_an_instance_that_is_not_held_is_not_named() -> None:
    with pytest.raises(InvalidInput, match=r"does not hold 1\.2\.3\.2\.1$") as caught:
        encode(build(), HELD - {"1.2.3.2.1"})
    assert caught.value.code == "note-names-unheld-instance"
    with pytest.raises(InvalidInput, match=r"does not hold 1\.2\.3\.1\.1 and 3 more"):
        encode(build(), ())


@pytest.mark.parametrize("title", [t for t in RejectionTitle if t is not RejectionTitle.QUALITY])
def test_a_modifier_is_taken_under_the_title_for_quality_alone(title: RejectionTitle) -> None:
    with pytest.raises(InvalidInput, match=f"title {title} takes no modifier"):
        build(title=title)


def test_no_note_is_built_about_nothing_or_about_two_studies() -> None:
    with pytest.raises(InvalidInput) as caught:
        build(())
    assert caught.value.code == "nothing-to-reject"
    with pytest.raises(InvalidInput, match=r"is of study 1\.2\.4"):
        build((*INSTANCES, instance(9, study="1.2.4")))


def study_item(note: Dataset) -> Dataset:
    return note.CurrentRequestedProcedureEvidenceSequence[0]


def references(note: Dataset, series: int = 0) -> Sequence:
    return study_item(note).ReferencedSeriesSequence[series].ReferencedSOPSequence


def content_reference(note: Dataset, position: int = 2) -> Dataset:
    return note.ContentSequence[position].ReferencedSOPSequence[0]


def reference_to(uid: str, sop_class: str = CT) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    return item


def add_second_study(note: Dataset) -> None:
    other = deepcopy(study_item(note))
    other.StudyInstanceUID = "1.2.4"
    note.CurrentRequestedProcedureEvidenceSequence.append(other)


def set_title(keyword: str, value: str) -> Callable[[Dataset], None]:
    return lambda note: setattr(note.ConceptNameCodeSequence[0], keyword, value)


def without(keyword: str) -> Callable[[Dataset], None]:
    return lambda note: note.__delitem__(keyword)


def with_value(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda note: setattr(note, keyword, value)


MUTATIONS: dict[str, tuple[Callable[[Dataset], object], str]] = {
    # what neither dciodvfy nor dsrdump notices
    "no content": (without("ContentSequence"), "ContentSequence is missing"),
    "no template": (without("ContentTemplateSequence"), "TID 2010"),
    "another template": (lambda n: setattr(n.ContentTemplateSequence[0], "TemplateIdentifier", "2000"), "TID 2010"),
    "unknown title": (set_title("CodeValue", "113010"), "must be one of 113001"),
    "title of another scheme": (set_title("CodingSchemeDesignator", "99DCM4CHEE"), "must be one of 113001"),
    "wrong meaning": (set_title("CodeMeaning", "Rejected for quality reasons"), "meaning of title 113001"),
    "two titles": (lambda n: n.ConceptNameCodeSequence.append(n.ConceptNameCodeSequence[0]), "must be one of 113001"),
    "more in the evidence": (lambda n: references(n).append(reference_to("1.2.3.1.9")), "not in the content"),
    "study twice": (lambda n: n.CurrentRequestedProcedureEvidenceSequence.append(study_item(n)), "once and no other"),
    "two studies": (add_second_study, "once and no other"),
    "lies in another study": (with_value("StudyInstanceUID", "1.2.4"), "once and no other"),
    "image as composite": (lambda n: setattr(n.ContentSequence[2], "ValueType", "COMPOSITE"), "referred to as IMAGE"),
    "waveform as composite": (lambda n: setattr(n.ContentSequence[4], "ValueType", "COMPOSITE"), "as WAVEFORM"),
    "identical documents": (with_value("IdenticalDocumentsSequence", [Dataset()]), "several studies"),
    "no title": (without("ConceptNameCodeSequence"), "must be one of 113001"),
    "modality of a report": (with_value("Modality", "SR"), "Modality must be KO"),
    # what else would mislead an archive or a viewer
    "less in the evidence": (lambda n: references(n).pop(), "not in the evidence"),
    "empty evidence": (with_value("CurrentRequestedProcedureEvidenceSequence", []), "missing or empty"),
    "evidence without series": (
        lambda n: setattr(study_item(n), "ReferencedSeriesSequence", []), "evidence names no instance",
    ),
    "series without instances": (lambda n: references(n).clear(), r"names no instance of series 1\.2\.3\.1"),
    "series twice": (
        lambda n: study_item(n).ReferencedSeriesSequence.append(study_item(n).ReferencedSeriesSequence[0]),
        r"series 1\.2\.3\.1 twice",
    ),
    "series without UID": (
        lambda n: setattr(study_item(n).ReferencedSeriesSequence[0], "SeriesInstanceUID", ""), "series .* has no UID",
    ),
    "instance twice in the evidence": (lambda n: references(n).append(references(n)[0]), "evidence names .* twice"),
    "instance twice in the content": (
        lambda n: n.ContentSequence.append(n.ContentSequence[2]), "content names instance .* twice",
    ),
    "class differs in the content": (
        lambda n: setattr(content_reference(n), "ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        "not in the evidence with the same class",
    ),
    "class differs in the evidence": (
        lambda n: setattr(references(n)[0], "ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        "not in the evidence with the same class",
    ),
    "no UID of an instance": (
        lambda n: setattr(references(n)[0], "ReferencedSOPInstanceUID", ""), "has no valid UIDs",
    ),
    "names itself": (
        lambda n: references(n).append(reference_to(n.SOPInstanceUID, KOS)), "the note names itself",
    ),
    "lies in a rejected series": (with_value("SeriesInstanceUID", "1.2.3.1"), "lies in a series"),
    "two references in one item": (
        lambda n: n.ContentSequence[2].ReferencedSOPSequence.append(reference_to("1.2.3.1.9")), "neither modifier",
    ),
    "unknown relation": (lambda n: setattr(n.ContentSequence[2], "RelationshipType", "INFERRED FROM"), "neither"),
    "references before the description": (lambda n: n.ContentSequence.reverse(), "modifiers come first"),
    "two descriptions": (lambda n: n.ContentSequence.insert(2, n.ContentSequence[1]), "then one description"),
    "empty description": (lambda n: setattr(n.ContentSequence[1], "TextValue", ""), "Description is empty"),
    "text under another name": (
        lambda n: setattr(n.ContentSequence[1].ConceptNameCodeSequence[0], "CodeValue", "121106"),
        "not the Key Object Description",
    ),
    "modifier of another set": (
        lambda n: setattr(n.ContentSequence[0].ConceptCodeSequence[0], "CodeValue", "113015"), "CID 7011",
    ),
    "modifier under another name": (
        lambda n: setattr(n.ContentSequence[0].ConceptNameCodeSequence[0], "CodeValue", "113012"),
        "not the Document Title Modifier",
    ),
    "modifier under another title": (
        lambda n: (set_title("CodeValue", "113037")(n), set_title("CodeMeaning", RejectionTitle("113037").meaning)(n)),
        "title 113037 takes no modifier",
    ),
    "undeclared characters": (with_value("PatientName", "Müller"), "PatientName is not ASCII"),
    "undeclared characters inside": (
        lambda n: setattr(n.ContentSequence[1], "TextValue", "verwackelt – neu"), "TextValue is not ASCII",
    ),
    "other character set": (with_value("SpecificCharacterSet", "ISO_IR 100"), "must be ISO_IR 192"),
    "no such UID": (with_value("SOPInstanceUID", "note-1"), "SOPInstanceUID is not a UID"),
    "a UID too long": (with_value("SeriesInstanceUID", "1." + "2" * 63), "SeriesInstanceUID is not a UID"),
    "another class": (with_value("SOPClassUID", SR), "SOPClassUID must be"),
    "continuous": (with_value("ContinuityOfContent", "CONTINUOUS"), "must be SEPARATE"),
}  # fmt: skip
for _keyword in (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "ContentDate",
    "ContentTime", "TimezoneOffsetFromUTC", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate",
    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "Manufacturer",
    "ReferencedPerformedProcedureStepSequence", "CurrentRequestedProcedureEvidenceSequence",
):  # fmt: skip
    MUTATIONS[f"no {_keyword}"] = without(_keyword), f"{_keyword} is missing"
for _keyword in ("ValueType", "ContinuityOfContent", "Modality", "SOPClassUID"):
    MUTATIONS[f"no {_keyword}"] = without(_keyword), f"{_keyword} must be"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # pydicom warns while the test makes the mistake
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_note_is_refused_and_the_reason_named(name: str) -> None:
    mutate, reason = MUTATIONS[name]
    note = build()
    check_note(note, held=HELD)
    mutate(note)
    held = {*HELD, "1.2.3.1.9", IDENTITY.sop_instance_uid, ""}
    with pytest.raises(InvalidInput, match=reason) as caught:
        encode(note, held)
    assert caught.value.code == "note-inconsistent"
    assert not re.search("Roe|P-1|ACC9|Poe", caught.value.message)
