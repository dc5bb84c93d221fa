"""Rejection notes: kept encoded from before they are first sent, so that a resend is the same to the byte."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import datetime

from archsync.core.rejection import NoteIdentity, RejectionTitle
from archsync.ledger.database import Ledger, Row
from archsync.ledger.queries import load

SQL = load("rejection_notes")


@dataclass(frozen=True, slots=True)
class Note:
    """A note without its bytes. ``instances`` counts what it names."""

    note_id: int
    sop_instance_uid: str
    title: RejectionTitle
    instances: int


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """All that is known of a note. ``encoded`` is None once it was purged; ``abandoned_at``: it was given up."""

    note_id: int
    job_id: int
    study_instance_uid: str
    sop_instance_uid: str
    title: RejectionTitle
    scope: int
    part: int
    instances: int
    built_at: datetime
    sent_at: datetime | None
    stored_at: datetime | None
    store_status: int | None
    abandoned_at: datetime | None
    encoded: bytes | None = field(repr=False)


_RECORD_COLUMNS = [f.name for f in fields(NoteRecord)]


def insert(
    ledger: Ledger,
    *,
    job_id: int,
    destination_id: int,
    study_key: str,
    study_instance_uid: str,
    identity: NoteIdentity,
    title: RejectionTitle,
    instances: int,
    encoded: bytes,
) -> int:
    """Keep a note that a job built, before it is first sent; gives its number."""
    row = ledger.fetch_one(
        SQL["insert"],
        {
            "job_id": job_id,
            "destination_id": destination_id,
            "study_key": study_key,
            "study_instance_uid": study_instance_uid,
            "sop_instance_uid": identity.sop_instance_uid,
            "title": title.value,
            "scope": identity.scope,
            "part": identity.part,
            "instances": instances,
            "encoded": encoded,
        },
    )
    assert row is not None, "insert … returning gives a row"
    return int(row["note_id"])


def open_notes(ledger: Ledger, destination_id: int, study_key: str) -> list[Note]:
    """The notes about a study that a destination has not taken yet, whichever job built them, oldest first."""
    wanted = {"destination_id": destination_id, "study_key": study_key}
    return [_note(row) for row in ledger.fetch_all(SQL["open"], wanted)]


def stored_by(ledger: Ledger, job_id: int, note_ids: Collection[int]) -> list[Note]:
    """Which of some notes a destination took while a job worked on their study, in all its attempts."""
    wanted = {"job_id": job_id, "note_ids": list(note_ids)}
    return [_note(row) for row in ledger.fetch_all(SQL["stored_by"], wanted)]


def records(ledger: Ledger, job_ids: Collection[int]) -> list[NoteRecord]:
    """The notes that some jobs built, by job, oldest first, for somebody who looks at them."""
    found = []
    for row in ledger.fetch_all(SQL["records"], {"job_ids": list(job_ids)}):
        values = {name: row[name] for name in _RECORD_COLUMNS}
        values["title"] = RejectionTitle(row["title"])
        values["encoded"] = None if row["encoded"] is None else bytes(row["encoded"])
        found.append(NoteRecord(**values))
    return found


def encoded(ledger: Ledger, note_id: int) -> bytes:
    """The bytes of a note that was not purged: a file (PS3.10)."""
    row = ledger.fetch_one(SQL["encoded"], {"note_id": note_id})
    assert row is not None, "notes are never deleted"
    assert row["encoded"] is not None, "only notes that are done are purged"
    return bytes(row["encoded"])


def last_scope(ledger: Ledger, job_id: int) -> int:
    """The highest scope of the notes that a job built, 0 if it built none."""
    row = ledger.fetch_one(SQL["last_scope"], {"job_id": job_id})
    return int(row["scope"]) if row else 0


def mark_sent(ledger: Ledger, note_id: int) -> None:
    """Record that a note is about to be sent."""
    ledger.execute(SQL["mark_sent"], {"note_id": note_id})


def mark_stored(ledger: Ledger, note_id: int, *, store_status: int) -> None:
    """Record that the destination took a note: what it names counts as hidden there."""
    ledger.execute(SQL["mark_stored"], {"note_id": note_id, "store_status": store_status})


def reopen(ledger: Ledger, note_id: int) -> None:
    """Take back that a note was taken: the destination goes on showing what it names."""
    ledger.execute(SQL["reopen"], {"note_id": note_id})


def abandon(ledger: Ledger, note_id: int, *, store_status: int | None) -> None:
    """Give up a note that the destination refused. What it names has to be released with it."""
    ledger.execute(SQL["abandon"], {"note_id": note_id, "store_status": store_status})


def purge(ledger: Ledger, older_than: datetime) -> int:
    """Forget the bytes of notes that were taken or given up before a moment; gives how many."""
    return ledger.execute(SQL["purge"], {"older_than": older_than})


def _note(row: Row) -> Note:
    return Note(row["note_id"], row["sop_instance_uid"], RejectionTitle(row["title"]), row["instances"])
