"""What came of an instance, in the words of the ledger and of an administrator."""

from __future__ import annotations

from functools import lru_cache

from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import OutgoingInstance, StoreOutcome, StoreResult
from archsync.errors import InvalidInput, PeerUnavailable
from archsync.messages.store_status import describe_store_status, explain_store_status
from archsync.net.dicom.loading import CHANGED_CODE, Loaded, other_syntax

_CHANGED = "The file changed while it was being sent"


def not_sent(instance: OutgoingInstance, reason: InvalidInput | PeerUnavailable) -> StoreOutcome:
    """The outcome of an instance that can't be sent, or not now."""
    result = StoreResult.BUSY if isinstance(reason, PeerUnavailable) else StoreResult.REFUSED
    return StoreOutcome(instance=instance, result=result, code=reason.code, message=reason.message)


def changed_meanwhile(instance: OutgoingInstance, loaded: Loaded, status: int | None = None) -> StoreOutcome:
    """The outcome of an instance whose file changed: what the peer holds may be neither the old content nor the new."""
    return _outcome(instance, loaded, StoreResult.LIMITED, status, CHANGED_CODE, _CHANGED)


def answered(
    instance: OutgoingInstance, loaded: Loaded, status: int | None, profile: ArchiveProfile, how_lost: str | None = None
) -> StoreOutcome:
    """The outcome of an instance that was sent. ``status`` None: no valid answer came, for the reason ``how_lost``."""
    result, code, sentence = _meaning(status, profile)
    if status is None:
        sentence = f"{sentence} ({how_lost})"
    elif result.is_stored and not loaded.facts.is_unchanged:
        return changed_meanwhile(instance, loaded, status)
    return _outcome(instance, loaded, result, status, code, sentence)


def _outcome(
    instance: OutgoingInstance, loaded: Loaded, result: StoreResult, status: int | None, code: str, sentence: str
) -> StoreOutcome:
    notes = loaded.notes
    if loaded.transfer_syntax_uid != instance.transfer_syntax_uid and not notes:
        notes = (other_syntax(loaded.facts),)
    return StoreOutcome(
        instance,
        result,
        status,
        code,
        "; ".join((sentence, *notes)) if notes else sentence,
        loaded.size_bytes,
        loaded.transfer_syntax_uid,
    )


@lru_cache(maxsize=64)
def _meaning(status: int | None, profile: ArchiveProfile) -> tuple[StoreResult, str, str]:
    meaning = explain_store_status(status, profile)
    return meaning.result, meaning.code, describe_store_status(status, profile)
