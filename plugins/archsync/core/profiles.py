"""What kinds of archive there are, and what is known of each: the profile that a destination names.

A profile says what a destination's settings leave open. How the archives of a profile answer is in
``core/archive_answers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class ArchiveProfile(StrEnum):
    """The product behind a destination, as far as its behaviour differs from the standard's."""

    GENERIC = "generic"
    DCM4CHEE = "dcm4chee"
    ORTHANC = "orthanc"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What archives of one profile can do.

    ``supports_iocm``: they hide what a rejection note names. Archives that merely store notes show the images on.
    """

    supports_iocm: bool


PROFILES: Mapping[ArchiveProfile, Capabilities] = MappingProxyType(
    {
        # Success for a note says "stored", not "understood": an administrator has to know, and say so.
        ArchiveProfile.GENERIC: Capabilities(supports_iocm=False),
        ArchiveProfile.DCM4CHEE: Capabilities(supports_iocm=True),
        # Stores a note like any instance and keeps every image it names.
        ArchiveProfile.ORTHANC: Capabilities(supports_iocm=False),
    }
)


class NoteAnswer(StrEnum):
    """What an archive's answer to a rejection note means for the job that sent it."""

    STORED = "stored"
    """It has the note; whether it hides the instances, only a check tells."""
    ALREADY_REJECTED_OTHER_TITLE = "already_rejected_other_title"
    """Instances are rejected there already, under another title: the goal is met if a check finds them hidden."""
    NAMES_UNKNOWN = "names_unknown"
    """The note names an instance that is not held there: wait for what is queued, else a new note of another scope."""
    BUG_OTHER_BYTES = "bug_other_bytes"
    """The note's UID is taken by other bytes. Ours are sent as built, so this is a fault of ours: stop and say so."""
    INSTANCE_REJECTED = "instance_rejected"
    """The note itself was rejected there: never again under this UID."""
    PATIENT_MISMATCH = "patient_mismatch"
    """The note's patient is not that of the study there: permanent until ADT is in step, then once more."""
    BEING_DELETED = "being_deleted"
    """The study is being deleted there: transient, but it takes long."""
    PERMANENT = "permanent"
    """The same note would be refused again."""
    NOT_ACCEPTED = "not_accepted"
    """The archive takes no Key Object Selections: permanent for notes, images may go on."""
    NOT_AUTHORISED = "not_authorised"
    """It would refuse everything of ours: the destination stops."""
    BUSY = "busy"
    """Transient."""
    LIMITED = "limited"
    """Unclear: a few tries, then permanent."""
    UNKNOWN = "unknown"
    """Sent, no valid answer: resend the same bytes."""
