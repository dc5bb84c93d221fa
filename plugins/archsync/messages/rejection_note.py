"""IHE IOCM rejection notes: Key Object Selection documents that tell an archive which instances to hide.

One note covers one study and lies in it (TID 2010). Archives act on the evidence sequence, viewers on the content
tree, so both name the same instances; :func:`check_note` makes sure of that and of everything else that validators
let pass. Nothing leaves unchecked: :func:`encode_note` checks first. Encoded bytes are to be kept and resent as they
are, since archives refuse other bytes under the same UID (A770).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from io import BytesIO
from typing import Any

from pydicom.charset import convert_encodings
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from archsync.core.rejection import (
    AssigningAuthority,
    NoteIdentity,
    NoteSubject,
    RejectedInstance,
    RejectionTitle,
    TitleModifier,
    check_instances,
    note_fault,
)
from archsync.errors import InvalidInput
from archsync.messages.rejection_check import note_problems, value_type

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

_IMPLEMENTATION_CLASS_UID = "2.25.126309273098146927361924061573210948217"
_SERIES_NUMBER = 999
_CODES = {"modifier": ("113011", "Document Title Modifier"), "description": ("113012", "Key Object Description")}


def build_rejection_note(
    subject: NoteSubject,
    instances: Sequence[RejectedInstance],
    *,
    title: RejectionTitle,
    identity: NoteIdentity,
    issued_at: datetime,
    time_zone: tzinfo,
    modifier: TitleModifier | None = None,
    description: str | None = None,
) -> Dataset:
    """Build the document that withdraws ``instances`` from the archive. Same arguments, same document.

    ``time_zone`` is the facility's: Timezone Offset From UTC governs every date and time of an object (PS3.3
    C.12.1.1.8), the copied Study Date and Time included, so the offset is the one that held there at the study and
    Content Date and Time are written in it. ``description`` leaves the house: no names, no patient data.

    Values longer than DICOM allows go out as they are, like in the images that the archive took with them.

    Raises:
        InvalidInput: ``nothing-to-reject``; ``note-inconsistent`` for instances of another study or named twice, or a
            modifier under a title that has none; ``note-value`` for text that DICOM can't carry.
    """
    check_instances(subject, instances)
    if modifier is not None and not title.allows_modifier:
        raise note_fault(f"title {title} takes no modifier")
    offset = _offset_at_study(subject, issued_at, time_zone)
    content_at = issued_at.astimezone(UTC).replace(tzinfo=None) + offset

    note = Dataset()
    _put(note, "SOPClassUID", KEY_OBJECT_SELECTION)
    _put(note, "SOPInstanceUID", identity.sop_instance_uid)
    _put(note, "TimezoneOffsetFromUTC", _format_offset(offset))
    _put_patient(note, subject)
    _put_study(note, subject)
    _put(note, "Modality", "KO")
    _put(note, "SeriesInstanceUID", identity.series_instance_uid)
    _put(note, "SeriesNumber", str(_SERIES_NUMBER))
    _put(note, "SeriesDescription", title.meaning)
    _put(note, "ReferencedPerformedProcedureStepSequence", [])
    _put(note, "Manufacturer", "archsync")
    _put(note, "InstanceNumber", str(identity.part))
    _put(note, "ContentDate", _format_date(content_at.date()))
    _put(note, "ContentTime", _format_time(content_at.time()))
    _put_request(note, subject)
    _put(note, "CurrentRequestedProcedureEvidenceSequence", [_evidence(subject.study_instance_uid, instances)])
    _put(note, "ValueType", "CONTAINER")
    _put(note, "ContinuityOfContent", "SEPARATE")
    _put(note, "ConceptNameCodeSequence", [_code(title.value, title.meaning)])
    _put(note, "ContentTemplateSequence", [_dataset(MappingResource="DCMR", TemplateIdentifier="2010")])
    content = []
    if modifier is not None:
        content.append(
            _dataset(
                RelationshipType="HAS CONCEPT MOD",
                ValueType="CODE",
                ConceptNameCodeSequence=[_code(*_CODES["modifier"])],
                ConceptCodeSequence=[_code(modifier.value, modifier.meaning)],
            )
        )
    if description:
        content.append(
            _dataset(
                RelationshipType="CONTAINS",
                ValueType="TEXT",
                ConceptNameCodeSequence=[_code(*_CODES["description"])],
                TextValue=_text("description", description),
            )
        )
    _put(note, "ContentSequence", [*content, *map(_content_item, instances)])
    if not _is_ascii(subject, description):
        _put(note, "SpecificCharacterSet", "ISO_IR 192")
    return note


def check_note(note: Dataset, *, held: Collection[str]) -> None:
    """Refuse a note that contradicts itself, IHE IOCM, or what the archive holds (SOP Instance UIDs ``held``).

    Raises:
        InvalidInput: ``note-names-unheld-instance``, or ``note-inconsistent`` and what is wrong with it.
    """
    for problem in note_problems(note):
        raise note_fault(problem)
    held = held if isinstance(held, set | frozenset) else frozenset(held)
    unheld = [uid for uid in named_instances(note) if uid not in held]
    if unheld:
        raise InvalidInput(
            f"rejection note: the archive does not hold {unheld[0]}"
            + (f" and {len(unheld) - 1} more of the instances named" if len(unheld) > 1 else ""),
            code="note-names-unheld-instance",
            next_step="Report this with the job number; it is a fault in archsync. Nothing was sent.",
        )


def named_instances(note: Dataset) -> Iterator[str]:
    """The SOP Instance UIDs in the evidence of a note, in their order."""
    for study in note.CurrentRequestedProcedureEvidenceSequence:
        for series in study.ReferencedSeriesSequence:
            for reference in series.ReferencedSOPSequence:
                yield str(reference.ReferencedSOPInstanceUID)


def encode_note(note: Dataset, *, held: Collection[str]) -> bytes:
    """Check a note and encode it as a file (PS3.10), Explicit VR Little Endian. Same note, same bytes.

    Raises:
        InvalidInput: as :func:`check_note`.
    """
    check_note(note, held=held)
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(KEY_OBJECT_SELECTION)
    meta.MediaStorageSOPInstanceUID = UID(note.SOPInstanceUID)
    meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE_ENDIAN)
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = "ARCHSYNC"
    head = BytesIO()
    write_file_meta_info(head, meta)
    encodings = convert_encodings(note.get("SpecificCharacterSet"))
    return b"".join((b"\x00" * 128, b"DICM", head.getvalue(), *_encode_elements(note, encodings)))


# Modules


def _put_patient(note: Dataset, subject: NoteSubject) -> None:
    _put(note, "PatientName", _text("Patient's Name", subject.patient_name))
    _put(note, "PatientID", _text("Patient ID", subject.patient_id))
    _put(note, "PatientBirthDate", _format_date(subject.birth_date))
    _put(note, "PatientSex", _code_string("Patient's Sex", subject.sex))
    issuer = subject.issuer_of_patient_id
    if issuer is not None and issuer.namespace:
        _put(note, "IssuerOfPatientID", _text("Issuer of Patient ID", issuer.namespace))
    if issuer is not None and (universal := _universal_id(issuer)):
        _put(note, "IssuerOfPatientIDQualifiersSequence", [_dataset(**universal)])


def _put_study(note: Dataset, subject: NoteSubject) -> None:
    _put(note, "StudyInstanceUID", subject.study_instance_uid)
    _put(note, "StudyDate", _format_date(subject.study_date))
    _put(note, "StudyTime", _format_time(subject.study_time))
    _put(note, "StudyID", _text("Study ID", subject.study_id))
    _put(note, "ReferringPhysicianName", _text("Referring Physician's Name", subject.referring_physician))
    if subject.study_description:
        _put(note, "StudyDescription", _text("Study Description", subject.study_description))
    _put_accession_number(note, subject)


def _put_accession_number(data_set: Dataset, subject: NoteSubject) -> None:
    _put(data_set, "AccessionNumber", _text("Accession Number", subject.accession_number))
    issuer = subject.issuer_of_accession_number
    if subject.accession_number and issuer is not None:
        item = _universal_id(issuer)
        if issuer.namespace:
            item["LocalNamespaceEntityID"] = _text("Issuer of Accession Number", issuer.namespace)
        if item:
            _put(data_set, "IssuerOfAccessionNumberSequence", [_dataset(**item)])


def _put_request(note: Dataset, subject: NoteSubject) -> None:
    """Name the order the study was made for (type 1C), as far as it is known: by its accession number."""
    if not subject.accession_number:
        return
    request = _dataset(
        StudyInstanceUID=subject.study_instance_uid,
        ReferencedStudySequence=[],
        RequestedProcedureDescription="",
        RequestedProcedureCodeSequence=[],
        RequestedProcedureID="",
        PlacerOrderNumberImagingServiceRequest="",
        FillerOrderNumberImagingServiceRequest="",
    )
    _put_accession_number(request, subject)
    _put(note, "ReferencedRequestSequence", [request])


def _universal_id(authority: AssigningAuthority) -> dict[str, str]:
    """Universal Entity ID and its type: both or neither (PS3.3 Table 10-17)."""
    if not authority.universal_id or not authority.universal_id_type:
        return {}
    return {
        "UniversalEntityID": _text("Universal Entity ID", authority.universal_id),
        "UniversalEntityIDType": _code_string("Universal Entity ID Type", authority.universal_id_type),
    }


def _evidence(study_instance_uid: str, instances: Sequence[RejectedInstance]) -> Dataset:
    by_series: dict[str, list[Dataset]] = {}
    for instance in instances:
        by_series.setdefault(instance.series_instance_uid, []).append(_reference(instance))
    series = [
        _dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=references) for uid, references in by_series.items()
    ]
    return _dataset(StudyInstanceUID=study_instance_uid, ReferencedSeriesSequence=series)


def _content_item(instance: RejectedInstance) -> Dataset:
    return _dataset(
        RelationshipType="CONTAINS",
        ValueType=value_type(instance.sop_class_uid),
        ReferencedSOPSequence=[_reference(instance)],
    )


def _reference(instance: RejectedInstance) -> Dataset:
    return _dataset(ReferencedSOPClassUID=instance.sop_class_uid, ReferencedSOPInstanceUID=instance.sop_instance_uid)


def _code(value: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


# Elements


def _dataset(**values: Any) -> Dataset:
    elements = [_element(keyword, value) for keyword, value in values.items()]
    return Dataset({element.tag: element for element in elements})


def _put(data_set: Dataset, keyword: str, value: Any) -> None:
    data_set.add(_element(keyword, value))


def _element(keyword: str, value: Any) -> DataElement:
    tag, vr = _tag_and_vr(keyword)
    # The archive's own values and UIDs are named as they are, valid or not. UIDs and fixed words, by far the most, need
    # no conversion.
    return DataElement(tag, vr, value, already_converted=vr in _PADDING, validation_mode=IGNORE)


@cache
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = Tag(keyword)
    return tag, dictionary_VR(tag)


def _text(name: str, value: str | None) -> str:
    """The value, or empty; refuses what would split the value or break its line (PS3.5 6.2)."""
    if value and ("\\" in value or not value.isprintable()):
        raise InvalidInput(
            f"rejection note: {name} has a backslash or a control character, which DICOM can't carry there",
            code="note-value",
        )
    return value or ""


def _code_string(name: str, value: str | None) -> str:
    """As :func:`_text`, for the elements that hold ASCII whatever the character set (CS)."""
    if value and not value.isascii():
        raise InvalidInput(f"rejection note: {name} must be ASCII", code="note-value")
    return _text(name, value)


def _format_date(day: date | None) -> str:
    return "" if day is None else day.strftime("%Y%m%d").zfill(8)


def _format_time(moment: time | None) -> str:
    if moment is None:
        return ""
    return moment.strftime("%H%M%S.%f" if moment.microsecond else "%H%M%S")


def _offset_at_study(subject: NoteSubject, issued_at: datetime, time_zone: tzinfo) -> timedelta:
    """The zone's distance from UTC at the study, or now when its date is unknown; whole minutes."""
    local = issued_at.astimezone(time_zone)
    if subject.study_date is not None:
        clock = (subject.study_time or time(12)).replace(tzinfo=None)
        local = datetime.combine(subject.study_date, clock, tzinfo=time_zone)
    offset = local.utcoffset()
    assert offset is not None, "a time zone knows its distance from UTC"
    return timedelta(minutes=round(offset.total_seconds() / 60))


def _format_offset(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}{abs(minutes) % 60:02}"


def _is_ascii(subject: NoteSubject, description: str | None) -> bool:
    return repr((dataclasses.astuple(subject), description)).isascii()


# Bytes. pydicom's writer takes seconds for the ten thousands of small elements of a long note, so the three kinds
# that make up nearly all of it are written here; the tests hold the result against pydicom's, byte for byte.

_PADDING = {"UI": b"\x00", "CS": b" "}


def _encode_elements(data_set: Dataset, encodings: list[str]) -> Iterator[bytes]:
    for element in data_set:
        if element.VR == "SQ":
            value = b"".join(_encode_items(element.value, encodings))
            yield struct.pack("<HH2sHI", element.tag >> 16, element.tag & 0xFFFF, b"SQ", 0, len(value)) + value
        elif element.VR in _PADDING:
            value = element.value.encode("ascii")
            value += _PADDING[element.VR] * (len(value) % 2)
            header = (element.tag >> 16, element.tag & 0xFFFF, element.VR.encode(), len(value))
            yield struct.pack("<HH2sH", *header) + value
        else:
            stream = DicomBytesIO()
            stream.is_little_endian, stream.is_implicit_VR = True, False
            write_data_element(stream, element, encodings)
            yield stream.getvalue()


def _encode_items(items: Iterable[Dataset], encodings: list[str]) -> Iterator[bytes]:
    for item in items:
        value = b"".join(_encode_elements(item, encodings))
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
