"""The attributes of a replacement instance: the target patient's and study's, and the record of what they were before.

Attributes of another patient or study must not travel along. What the platform does not know of the new one is
emptied or removed then, and kept when patient or study stay the same. Everything about the acquisition stays, with
Instance Creation Date and Time, the equipment, and size and weight as they were taken at the modality.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, time
from enum import StrEnum

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from archsync.core.fitting import Modification, RequestAttributes
from archsync.core.rejection import AssigningAuthority, NoteSubject
from archsync.core.study import Patient, Study
from archsync.core.uid_map import InstanceUids
from archsync.errors import InvalidInput

Values = Mapping[str, str | Dataset | None]
"""New values by keyword: text, the item of a sequence, or None to remove the attribute."""

_OF_PATIENT = (
    "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "PatientBirthTime", "PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar", "PatientAge", "PatientAddress", "PatientTelephoneNumbers",
    "PatientTelecomInformation", "PatientComments", "PatientInsurancePlanCodeSequence",
    "PatientPrimaryLanguageCodeSequence", "PatientReligiousPreference", "PatientState", "TypeOfPatientID",
    "MedicalRecordLocator", "MilitaryRank", "BranchOfService", "CountryOfResidence", "RegionOfResidence",
    "EthnicGroup", "EthnicGroupCodeSequence", "Occupation", "AdditionalPatientHistory", "MedicalAlerts", "Allergies",
    "SmokingStatus", "PregnancyStatus", "LastMenstrualDate", "SpecialNeeds", "ResponsiblePerson",
    "ResponsiblePersonRole", "ResponsibleOrganization", "ReferencedPatientSequence",
    "ReferencedPatientPhotoSequence", "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence", "ConfidentialityConstraintOnPatientDataDescription",
)  # fmt: skip
"""Said of one person: removed when the patient becomes another."""

_OF_STUDY = (
    "IssuerOfAccessionNumberSequence", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence", "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy", "PhysiciansReadingStudyIdentificationSequence", "RequestingService",
    "RequestingServiceCodeSequence", "RequestingPhysician", "RequestingPhysicianIdentificationSequence",
    "ReferencedStudySequence", "ProcedureCodeSequence", "ReasonForPerformedProcedureCodeSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "AdmissionID",
    "IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "IssuerOfServiceEpisodeIDSequence",
    "ServiceEpisodeDescription", "ReasonForVisit", "ReasonForVisitCodeSequence", "StudyComments",
    "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence",
    "ReasonForTheRequestedProcedure", "ReasonForRequestedProcedureCodeSequence",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
    "RequestAttributesSequence", "ReferencedRequestSequence",
)  # fmt: skip
"""Said of one study, its visit or its order: removed when the study becomes another."""

_PATIENT_TYPE_2 = ("PatientName", "PatientBirthDate", "PatientSex")
_STUDY_TYPE_2 = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")


class ModificationReason(StrEnum):
    """Reason for the Attribute Modification (PS3.3 C.12.1.1.9)."""

    COERCE = "COERCE"
    """Reconciled with what the enterprise knows: the object is still the same one, under its UID."""
    CORRECT = "CORRECT"
    """Wrong values put right: the object takes the place of one that was sent, under a new UID."""


def target_values(
    header: Dataset, study: Study, patient: Patient, uids: InstanceUids, request: RequestAttributes | None
) -> dict[str, str | Dataset | None]:
    """The attributes that a replacement gets, for a source with this header.

    Raises:
        InvalidInput: ``text-not-encodable``: a value has a backslash or a control character.
    """
    subject = NoteSubject.of(replace(study, patient=patient))
    is_same_patient = _is_same_patient(header, patient)
    is_same_study = is_same_patient and _text(header, "StudyInstanceUID") == uids.study_instance_uid
    values: dict[str, str | Dataset | None] = {}
    if not is_same_patient:
        values |= dict.fromkeys(_OF_PATIENT)
    if not is_same_study:
        values |= dict.fromkeys(_OF_STUDY) | dict.fromkeys(_STUDY_TYPE_2, "") | {"StudyDescription": None}
    values |= {
        "SOPInstanceUID": uids.sop_instance_uid,
        "SeriesInstanceUID": uids.series_instance_uid,
        "StudyInstanceUID": uids.study_instance_uid,
        "PatientID": subject.patient_id,
    }
    if not is_same_patient:
        values |= dict.fromkeys(_PATIENT_TYPE_2, "")
        values |= dict.fromkeys(("IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence"))
    if subject.issuer_of_patient_id is not None:
        values["IssuerOfPatientID"] = subject.issuer_of_patient_id.namespace or None
        values["IssuerOfPatientIDQualifiersSequence"] = _qualifiers(subject.issuer_of_patient_id)
    known = {
        "PatientName": subject.patient_name,
        "PatientBirthDate": _format_date(subject.birth_date),
        "PatientSex": subject.sex,
        "StudyDate": _format_date(subject.study_date),
        "StudyTime": _format_time(subject.study_time),
        "StudyID": subject.study_id,
        "StudyDescription": subject.study_description,
        "AccessionNumber": subject.accession_number,
        "ReferringPhysicianName": subject.referring_physician,
    }
    values |= {keyword: value for keyword, value in known.items() if value}
    if subject.accession_number and subject.accession_number != _text(header, "AccessionNumber"):
        # The order is another one, also within the same study.
        values |= dict.fromkeys(
            ("IssuerOfAccessionNumberSequence", "RequestAttributesSequence", "ReferencedRequestSequence")
        )
    if request is not None:
        values["RequestAttributesSequence"] = _request_item(request)
    for keyword, value in values.items():
        _check_text(keyword, value)
    return values


def texts_of(values: Values) -> list[str]:
    """All text among the values, that in items included."""
    found = []
    for value in values.values():
        if isinstance(value, str):
            found.append(value)
        elif value is not None:
            found += [str(element.value) for element in value]
    return found


def snapshot(header: Dataset, values: Values) -> list[DataElement]:
    """The elements that are there of those that the values are for, as they are now."""
    return [_copied(header[keyword]) for keyword in values if keyword in header]


def _copied(element: DataElement) -> DataElement:
    """A copy that keeps its value when the element gets another; deep, and slow, only where values change in place."""
    value = element.value
    return copy.copy(element) if isinstance(value, str | PersonName | None) else copy.deepcopy(element)


def put_values(header: Dataset, values: Values) -> None:
    """Set the values; equal ones stay as they are written."""
    for keyword, value in values.items():
        if not _differs(header, keyword, value):
            continue
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        if value is None:
            del header[tag]
        else:
            header.add_new(tag, dictionary_VR(tag), value if isinstance(value, str) else [copy.deepcopy(value)])


def record_originals(
    header: Dataset, before: list[DataElement], modification: Modification, reason: ModificationReason
) -> None:
    """Add an item to Original Attributes (0400,0561): those elements of ``before`` that are no longer so.

    Attributes that were not there before are not mentioned (PS3.3 C.12.1.1.9).
    """
    modified = Dataset()
    for element in before:
        if element.tag not in header or header[element.tag] != element:
            modified.add(element)
    item = Dataset()
    item.ModifiedAttributesSequence = [modified]
    item.AttributeModificationDateTime = modification.modified_at.strftime("%Y%m%d%H%M%S.%f%z")
    item.ModifyingSystem = modification.modifying_system
    item.SourceOfPreviousValues = modification.source_of_previous_values
    item.ReasonForTheAttributeModification = str(reason)
    history = list(header.get("OriginalAttributesSequence") or [])
    header.OriginalAttributesSequence = [*history, item]


def _is_same_patient(header: Dataset, patient: Patient) -> bool:
    """True if the header names the patient by the same id; an issuer that either leaves out does not differ."""
    issuers = {_text(header, "IssuerOfPatientID"), patient.issuer_of_patient_id or ""} - {""}
    return _text(header, "PatientID") == patient.patient_id and len(issuers) < 2


def _differs(header: Dataset, keyword: str, value: str | Dataset | None) -> bool:
    if value is None or keyword not in header:
        return (value is None) == (keyword in header)
    if isinstance(value, Dataset):
        return list(header[keyword].value or []) != [value]
    old = _text(header, keyword)
    if keyword == "StudyTime" and "." in old:
        old = old.rstrip("0").rstrip(".")  # fractions are optional and of any length (PS3.5 6.2)
        value = value.rstrip("0").rstrip(".") if "." in value else value
    return old != value


def _qualifiers(authority: AssigningAuthority) -> Dataset | None:
    """Universal Entity ID and its type: both or neither (PS3.3 Table 10-18)."""
    if not authority.universal_id or not authority.universal_id_type:
        return None
    item = Dataset()
    item.UniversalEntityID = authority.universal_id
    item.UniversalEntityIDType = authority.universal_id_type
    return item


def _request_item(request: RequestAttributes) -> Dataset:
    item = Dataset()
    item.RequestedProcedureID = request.requested_procedure_id
    item.ScheduledProcedureStepID = request.scheduled_procedure_step_id
    if request.requested_procedure_description:
        item.RequestedProcedureDescription = request.requested_procedure_description
    if request.scheduled_procedure_step_description:
        item.ScheduledProcedureStepDescription = request.scheduled_procedure_step_description
    return item


def _check_text(keyword: str, value: str | Dataset | None) -> None:
    """Refuse what would split the value or break its line (PS3.5 6.2)."""
    if isinstance(value, Dataset):
        for element in value:
            _check_text(element.keyword, str(element.value))
    elif value and ("\\" in value or not value.isprintable()):
        raise InvalidInput(
            f"the new {keyword} has a backslash or a control character, which DICOM can't carry there",
            code="text-not-encodable",
        )


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value)


def _format_date(day: date | None) -> str:
    return "" if day is None else day.strftime("%Y%m%d").zfill(8)


def _format_time(moment: time | None) -> str:
    if moment is None:
        return ""
    return moment.strftime("%H%M%S.%f" if moment.microsecond else "%H%M%S")
