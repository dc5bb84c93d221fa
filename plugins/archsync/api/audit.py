"""The audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from archsync.api.access import Right, guarded_router, needs
from archsync.api.fields import Moment, Name
from archsync.api.pages import Cursor, Limit, read_cursor, write_cursor
from archsync.api.sites import LedgerDep
from archsync.core.audit import AuditAction
from archsync.ledger import audit
from archsync.ledger.audit import AuditFilter

router = guarded_router("audit")


class AuditQuery(BaseModel):
    """Which entries: those that match everything that is given. Several values of one name: any of them."""

    model_config = ConfigDict(extra="forbid")

    since: Moment | None = Field(default=None, description="Done then or later.")
    until: Moment | None = Field(default=None, description="Done before then.")
    actor: list[Name] = Field(default=[], max_length=100, description="By these users.")
    action: list[AuditAction] = Field(default=[], max_length=100)
    subject: Name | None = Field(default=None, description="Such as `job 4711`, `study 1.2.3`, `destination vna1`.")
    cursor: Cursor | None = None
    limit: Limit = 50


class AuditEventOut(BaseModel):
    """One entry: who did what, to what, when and why."""

    event_id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str


class AuditOut(BaseModel):
    """Entries, newest first."""

    items: list[AuditEventOut]
    next_cursor: str | None


@router.get("/audit", dependencies=[needs(Right.CONFIGURE)])
def list_audit(ledger: LedgerDep, query: Annotated[AuditQuery, Query()]) -> AuditOut:
    """Say who changed what, overrode a lock, retried or cancelled a job, or looked at a patient; newest first."""
    wanted = AuditFilter(
        actors=query.actor,
        actions=query.action,
        subject=query.subject,
        since=query.since,
        until=query.until,
        before=read_cursor(query.cursor, int),
        limit=query.limit + 1,
    )
    found = audit.page(ledger, wanted)
    shown = found[: query.limit]
    return AuditOut(
        items=[
            AuditEventOut(
                event_id=e.event_id, at=e.at, actor=e.actor, action=e.action, subject=e.subject, detail=e.detail
            )
            for e in shown
        ],
        next_cursor=write_cursor((shown[-1].at, shown[-1].event_id)) if len(found) > len(shown) else None,
    )
