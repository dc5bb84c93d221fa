"""What may be withdrawn from an archive, and under which title: the decisions behind IHE IOCM rejection notes.

A note (Rejection Note Stored, RAD-66) tells an archive to hide instances that it holds. Titles are those of IHE IOCM,
codes of DICOM CID 7010; the document itself is built in ``messages/rejection_note.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from enum import StrEnum
from types import MappingProxyType

from archsync.core.study import RemovalReason, Study
from archsync.core.uids import derive_uid
from archsync.errors import ConfigurationError, InvalidInput

MAX_REFERENCES = 5_000
"""References in one note by default: with more, archives take long to answer and note building takes memory."""


class RejectionTitle(StrEnum):
    """The four titles that reject (scheme DCM). The value is the code."""

    QUALITY = "113001"
    PATIENT_SAFETY = "113037"
    WRONG_WORKLIST_ENTRY = "113038"
    RETENTION_EXPIRED = "113039"

    @property
    def meaning(self) -> str:
        """The code's meaning, to the letter: some viewers match the text instead of the code."""
        return _MEANINGS[self]

    @property
    def requires_replacements(self) -> bool:
        """True when corrected copies must be stored with the note (RAD-74)."""
        return self is RejectionTitle.WRONG_WORKLIST_ENTRY

    @property
    def allows_modifier(self) -> bool:
        """True when the note may say more closely why (TID 2010 allows it under 113001 only, of these four)."""
        return self is RejectionTitle.QUALITY

    @property
    def may_come_back(self) -> bool:
        """True when an archive may accept the same SOP Instance UID again; under the others it is burnt for ever."""
        return self is RejectionTitle.RETENTION_EXPIRED


_MEANINGS: Mapping[RejectionTitle, str] = MappingProxyType(
    {
        RejectionTitle.QUALITY: "Rejected for Quality Reasons",
        RejectionTitle.PATIENT_SAFETY: "Rejected for Patient Safety Reasons",
        RejectionTitle.WRONG_WORKLIST_ENTRY: "Incorrect Modality Worklist Entry",
        RejectionTitle.RETENTION_EXPIRED: "Data Retention Policy Expired",
    }
)


class TitleModifier(StrEnum):
    """Why the quality was bad (CID 7011, scheme DCM). The value is the code."""

    DOUBLE_EXPOSURE = "113026"
    IMAGE_ARTIFACTS = "111207"
    GRID_ARTIFACTS = "111208"
    POSITIONING = "111209"
    MOTION_BLUR = "111210"
    UNDER_EXPOSED = "111211"
    OVER_EXPOSED = "111212"
    NO_IMAGE = "111213"
    DETECTOR_ARTIFACTS = "111214"
    OTHER_ARTIFACTS = "111215"
    MECHANICAL_FAILURE = "111216"
    ELECTRICAL_FAILURE = "111217"
    SOFTWARE_FAILURE = "111218"
    INAPPROPRIATE_PROCESSING = "111219"
    OTHER_FAILURE = "111220"
    UNKNOWN_FAILURE = "111221"

    @property
    def meaning(self) -> str:
        """The code's meaning, to the letter."""
        return _MODIFIER_MEANINGS[self]


_MODIFIER_MEANINGS: Mapping[TitleModifier, str] = MappingProxyType(
    {
        TitleModifier.DOUBLE_EXPOSURE: "Double exposure",
        TitleModifier.IMAGE_ARTIFACTS: "Image artifact(s)",
        TitleModifier.GRID_ARTIFACTS: "Grid artifact(s)",
        TitleModifier.POSITIONING: "Positioning",
        TitleModifier.MOTION_BLUR: "Motion blur",
        TitleModifier.UNDER_EXPOSED: "Under exposed",
        TitleModifier.OVER_EXPOSED: "Over exposed",
        TitleModifier.NO_IMAGE: "No image",
        TitleModifier.DETECTOR_ARTIFACTS: "Detector artifact(s)",
        TitleModifier.OTHER_ARTIFACTS: "Artifact(s) other than grid or detector artifact",
        TitleModifier.MECHANICAL_FAILURE: "Mechanical failure",
        TitleModifier.ELECTRICAL_FAILURE: "Electrical failure",
        TitleModifier.SOFTWARE_FAILURE: "Software failure",
        TitleModifier.INAPPROPRIATE_PROCESSING: "Inappropriate image processing",
        TitleModifier.OTHER_FAILURE: "Other failure",
        TitleModifier.UNKNOWN_FAILURE: "Unknown failure",
    }
)

# Which title

TitleMap = Mapping[RemovalReason, RejectionTitle | None]
"""The title for each reason; None: no note is sent for it."""

DEFAULT_TITLES: TitleMap = MappingProxyType(
    {
        RemovalReason.QUALITY: RejectionTitle.QUALITY,
        RemovalReason.PATIENT_SAFETY: RejectionTitle.PATIENT_SAFETY,
        RemovalReason.WRONG_WORKLIST_ENTRY: RejectionTitle.WRONG_WORKLIST_ENTRY,
        # Destinations opt in: archives may delete for good what this title names, within a day.
        RemovalReason.RETENTION_EXPIRED: None,
        # The one title for a deletion that is sure to hide the instances and to keep them hidden.
        RemovalReason.UNSPECIFIED: RejectionTitle.PATIENT_SAFETY,
    }
)
"""Splits, merges and moves count as WRONG_WORKLIST_ENTRY: instances leave one study and show up in another."""

_NO_NOTE = "none"


def parse_titles(overrides: Iterable[str]) -> TitleMap:
    """The default titles with a destination's own, each written ``reason=code`` or ``reason=none`` (send no note).

    Raises:
        ConfigurationError: unknown reason or code, a reason given twice, or a title that does not suit the reason.
    """
    titles = dict(DEFAULT_TITLES)
    seen: set[RemovalReason] = set()
    for override in overrides:
        name, _, code = (part.strip() for part in override.partition("="))
        try:
            reason = RemovalReason(name)
            title = None if code == _NO_NOTE else RejectionTitle(code)
        except ValueError:
            raise _bad_title(
                f"{override!r} must be one of {', '.join(RemovalReason)}, then '=', then one of"
                f" {', '.join(RejectionTitle)} or {_NO_NOTE}"
            ) from None
        if reason in seen:
            raise _bad_title(f"{reason} is given twice")
        seen.add(reason)
        if title is not None and (problem := _unsuitable(reason, title)):
            raise _bad_title(f"{override}: {problem}")
        titles[reason] = title
    return MappingProxyType(titles)


def _unsuitable(reason: RemovalReason, title: RejectionTitle) -> str | None:
    is_correction = reason is RemovalReason.WRONG_WORKLIST_ENTRY
    if is_correction and title.may_come_back:
        return "under this title a stray copy of what was corrected may come back"
    if title.requires_replacements and not is_correction:
        return "this title promises corrected copies, which a removal for this reason does not have"
    return None


def _bad_title(problem: str) -> ConfigurationError:
    return ConfigurationError(f"rejection titles: {problem}", code="bad-setting")


# What a note is about


@dataclass(frozen=True, slots=True)
class AssigningAuthority:
    """Who assigned an identifier: the parts of an HL7 HD. ``universal_id_type`` is ISO, DNS, UUID, …"""

    namespace: str | None = None
    universal_id: str | None = None
    universal_id_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSubject:
    """The study that a note lies in, and its patient, **as the archive knows them**; the platform may be ahead.

    ``patient_name`` and ``referring_physician`` are DICOM PN values.
    """

    study_instance_uid: str
    patient_id: str = field(repr=False)
    patient_name: str = field(repr=False, default="")
    issuer_of_patient_id: AssigningAuthority | None = None
    birth_date: date | None = field(repr=False, default=None)
    sex: str | None = field(repr=False, default=None)
    study_date: date | None = None
    study_time: time | None = None
    study_id: str | None = None
    study_description: str | None = field(repr=False, default=None)
    accession_number: str | None = field(repr=False, default=None)
    issuer_of_accession_number: AssigningAuthority | None = None
    referring_physician: str | None = field(repr=False, default=None)

    @classmethod
    def of(cls, study: Study) -> NoteSubject:
        """The subject as the platform has it now: right for an archive that is in step with the platform."""
        patient, facility = study.patient, study.facility
        issuer = None
        if patient.issuer_of_patient_id:
            is_facilitys = patient.issuer_of_patient_id == facility.authority_namespace
            issuer = AssigningAuthority(
                patient.issuer_of_patient_id,
                facility.authority_universal_id if is_facilitys else None,
                facility.authority_universal_id_type if is_facilitys else None,
            )
        return cls(
            study_instance_uid=study.study_instance_uid,
            patient_id=patient.patient_id,
            patient_name=patient.name,
            issuer_of_patient_id=issuer,
            birth_date=patient.birth_date,
            sex=patient.sex,
            study_date=study.study_date,
            study_time=study.study_time,
            study_id=study.study_id,
            study_description=study.description,
            accession_number=study.accession_number,
            referring_physician=study.referring_physician,
        )


@dataclass(frozen=True, slots=True)
class RejectedInstance:
    """One instance to withdraw, by the UIDs under which the archive holds it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


@dataclass(frozen=True, slots=True)
class NoteIdentity:
    """What a note's own UIDs derive from: the same identity always names the same document.

    ``destination`` belongs to it because two archives that hold different instances need different notes, and archives
    forward to one another. ``scope`` rises by one when a note is built anew with other instances (after status A772);
    ``part`` counts the notes of a change that is split by size.
    """

    change_id: str
    destination: str
    scope: int = 1
    part: int = 1

    @property
    def sop_instance_uid(self) -> str:
        """The note's SOP Instance UID."""
        return derive_uid("note", self.destination, self.change_id, str(self.scope), str(self.part))

    @property
    def series_instance_uid(self) -> str:
        """The series of the notes of one change: a new one, with nothing else in it."""
        return derive_uid("note-series", self.destination, self.change_id, str(self.scope))


# Which instances


@dataclass(frozen=True, slots=True)
class NoteScope:
    """What a note may name, and what it must leave out (SOP Instance UIDs), each in the order asked for."""

    instances: tuple[RejectedInstance, ...]
    not_held: tuple[str, ...] = ()
    already_rejected: tuple[str, ...] = ()


def scope_note(wanted: Iterable[RejectedInstance], *, held: Collection[str], rejected: Collection[str]) -> NoteScope:
    """Keep what the archive holds and has not rejected yet; each instance once.

    ``held`` and ``rejected`` are SOP Instance UIDs at this archive; a rejected one may be in both. An archive refuses
    a note that names anything it never had (A772), and may refuse a second rejection under another title (A774).
    """
    held, rejected = _as_set(held), _as_set(rejected)
    instances: list[RejectedInstance] = []
    not_held: list[str] = []
    already_rejected: list[str] = []
    for uid, instance in {i.sop_instance_uid: i for i in wanted}.items():
        if uid in rejected:
            already_rejected.append(uid)
        elif uid not in held:
            not_held.append(uid)
        else:
            instances.append(instance)
    return NoteScope(tuple(instances), tuple(not_held), tuple(already_rejected))


def rescope_note(instances: Iterable[RejectedInstance], *, listed: Collection[str]) -> NoteScope:
    """What is left of a note that the archive refused because of an unknown instance (A772), after a C-FIND.

    ``listed`` are the SOP Instance UIDs that the archive shows of the study. What it does not show is hidden already
    or was never there: either way there is nothing to hide. What is left needs a note with the next ``scope`` of its
    identity; when nothing is, the aim is met.
    """
    return scope_note(instances, held=listed, rejected=())


def split_instances(
    instances: Iterable[RejectedInstance], *, max_references: int = MAX_REFERENCES
) -> list[tuple[RejectedInstance, ...]]:
    """Spread instances over as few notes as their size allows, in an order that does not depend on the input's."""
    if max_references < 1:
        raise ValueError(f"a note names at least one instance, not {max_references}")
    ordered = sorted(instances, key=lambda i: (i.study_instance_uid, i.series_instance_uid, i.sop_instance_uid))
    return [tuple(ordered[start : start + max_references]) for start in range(0, len(ordered), max_references)]


def check_instances(subject: NoteSubject, instances: Sequence[RejectedInstance]) -> None:
    """Refuse what no note can say: no instance, one named twice, or one of another study.

    Raises:
        InvalidInput: ``nothing-to-reject`` or ``note-inconsistent``.
    """
    if not instances:
        raise InvalidInput(
            f"study {subject.study_instance_uid}: no instance is left to reject",
            code="nothing-to-reject",
            next_step="Nothing to do: the archive shows none of these instances.",
        )
    seen: set[str] = set()
    for instance in instances:
        if instance.study_instance_uid != subject.study_instance_uid:
            raise note_fault(
                f"instance {instance.sop_instance_uid} is of study {instance.study_instance_uid}, the note lies in"
                f" {subject.study_instance_uid}"
            )
        if instance.sop_instance_uid in seen:
            raise note_fault(f"instance {instance.sop_instance_uid} is named twice")
        seen.add(instance.sop_instance_uid)


def note_fault(problem: str) -> InvalidInput:
    """The error for a note that contradicts itself or IHE IOCM; it must not be sent."""
    return InvalidInput(
        f"rejection note: {problem}",
        code="note-inconsistent",
        next_step="Report this with the job number; it is a fault in archsync. Nothing was sent.",
    )


def _as_set(uids: Collection[str]) -> frozenset[str] | set[str]:
    return uids if isinstance(uids, set | frozenset) else frozenset(uids)
