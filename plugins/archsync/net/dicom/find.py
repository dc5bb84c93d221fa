"""Asks an archive what it shows: instances of a series, studies and their patients (C-FIND, Study Root)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO

from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from archsync.core.contexts import EXPLICIT_LITTLE_ENDIAN, FALLBACK_SYNTAXES, IMPLICIT_LITTLE_ENDIAN, ProposedContext
from archsync.core.transfer import Endpoint
from archsync.errors import PeerRefused, PeerUnavailable
from archsync.messages.dimse import C_FIND_RQ
from archsync.net.dicom.association import PeerAssociation
from archsync.net.dicom.opening import VERIFICATION, open_association
from archsync.net.dicom.transport import where

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_PENDING = (0xFF00, 0xFF01)
_OUT_OF_RESOURCES = 0xA700
_PATIENT_KEYS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
_CONTEXTS = (
    ProposedContext(STUDY_ROOT_FIND, FALLBACK_SYNTAXES),
    ProposedContext(VERIFICATION, FALLBACK_SYNTAXES),
)


def find_instances(endpoint: Endpoint, study_instance_uid: str, series_instance_uids: Iterable[str]) -> set[str]:
    """The SOP Instance UIDs that the archive lists for the given series of a study.

    One IMAGE level query per series with both unique keys (hierarchical search, PS3.4 C.4.1.3.1), all on one
    association. A series the archive does not know adds nothing.

    Raises:
        PeerRefused: ``find-not-supported`` or ``find-refused``.
        PeerUnavailable: not reachable, ``find-out-of-resources`` or ``find-no-answer``.
        DestinationMisconfigured: the association is refused as such.
    """
    found: set[str] = set()
    with open_association(endpoint, _CONTEXTS) as peer:
        for series_instance_uid in series_instance_uids:
            found |= _find_in_series(endpoint, peer, study_instance_uid, series_instance_uid)
    return found


@dataclass(frozen=True, slots=True)
class ShownStudy:
    """A study as an archive shows it: how many instances, if it says so, and the patient it gives."""

    study_instance_uid: str
    instances: int | None
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
    birth_date: str = field(repr=False)
    sex: str = field(repr=False)


def find_studies(endpoint: Endpoint, study_instance_uids: Iterable[str]) -> dict[str, ShownStudy]:
    """The studies that the archive shows of those asked for, by UID, each with its patient. Raises as find_instances.

    One STUDY level query per study, all on one association.
    """
    found: dict[str, ShownStudy] = {}
    with open_association(endpoint, _CONTEXTS) as peer:
        for uid in study_instance_uids:
            query = Dataset()
            query.QueryRetrieveLevel = "STUDY"
            query.StudyInstanceUID = uid
            for keyword in (*_PATIENT_KEYS, "NumberOfStudyRelatedInstances"):
                setattr(query, keyword, "")
            for match in _find(endpoint, peer, query):
                if match.get("StudyInstanceUID") == uid:
                    count = match.get("NumberOfStudyRelatedInstances")
                    patient = [str(match.get(keyword) or "") for keyword in _PATIENT_KEYS]
                    found[uid] = ShownStudy(uid, None if count in (None, "") else int(count), *patient)
    return found


def _find_in_series(
    endpoint: Endpoint, peer: PeerAssociation, study_instance_uid: str, series_instance_uid: str
) -> set[str]:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study_instance_uid
    query.SeriesInstanceUID = series_instance_uid
    query.SOPInstanceUID = ""
    # Archives that ignore a key return more than was asked for.
    return {
        str(match.SOPInstanceUID)
        for match in _find(endpoint, peer, query)
        if match.get("StudyInstanceUID", study_instance_uid) == study_instance_uid and match.get("SOPInstanceUID")
    }


def _find(endpoint: Endpoint, peer: PeerAssociation, query: Dataset) -> list[Dataset]:
    """Ask one question and return all matches."""
    for syntax in FALLBACK_SYNTAXES:
        context_id = peer.context_id(STUDY_ROOT_FIND, syntax)
        if context_id is not None:
            break
    else:
        raise PeerRefused(
            f"{where(endpoint)} does not accept C-FIND (Study Root)",
            code="find-not-supported",
            next_step="Allow queries for our AE title at the archive, or switch the destination's verification off.",
        )
    identifier = encode(query, syntax == IMPLICIT_LITTLE_ENDIAN, True) or b""
    peer.send(C_FIND_RQ, STUDY_ROOT_FIND, context_id, identifier)

    found: list[Dataset] = []
    while True:
        response = peer.receive(is_last=False)
        if response is None:
            raise PeerUnavailable(
                f"{where(endpoint)} did not answer a query ({peer.describe_loss()})",
                reached_peer=True,
                code="find-no-answer",
            )
        status = response.status
        if status not in _PENDING:
            break
        found.append(decode(BytesIO(response.data_set), syntax != EXPLICIT_LITTLE_ENDIAN, True))
    peer.mark_answered()
    if status == _OUT_OF_RESOURCES:
        raise PeerUnavailable(
            f"{where(endpoint)} is out of resources for a query (status {status:04X})",
            reached_peer=True,
            code="find-out-of-resources",
        )
    if status != 0:
        raise PeerRefused(f"{where(endpoint)} refused a query (status {status:04X})", code="find-refused")
    return found
