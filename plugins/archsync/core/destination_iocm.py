"""How one destination takes rejection notes: its settings, with what its profile says where they are silent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from archsync.core.profiles import ArchiveProfile
from archsync.core.rejection import TitleMap, TitleModifier, parse_titles
from archsync.core.study import RemovalReason
from archsync.errors import ConfigurationError


class WithoutIocm(StrEnum):
    """What becomes of a withdrawal at a destination that takes no rejection notes."""

    SUPPRESS = "suppress"
    """The job ends suppressed: nothing is sent, and it says so."""
    OPERATOR = "operator"
    """The job fails, for somebody to withdraw the instances at the archive by hand."""


class NoteOrder(StrEnum):
    """Whether corrected copies or the rejection note goes first.

    Copies first leave duplicates after a crash, which are visible and mended by the next attempt; the note first leaves
    a hole, and no moment in which the harm shows.
    """

    REPLACEMENTS_FIRST = "replacements_first"
    """Always the copies first."""
    SAFETY_FIRST = "safety_first"
    """The note first when the reason is the patient's safety."""
    WRONG_PATIENT_FIRST = "wrong_patient_first"
    """The note first also when the instances lie with the wrong patient."""

    def puts_note_first(self, reason: RemovalReason, *, is_wrong_patient: bool) -> bool:
        """Tell whether the note goes before the copies."""
        if self is NoteOrder.REPLACEMENTS_FIRST:
            return False
        is_harmful = reason is RemovalReason.PATIENT_SAFETY
        return is_harmful or (is_wrong_patient and self is NoteOrder.WRONG_PATIENT_FIRST)


@dataclass(frozen=True, slots=True, kw_only=True)
class IocmSettings:
    """What holds for rejection notes at one destination. ``quality_modifier`` goes with title 113001 only."""

    profile: ArchiveProfile
    supports_iocm: bool
    without_iocm: WithoutIocm
    titles: TitleMap
    note_order: NoteOrder
    max_note_references: int
    quality_modifier: TitleModifier | None


def check_titles(overrides: tuple[str, ...]) -> str | None:
    """Say what is wrong with the setting ``rejection_titles``, or None."""
    try:
        parse_titles(overrides)
    except ConfigurationError as exc:
        return exc.message.removeprefix("rejection titles: ")
    return None
