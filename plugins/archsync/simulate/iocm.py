"""How a receiving archive honours IHE IOCM: what it refuses, what it hides, and what it then shows.

Written from the receiver's side and apart from the sender's code, so that it can judge the sender. The titles and what
follows from each are those of Rejection Note Stored (RAD-66); where IHE leaves the answer open, statuses and defaults
are those of dcm4chee-arc, which gives A770 to A77B a meaning of their own:

    A770  another object under this UID is here        A774  rejected already, under a title that is not overridden
    A771  this instance was rejected                   A778  the study here is another patient's
    A772  the note names an instance that is not here  A77B  this instance is here in another study or series
    A773  here under another SOP class
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from pydicom.dataset import Dataset

_KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"

QUALITY, PATIENT_SAFETY, WRONG_ENTRY, RETENTION = "113001", "113037", "113038", "113039"
TITLES = (QUALITY, PATIENT_SAFETY, WRONG_ENTRY, RETENTION)

# A note under the title may reject what is rejected under one of these; under its own title it changes nothing.
_OVERRIDES = {
    QUALITY: (),
    PATIENT_SAFETY: (QUALITY,),
    WRONG_ENTRY: (QUALITY, PATIENT_SAFETY),
    RETENTION: (QUALITY, PATIENT_SAFETY, WRONG_ENTRY),
}

_SUCCESS, _NO_SUCH_CLASS = 0x0000, 0xA900
_DIFFERENT_BYTES, _REJECTED, _NOT_HERE, _CLASS_CONFLICT, _OTHER_TITLE = 0xA770, 0xA771, 0xA772, 0xA773, 0xA774
_OTHER_PATIENT, _OTHER_PLACE = 0xA778, 0xA77B


class Evidence(NamedTuple):
    """One reference of a note."""

    place: tuple[str, str]
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One C-STORE as it came: its data set, and the digest that tells equal bytes from different ones."""

    header: Dataset
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: bytes

    @classmethod
    def of(cls, header: Dataset, meta: Dataset, encoded: bytes) -> Arrival:
        """The arrival with its file meta information and the bytes of the file it becomes."""
        return cls(
            header=header,
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            digest=hashlib.blake2b(encoded, digest_size=16).digest(),
        )

    @property
    def place(self) -> tuple[str, str]:
        """Study and Series Instance UID."""
        return str(self.header.StudyInstanceUID), str(self.header.SeriesInstanceUID)

    @property
    def title(self) -> str | None:
        """The title's code when this is a rejection note. Titles such as 113010 reject nothing."""
        if self.sop_class_uid != _KEY_OBJECT_SELECTION:
            return None
        for code in self.header.get("ConceptNameCodeSequence") or ():
            if code.get("CodingSchemeDesignator") == "DCM" and code.get("CodeValue") in TITLES:
                return str(code.CodeValue)
        return None

    @property
    def evidence(self) -> list[Evidence]:
        """What a note names. Only the evidence counts: the content tree is for viewers."""
        return list(_evidence_of(self.header))


class Effect(NamedTuple):
    """What taking an object in does to what is shown."""

    is_shown: bool
    hidden: frozenset[str] = frozenset()
    """SOP Instance UIDs that are not shown any more."""


class Verdict(NamedTuple):
    """The status to answer, and whether the object is to be kept: some successes change nothing."""

    status: int
    is_kept: bool = False


@dataclass(slots=True)
class _Known:
    """What the rules remember of one SOP Instance UID."""

    sop_class_uid: str
    place: tuple[str, str]
    transfer_syntax_uid: str
    digest: bytes
    rejected_as: str | None = None


class IocmRules:
    """The memory and the rules of one archive. Not for several threads at once.

    ``shows_quality_rejects``: 113001 is recorded and hides nothing, a setting that IHE allows for this title alone.
    """

    def __init__(self, *, shows_quality_rejects: bool = False) -> None:
        self._shows_quality_rejects = shows_quality_rejects
        self._known: dict[str, _Known] = {}

    @property
    def rejected(self) -> Mapping[str, str]:
        """The title under which each rejected SOP Instance UID was rejected."""
        return MappingProxyType({uid: k.rejected_as for uid, k in self._known.items() if k.rejected_as})

    def forget(self) -> None:
        """Know nothing, as before the first arrival."""
        self._known.clear()

    def judge(self, arrival: Arrival, *, is_other_patient: bool = False) -> Verdict:
        """Say how a C-STORE is answered; nothing changes until :meth:`admit`.

        ``is_other_patient``: its patient is not the one whose study this is here.
        """
        known = self._known.get(arrival.sop_instance_uid)
        if known is not None and known.rejected_as == QUALITY:
            return Verdict(_SUCCESS)
        if known is not None and known.rejected_as in (PATIENT_SAFETY, WRONG_ENTRY):
            return Verdict(_REJECTED)
        if is_other_patient:
            return Verdict(_OTHER_PATIENT)
        if known is not None and known.rejected_as is None:
            return self._judge_again(arrival, known)
        if arrival.title is not None:
            return self._judge_note(arrival, arrival.title)
        return Verdict(_SUCCESS, is_kept=True)

    @staticmethod
    def _judge_again(arrival: Arrival, known: _Known) -> Verdict:
        """An instance that is here comes again."""
        if arrival.sop_class_uid != known.sop_class_uid:
            return Verdict(_CLASS_CONFLICT)
        if arrival.place != known.place:
            return Verdict(_OTHER_PLACE)
        # In another transfer syntax an image has other bytes and is the same image; a note is expected as it was.
        is_comparable = arrival.transfer_syntax_uid == known.transfer_syntax_uid or arrival.title is not None
        return Verdict(_DIFFERENT_BYTES if is_comparable and arrival.digest != known.digest else _SUCCESS)

    def _judge_note(self, note: Arrival, title: str) -> Verdict:
        evidence = note.evidence
        if not evidence:
            return Verdict(_NO_SUCH_CLASS)
        for place, sop_class_uid, uid in evidence:
            known = self._known.get(uid)
            if known is None or known.place != place:
                return Verdict(_NOT_HERE)
            if known.sop_class_uid != sop_class_uid:
                return Verdict(_CLASS_CONFLICT)
        for _, _, uid in evidence:
            if self._known[uid].rejected_as not in (None, title, *_OVERRIDES[title]):
                return Verdict(_OTHER_TITLE)
        return Verdict(_SUCCESS, is_kept=True)

    def admit(self, arrival: Arrival) -> Effect:
        """Take in what was judged worth keeping.

        Admitting what was kept, in the order in which it was kept, restores the memory after a restart.
        """
        self._known[arrival.sop_instance_uid] = _Known(
            arrival.sop_class_uid, arrival.place, arrival.transfer_syntax_uid, arrival.digest
        )
        title = arrival.title
        if title is None:
            return Effect(is_shown=True)
        named = frozenset(uid for _, _, uid in arrival.evidence) & self._known.keys()
        for uid in named:
            self._known[uid].rejected_as = title
        hides = title != QUALITY or not self._shows_quality_rejects
        return Effect(is_shown=title != RETENTION, hidden=frozenset(named) if hides else frozenset())


def _evidence_of(note: Dataset) -> Iterator[Evidence]:
    for study in note.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            place = (str(study.get("StudyInstanceUID")), str(series.get("SeriesInstanceUID")))
            for reference in series.get("ReferencedSOPSequence") or ():
                yield Evidence(
                    place, str(reference.get("ReferencedSOPClassUID")), str(reference.get("ReferencedSOPInstanceUID"))
                )
