"""Holding studies back: what an administrator may do beside the platform's own flag."""

from __future__ import annotations

from archsync.core.audit import AuditAction
from archsync.core.settings import wrong_setting
from archsync.ledger import audit, holds, plan_queue
from archsync.ledger.database import Ledger
from archsync.ledger.holds import StudyHold
from archsync.platformdb.reader import Platform
from archsync.services.request import find_study


def add(platform: Platform, ledger: Ledger, *, study_instance_uid: str, actor: str, reason: str) -> bool:
    """Hold a study back everywhere: what runs stops at its next image, all else waits; False: it is held already.

    Messages about its patient go on: they are about other studies too.

    Raises:
        InvalidInput: the platform has no such study, or several.
        ConfigurationError: no reason is given.
    """
    reason = reason.strip()
    if not reason:
        raise wrong_setting("reason", "must not be empty; say why")
    study_key = find_study(platform, study_instance_uid)
    with ledger.transaction():
        is_new = holds.add(
            ledger, study_key=study_key, study_instance_uid=study_instance_uid, held_by=actor, reason=reason
        )
        if is_new:
            audit.record(
                ledger, actor=actor, action=AuditAction.HOLD_ADD, subject=f"study {study_instance_uid}", detail=reason
            )
            plan_queue.queue(ledger, [study_key])
    return is_new


def remove(ledger: Ledger, *, study_instance_uid: str, actor: str) -> bool:
    """Release a study: its changes, which queued meanwhile, go on; False: nobody held it.

    The platform's own flag may hold it still.
    """
    with ledger.transaction():
        held = holds.of_study(ledger, study_instance_uid)
        for hold in held:
            holds.remove(ledger, hold.study_key)
            audit.record(ledger, actor=actor, action=AuditAction.HOLD_REMOVE, subject=f"study {study_instance_uid}")
        plan_queue.queue(ledger, [hold.study_key for hold in held])
    return bool(held)


def listing(ledger: Ledger) -> list[StudyHold]:
    """The studies that administrators hold back, newest first."""
    return holds.listing(ledger)
