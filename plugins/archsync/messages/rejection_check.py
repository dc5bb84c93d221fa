"""What must be true of a rejection note before it leaves, although validators let most of it pass.

``dciodvfy`` and ``dsrdump`` accept an unknown title, a missing content tree or template, an evidence that names more
than the content, or a note that lies in another study; an archive would hide the wrong instances, or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from archsync.core.rejection import RejectionTitle, TitleModifier

_KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
_CLASS_UID, _INSTANCE_UID = Tag("ReferencedSOPClassUID"), Tag("ReferencedSOPInstanceUID")  # Tags are found faster
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

# Types 1 and 2 of the modules of PS3.3 A.35.4, and Timezone Offset, without which Content Time can't be understood.
_FILLED = {
    "SOPInstanceUID", "TimezoneOffsetFromUTC", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber",
    "InstanceNumber", "ContentDate", "ContentTime", "CurrentRequestedProcedureEvidenceSequence", "ContentSequence",
}  # fmt: skip
_PRESENT = {
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "Manufacturer", "ReferencedPerformedProcedureStepSequence",
}  # fmt: skip
_FIXED = {
    "SOPClassUID": _KEY_OBJECT_SELECTION,
    "Modality": "KO",
    "ValueType": "CONTAINER",
    "ContinuityOfContent": "SEPARATE",
}

# Image storage by other names: with pixel data, and no "Image Storage" in the name of the class.
_MORE_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.6.2",  # Enhanced US Volume
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.77.1.5.8",  # Ophthalmic OCT B-scan Volume Analysis
    "1.2.840.10008.5.1.4.1.1.81.1",  # Ophthalmic Thickness Map
    "1.2.840.10008.5.1.4.1.1.82.1",  # Corneal Topography Map
}

Reference = tuple[str, str]
"""SOP Instance UID and SOP Class UID."""


@cache
def value_type(sop_class_uid: str) -> str:
    """IMAGE, WAVEFORM or COMPOSITE (TID 2010): how a key object selection refers to an instance of this class."""
    name = UID(sop_class_uid).name
    if "Image Storage" in name or sop_class_uid in _MORE_IMAGES:
        return "IMAGE"
    return "WAVEFORM" if "Waveform Storage" in name else "COMPOSITE"


def note_problems(note: Dataset) -> Iterator[str]:
    """Each thing that is wrong with the note, without patient data; each assumes that those before it are mended."""
    yield from _attribute_problems(note)
    yield from _title_problems(note)
    evidence: dict[Reference, None] = {}
    yield from _evidence_problems(note, evidence)
    yield from _content_problems(note, evidence)


def _attribute_problems(note: Dataset) -> Iterator[str]:
    for keyword in sorted(_FILLED):
        if not note.get(keyword):
            yield f"{keyword} is missing or empty"
    for keyword in sorted(_PRESENT):
        if keyword not in note:
            yield f"{keyword} is missing; it may be empty"
    for keyword, value in _FIXED.items():
        if note.get(keyword) != value:
            yield f"{keyword} must be {value}"
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not _is_uid(str(note.get(keyword))):
            yield f"{keyword} is not a UID"
    template = note.get("ContentTemplateSequence") or []
    if [(t.get("MappingResource"), t.get("TemplateIdentifier")) for t in template] != [("DCMR", "2010")]:
        yield "ContentTemplateSequence must name TID 2010 of DCMR"
    if "IdenticalDocumentsSequence" in note:
        yield "IdenticalDocumentsSequence belongs to documents about several studies"
    character_set = note.get("SpecificCharacterSet")
    if character_set not in (None, "ISO_IR 192"):
        yield "SpecificCharacterSet must be ISO_IR 192, or absent for ASCII"
    if character_set is None and (not_ascii := _first_not_ascii(note)):
        yield f"{not_ascii} is not ASCII and no SpecificCharacterSet is declared"


def _title_problems(note: Dataset) -> Iterator[str]:
    codes = [_code(item) for item in note.get("ConceptNameCodeSequence") or []]
    titles = {(title.value, "DCM"): title for title in RejectionTitle}
    if len(codes) != 1 or codes[0][:2] not in titles:
        yield "the title must be one of " + ", ".join(RejectionTitle)
    elif codes[0][2] != titles[codes[0][:2]].meaning:
        yield f"the meaning of title {codes[0][0]} must be {titles[codes[0][:2]].meaning!r}"


def _evidence_problems(note: Dataset, found: dict[Reference, None]) -> Iterator[str]:
    """Problems of the evidence; ``found`` takes what it names."""
    studies = [str(item.get("StudyInstanceUID")) for item in note.CurrentRequestedProcedureEvidenceSequence]
    if studies != [note.StudyInstanceUID]:
        yield f"the evidence must name study {note.StudyInstanceUID}, in which the note lies, once and no other"
    series_uids: set[str] = set()
    instance_uids: set[str] = set()
    for study in note.CurrentRequestedProcedureEvidenceSequence:
        for series in study.get("ReferencedSeriesSequence") or []:
            uid = str(series.get("SeriesInstanceUID"))
            if not _is_uid(uid):
                yield "a series in the evidence has no UID"
            if uid in series_uids:
                yield f"the evidence names series {uid} twice"
            series_uids.add(uid)
            references = [_reference(item) for item in series.get("ReferencedSOPSequence") or []]
            if not references:
                yield f"the evidence names no instance of series {uid}"
            for reference in references:
                if reference[0] in instance_uids:
                    yield f"the evidence names instance {reference[0]} twice"
                if not (_is_uid(reference[0]) and _is_uid(reference[1])):
                    yield f"instance {reference[0]} of class {reference[1]} in the evidence has no valid UIDs"
                instance_uids.add(reference[0])
                found[reference] = None
    if not found:
        yield "the evidence names no instance"
    if note.SOPInstanceUID in instance_uids:
        yield "the note names itself"
    if note.SeriesInstanceUID in series_uids:
        yield "the note lies in a series of which it rejects instances"


def _content_problems(note: Dataset, evidence: dict[Reference, None]) -> Iterator[str]:
    """Problems of the content tree (TID 2010): modifier, description, references, in this order."""
    named: set[Reference] = set()
    last_rank = 0
    for item in note.ContentSequence:
        kind = (item.get("RelationshipType"), item.get("ValueType"))
        rank = 2
        if kind == ("HAS CONCEPT MOD", "CODE"):
            rank = 0
            yield from _modifier_problems(note, item)
        elif kind == ("CONTAINS", "TEXT"):
            rank = 1
            if [_code(c) for c in item.get("ConceptNameCodeSequence") or []] != [
                ("113012", "DCM", "Key Object Description")
            ]:
                yield "a text in the content is not the Key Object Description"
            if not item.get("TextValue"):
                yield "the Key Object Description is empty"
        else:
            yield from _reference_problems(item, named)
        if rank < last_rank or rank == last_rank == 1:
            yield "modifiers come first in the content, then one description, then the references"
        last_rank = rank
    if extra := named - evidence.keys():
        yield f"the content names {min(extra)[0]}, which is not in the evidence with the same class"
    if extra := evidence.keys() - named:
        yield f"the evidence names {min(extra)[0]}, which is not in the content with the same class"


def _reference_problems(item: Dataset, named: set[Reference]) -> Iterator[str]:
    references = [_reference(r) for r in item.get("ReferencedSOPSequence") or []]
    if item.get("RelationshipType") != "CONTAINS" or len(references) != 1:
        yield "an item of the content is neither modifier, nor description, nor reference to one instance"
        return
    reference = references[0]
    if item.get("ValueType") != value_type(reference[1]):
        yield f"instance {reference[0]} must be referred to as {value_type(reference[1])}"
    if reference in named:
        yield f"the content names instance {reference[0]} twice"
    named.add(reference)


def _modifier_problems(note: Dataset, item: Dataset) -> Iterator[str]:
    if not RejectionTitle(note.ConceptNameCodeSequence[0].CodeValue).allows_modifier:
        yield f"title {note.ConceptNameCodeSequence[0].CodeValue} takes no modifier"
    if [_code(c) for c in item.get("ConceptNameCodeSequence") or []] != [("113011", "DCM", "Document Title Modifier")]:
        yield "a code in the content is not the Document Title Modifier"
    known = {(m.value, "DCM", m.meaning) for m in TitleModifier}
    codes = [_code(c) for c in item.get("ConceptCodeSequence") or []]
    if len(codes) != 1 or codes[0] not in known:
        yield "the title modifier must be one of CID 7011"


def _reference(item: Dataset) -> Reference:
    instance, sop_class = item.get(_INSTANCE_UID), item.get(_CLASS_UID)
    return str(instance and instance.value), str(sop_class and sop_class.value)


def _code(item: Dataset) -> tuple[Any, Any, Any]:
    return item.get("CodeValue"), item.get("CodingSchemeDesignator"), item.get("CodeMeaning")


def _is_uid(text: str) -> bool:
    """What can stand in a UI element. Leading zeros, though invalid, exist: such an instance must be withdrawn too."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def _first_not_ascii(data_set: Dataset) -> str | None:
    for element in data_set:
        if element.VR == "SQ":
            # References, by far the most, hold UIDs and fixed words, which are looked at elsewhere.
            if element.keyword != "CurrentRequestedProcedureEvidenceSequence":
                for item in element.value:
                    if "ReferencedSOPSequence" not in item and (inner := _first_not_ascii(item)):
                        return inner
        elif not str(element.value).isascii():
            return str(element.keyword)
    return None
