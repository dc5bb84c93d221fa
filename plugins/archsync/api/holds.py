"""The studies that administrators hold back."""

from __future__ import annotations

import base64
import json
from datetime import datetime

from pydantic import BaseModel

from archsync.api.access import Right, guarded_router, needs
from archsync.api.pages import Cursor, Limit
from archsync.api.sites import LedgerDep
from archsync.errors import InvalidInput
from archsync.ledger import holds
from archsync.ledger.holds import StudyHold

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
    found = holds.page(ledger, after=_read_cursor(cursor), limit=limit + 1)
    page, last = found[:limit], found[limit - 1] if len(found) > limit else None
    return HoldsOut(
        items=[
            StudyHoldOut(study_instance_uid=h.study_instance_uid, held_by=h.held_by, held_at=h.held_at, reason=h.reason)
            for h in page
        ],
        next_cursor=_write_cursor(last) if last else None,
    )


def _write_cursor(hold: StudyHold) -> str:
    return base64.urlsafe_b64encode(json.dumps([hold.held_at.isoformat(), hold.study_key]).encode()).decode()


def _read_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    try:
        at, study_key = json.loads(base64.urlsafe_b64decode(cursor))
        held_at = datetime.fromisoformat(at)
        if held_at.tzinfo is None or not isinstance(study_key, str) or "\0" in study_key:
            raise ValueError(cursor)
    except (ValueError, TypeError):
        raise InvalidInput(
            "the cursor is none that archsync gave out", code="bad-cursor", next_step="Begin with the first page."
        ) from None
    return held_at, study_key
