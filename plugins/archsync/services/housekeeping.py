"""What is done from time to time: forgetting what nobody needs any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from archsync.ledger import adt_messages, rejection_notes
from archsync.ledger.database import Ledger

#: How long the content of notes and messages that were delivered can be looked at, in days. It names patients.
KEEP_DAYS = 30


def forget_delivered(ledger: Ledger, *, now: datetime, keep_days: float = KEEP_DAYS) -> int:
    """Forget the content of notes and messages that were delivered, or given up, long ago; gives how many."""
    older_than = now - timedelta(days=keep_days)
    return rejection_notes.purge(ledger, older_than) + adt_messages.purge(ledger, older_than)
