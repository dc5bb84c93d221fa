"""The audit trail: who did what, to what, when and why. It is written with what was done, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from archsync.core.audit import AuditAction
from archsync.core.job import FAR_FUTURE
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("audit")

#: Where an event stands in the order of the trail: its moment, and its number.
Place = tuple[datetime, int]

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One entry. ``action`` as in :class:`AuditAction`; ``subject`` is what it was done to, such as ``job 4711``."""

    event_id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events to list; empty fields match all.

    ``until`` is the first moment that is too late. ``before`` is where the page before ended; ``before_event_id`` says
    the same by an event's number.
    """

    actors: Sequence[str] = ()
    actions: Sequence[AuditAction] = ()
    subject: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: Place | None = None
    before_event_id: int | None = None
    limit: int = 100


def record(ledger: Ledger, *, actor: str, action: AuditAction, subject: str, detail: str = "") -> None:
    """Record who did what, in the caller's transaction. ``subject`` and ``detail`` say nothing of a patient."""
    values = {"actor": actor, "action": action.value, "subject": subject, "detail": detail}
    ledger.execute(SQL["record"], values)


def page(ledger: Ledger, wanted: AuditFilter) -> list[AuditEvent]:
    """The events that match, newest first."""
    before = wanted.before
    if wanted.before_event_id is not None:
        row = ledger.fetch_one(SQL["place"], {"event_id": wanted.before_event_id})
        if row is None:
            return []
        before = (row["at"], wanted.before_event_id)
    # No event's number is below 1: before the first one of a moment is before that moment.
    ends = [end for end in (before, (wanted.until, 0) if wanted.until else None) if end is not None]
    before_at, before_event_id = min(ends, default=(FAR_FUTURE, 0))
    rows = ledger.fetch_all(
        SQL["page"],
        {
            "actors": list(wanted.actors) or None,
            "actions": [action.value for action in wanted.actions] or None,
            "subject": wanted.subject,
            "since": wanted.since or _ALWAYS,
            "before_at": before_at,
            "before_event_id": before_event_id,
            "limit": wanted.limit,
        },
    )
    return [AuditEvent(**row) for row in rows]
