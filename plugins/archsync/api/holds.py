"""The studies that administrators hold back."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from archsync.api.access import Right, guarded_router, needs
from archsync.api.pages import Cursor, Limit, read_cursor, write_cursor
from archsync.api.sites import LedgerDep
from archsync.ledger import holds

router = guarded_router("holds")


class StudyHoldOut(BaseModel):
    """A study that is held back here."""

    study_instance_uid: str
    held_by: str
    held_at: datetime
    reason: str


class HoldsOut(BaseModel):
    """Holds, newest first."""

    items: list[StudyHoldOut]
    next_cursor: str | None


@router.get("/holds", dependencies=[needs(Right.READ)])
def list_holds(ledger: LedgerDep, cursor: Cursor | None = None, limit: Limit = 50) -> HoldsOut:
    """List the studies that are held back here, newest first. Those that the platform holds are not among them."""
    found = holds.page(ledger, after=read_cursor(cursor, str), limit=limit + 1)
    page, last = found[:limit], found[limit - 1] if len(found) > limit else None
    return HoldsOut(
        items=[
            StudyHoldOut(study_instance_uid=h.study_instance_uid, held_by=h.held_by, held_at=h.held_at, reason=h.reason)
            for h in page
        ],
        next_cursor=write_cursor((last.held_at, last.study_key)) if last else None,
    )
