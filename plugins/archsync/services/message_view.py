"""The HL7 messages of a job, as an administrator is shown them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from archsync.core.audit import AuditAction
from archsync.ledger import adt_messages, audit
from archsync.ledger.database import Ledger
from archsync.messages.hl7_masking import mask_patient, show_patient


@dataclass(frozen=True, slots=True)
class DescribedMessage:
    """A message as an administrator is shown it; ``text`` is None where its content was purged."""

    trigger_event: str
    control_id: str
    text: str | None
    built_at: datetime
    first_sent_at: datetime | None
    unanswered: int
    acknowledged_at: datetime | None
    ack_code: str | None


def describe_messages(
    ledger: Ledger, job_id: int, *, phi: bool = False, actor: str | None = None
) -> list[DescribedMessage]:
    """The messages of a job, oldest first, with the patient masked; with ``phi`` as sent, which is audited.

    Args:
        actor: Who looks; needed with ``phi``.
    """
    found = adt_messages.of_job(ledger, job_id)
    if phi and found:
        audit.record(
            ledger,
            actor=actor or "unknown",
            action=AuditAction.JOB_SHOW_PHI,
            subject=f"job {job_id}",
            detail="ADT message",
        )
    return [
        DescribedMessage(
            m.trigger_event,
            m.control_id,
            None if m.encoded is None else (show_patient if phi else mask_patient)(m.encoded),
            m.built_at,
            m.first_sent_at,
            m.unanswered,
            m.acknowledged_at,
            m.ack_code,
        )
        for m in found
    ]
