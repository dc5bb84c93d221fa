"""C-STORE statuses that archives give a meaning of their own, for an instance and for a rejection note.

PS3.4 Table B.2-1 makes all of A7xx "out of resources", which a later try can change. dcm4chee-arc takes A770–A77B for
answers of its own, most of them final. No other archive is known to give them, so a ``generic`` one's are read the same
way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from archsync.core.profiles import ArchiveProfile, NoteAnswer
from archsync.core.transfer import StoreResult


@dataclass(frozen=True, slots=True)
class Explanation:
    """What to tell an administrator: stable code, sentence without the status, and what to do."""

    code: str
    message: str
    next_step: str


@dataclass(frozen=True, slots=True)
class ArchiveAnswer:
    """One row: the statuses ``first``..``last`` (inclusive), and what follows for an instance and for a note.

    Where a note needs no words of its own, ``note_explanation`` is None. A refused instance may be a note, too: one
    that the platform itself holds, made by somebody else.
    """

    first: int
    last: int
    result: StoreResult
    explanation: Explanation
    note_answer: NoteAnswer
    note_explanation: Explanation | None = None

    @property
    def for_note(self) -> Explanation:
        """What to tell of a note."""
        return self.note_explanation or self.explanation


_REFUSED, _BUSY, _LIMITED = StoreResult.REFUSED, StoreResult.BUSY, StoreResult.LIMITED

_WAIT = "Nothing to do: archsync tries again by itself. If it lasts, check the archive's storage and load."
_NOT_AGAIN = "Compare this instance at the archive with the platform's; do not send it again under the same UID."
_FIX_IDENTITY = "Bring the patient's identity at the archive in step with the platform, then retry the job."
_FIX_POLICY = "Change the policy at the archive, or cancel the job."
_OUR_FAULT = "Report this with the job number; it is a fault in archsync."

_DCM4CHEE_ANSWERS: tuple[ArchiveAnswer, ...] = (
    ArchiveAnswer(
        0xA770, 0xA770, _REFUSED,
        Explanation(
            "different-object-same-uid", "The archive holds other bytes under this SOP Instance UID.", _NOT_AGAIN,
        ),
        NoteAnswer.BUG_OTHER_BYTES,
        Explanation("note-bytes-differ", "The archive holds this rejection note with other bytes.", _OUR_FAULT),
    ),
    ArchiveAnswer(
        0xA771, 0xA771, _REFUSED,
        Explanation(
            "instance-rejected-there", "The instance was rejected at the archive earlier and may not come back.",
            _NOT_AGAIN,
        ),
        NoteAnswer.INSTANCE_REJECTED,
        Explanation(
            "instance-rejected-there", "The archive has rejected the rejection note itself.",
            "Compare the study at the archive with the platform's; if the instances still show, retry the job.",
        ),
    ),
    ArchiveAnswer(
        0xA772, 0xA772, _REFUSED,
        Explanation(
            "note-names-unknown-instance", "The rejection note names an instance that the archive does not hold.",
            "Archive the study there first, then retry the job.",
        ),
        NoteAnswer.NAMES_UNKNOWN,
    ),
    ArchiveAnswer(
        0xA773, 0xA773, _REFUSED,
        Explanation(
            "class-instance-conflict", "The archive holds this SOP Instance UID under another SOP class.", _NOT_AGAIN,
        ),
        NoteAnswer.PERMANENT,
        Explanation(
            "class-instance-conflict", "The archive holds an instance that the note names under another SOP class.",
            "Compare the study at the archive with the platform's.",
        ),
    ),
    ArchiveAnswer(
        0xA774, 0xA774, _REFUSED,
        Explanation(
            "rejected-under-other-title", "The instances are already rejected at the archive for another reason.",
            "Compare the study at the archive with the platform's: usually the aim is met.",
        ),
        NoteAnswer.ALREADY_REJECTED_OTHER_TITLE,
    ),
    ArchiveAnswer(
        0xA775, 0xA775, _REFUSED,
        Explanation(
            "retention-not-allowed", "The archive does not allow a rejection for expired retention here.", _FIX_POLICY,
        ),
        NoteAnswer.PERMANENT,
    ),
    ArchiveAnswer(
        0xA776, 0xA776, _REFUSED,
        Explanation(
            "retention-not-allowed", "By the archive's rules the study's retention has not expired yet.", _FIX_POLICY,
        ),
        NoteAnswer.PERMANENT,
    ),
    ArchiveAnswer(
        0xA777, 0xA777, _REFUSED,
        Explanation(
            "patient-differs", "The archive does not trust the issuer of the patient identifier.", _FIX_IDENTITY,
        ),
        NoteAnswer.PATIENT_MISMATCH,
    ),
    ArchiveAnswer(
        0xA778, 0xA778, _REFUSED,
        Explanation(
            "patient-differs", "The patient identifier is not that of the study at the archive.", _FIX_IDENTITY,
        ),
        NoteAnswer.PATIENT_MISMATCH,
    ),
    ArchiveAnswer(
        0xA779, 0xA779, _REFUSED,
        Explanation(
            "patient-differs", "The patient's attributes are not those of the study at the archive.", _FIX_IDENTITY,
        ),
        NoteAnswer.PATIENT_MISMATCH,
    ),
    ArchiveAnswer(
        0xA77A, 0xA77A, _BUSY,
        Explanation("study-being-deleted", "The archive is deleting the study.", _WAIT),
        NoteAnswer.BEING_DELETED,
    ),
    ArchiveAnswer(
        0xA77B, 0xA77B, _REFUSED,
        Explanation(
            "instance-in-other-study", "The archive holds this SOP Instance UID in another series or study.",
            _NOT_AGAIN,
        ),
        NoteAnswer.PERMANENT,
        Explanation(
            "instance-in-other-study", "The archive holds the note's SOP Instance UID in another series or study.",
            _OUR_FAULT,
        ),
    ),
)  # fmt: skip

# Orthanc answers A700 to whatever goes wrong while it stores, a missing tag as well as a full disk. A later try may or
# may not change it.
_ORTHANC_ANSWERS: tuple[ArchiveAnswer, ...] = (
    ArchiveAnswer(
        0xA700, 0xA700, _LIMITED,
        Explanation(
            "store-failed", "Orthanc failed to store it, for a reason that it does not say.",
            "Read Orthanc's log for this SOP Instance UID, correct the cause, then retry the job.",
        ),
        NoteAnswer.LIMITED,
    ),
)  # fmt: skip

ANSWERS: Mapping[ArchiveProfile, tuple[ArchiveAnswer, ...]] = MappingProxyType(
    {
        ArchiveProfile.GENERIC: _DCM4CHEE_ANSWERS,
        ArchiveProfile.DCM4CHEE: _DCM4CHEE_ANSWERS,
        ArchiveProfile.ORTHANC: _ORTHANC_ANSWERS,
    }
)
"""The statuses that archives of a profile give a meaning of their own; of all others the standard's holds."""


def find_answer(status: int, profile: ArchiveProfile) -> ArchiveAnswer | None:
    """The row about a status, if the archives of a profile give it a meaning of their own."""
    return next((row for row in ANSWERS[profile] if row.first <= status <= row.last), None)
