"""What an archive's answer to a rejection note means and what follows from it.

A note is sent by C-STORE like any instance, and a status that is not about notes means for it what it means for an
instance. Success says "stored": whether the archive hides what the note names, only a check tells.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsync.core.archive_answers import Explanation, find_answer
from archsync.core.profiles import ArchiveProfile, NoteAnswer
from archsync.core.transfer import StoreResult
from archsync.messages.store_status import explain_store_status, with_status


@dataclass(frozen=True, slots=True)
class NoteVerdict:
    """What to do about an answer, and what to tell an administrator; ``message`` ends with the status."""

    answer: NoteAnswer
    code: str
    message: str
    next_step: str


NOT_ACCEPTED = NoteVerdict(
    NoteAnswer.NOT_ACCEPTED,
    "notes-not-accepted",
    "The archive does not take Key Object Selection documents, which rejection notes are.",
    "Enable the SOP class Key Object Selection at the archive, then retry the job; or set supports_iocm to false.",
)
"""The archive refused all presentation contexts for Key Object Selections: it takes no notes at all."""

_AS_AN_INSTANCE = {
    StoreResult.STORED: NoteAnswer.STORED,
    StoreResult.WARNING: NoteAnswer.STORED,
    StoreResult.REFUSED: NoteAnswer.PERMANENT,
    StoreResult.BUSY: NoteAnswer.BUSY,
    StoreResult.LIMITED: NoteAnswer.LIMITED,
    StoreResult.UNKNOWN: NoteAnswer.UNKNOWN,
    StoreResult.STOP: NoteAnswer.NOT_AUTHORISED,
}

_CLASS_NOT_SUPPORTED = 0x0122


def explain_note_status(status: int | None, profile: ArchiveProfile) -> NoteVerdict:
    """Say what the C-STORE status of a rejection note means; None stands for "no valid response came"."""
    if status == _CLASS_NOT_SUPPORTED:
        answer, said = NOT_ACCEPTED.answer, Explanation(NOT_ACCEPTED.code, NOT_ACCEPTED.message, NOT_ACCEPTED.next_step)
    elif status is not None and (row := find_answer(status, profile)):
        answer, said = row.note_answer, row.for_note
    else:
        meaning = explain_store_status(status, profile)
        answer = _AS_AN_INSTANCE[meaning.result]
        said = Explanation(meaning.code, meaning.message, meaning.next_step)
    return NoteVerdict(answer, said.code, with_status(said.message, status), said.next_step)
