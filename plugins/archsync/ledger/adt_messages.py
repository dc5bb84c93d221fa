"""ADT messages: stored complete before they are first sent, and sent again as they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import date, datetime

from archsync.core.adt import MergeTrigger
from archsync.core.identity import HeldPatient
from archsync.core.study import Patient
from archsync.ledger.database import Ledger, Row
from archsync.ledger.queries import load

SQL = load("adt_messages")


@dataclass(frozen=True, slots=True)
class AdtMessage:
    """A message and what became of it. The patient's columns are what the archive knows once it acknowledged.

    ``unanswered`` counts the sendings that got no valid answer: above zero, it may have been applied. ``encoded`` is
    None after :func:`purge`. ``prior_patient_id`` and its issuer are the identifier that it ends; None: it ends none.
    """

    message_id: int
    job_id: int
    trigger_event: str
    control_id: str
    patient_key: str
    prior_patient_key: str | None
    built_at: datetime
    first_sent_at: datetime | None
    unanswered: int
    acknowledged_at: datetime | None
    ack_code: str | None
    encoded: bytes | None = field(repr=False)
    prior_patient_id: str | None = field(repr=False)
    prior_issuer_of_patient_id: str | None = field(repr=False)
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str | None = field(repr=False)
    name: str = field(repr=False)
    birth_date: date | None = field(repr=False)
    sex: str | None = field(repr=False)

    @property
    def known_after(self) -> HeldPatient:
        """How the archive knows the patient once it acknowledged."""
        return HeldPatient(
            self.patient_key, self.patient_id, self.issuer_of_patient_id, self.name, self.birth_date, self.sex
        )

    @property
    def retires(self) -> HeldPatient | None:
        """Whose identifier an archive may keep for the patient who stays; None: it ends none, or changes it (A47)."""
        if self.prior_patient_id is None or self.trigger_event == MergeTrigger.A47:
            return None
        prior_key = self.prior_patient_key or self.patient_key
        return HeldPatient(prior_key, self.prior_patient_id, self.prior_issuer_of_patient_id)


_COLUMNS = [f.name for f in fields(AdtMessage)]


def _from_row(row: Row) -> AdtMessage:
    values = {name: row[name] for name in _COLUMNS}
    if values["encoded"] is not None:
        values["encoded"] = bytes(values["encoded"])
    return AdtMessage(**values)


def unsaid(ledger: Ledger, job_id: int) -> AdtMessage | None:
    """The message of a job that was not acknowledged."""
    row = ledger.fetch_one(SQL["unsaid"], {"job_id": job_id})
    return _from_row(row) if row else None


def in_doubt(ledger: Ledger, job_id: int, *, destination_id: int, patient_keys: Collection[str]) -> AdtMessage | None:
    """The oldest message about these patients that may have been applied there: the job's, or a superseded one's."""
    wanted = {"job_id": job_id, "destination_id": destination_id, "patient_keys": list(patient_keys)}
    row = ledger.fetch_one(SQL["in_doubt"], wanted)
    return _from_row(row) if row else None


def insert(
    ledger: Ledger,
    job_id: int,
    encoded: bytes,
    *,
    trigger_event: str,
    control_id: str,
    known_after: HeldPatient,
    prior_patient_key: str | None,
    prior: Patient | None,
    built_at: datetime,
) -> AdtMessage:
    """Store a message, before it is first sent."""
    row = ledger.fetch_one(
        SQL["insert"],
        {
            "job_id": job_id,
            "trigger_event": trigger_event,
            "control_id": control_id,
            "encoded": encoded,
            "patient_key": known_after.patient_key,
            "prior_patient_key": prior_patient_key,
            "prior_patient_id": prior.patient_id if prior else None,
            "prior_issuer_of_patient_id": prior.issuer_of_patient_id if prior else None,
            "patient_id": known_after.patient_id,
            "issuer_of_patient_id": known_after.issuer_of_patient_id,
            "name": known_after.name,
            "birth_date": known_after.birth_date,
            "sex": known_after.sex,
            "built_at": built_at,
        },
    )
    assert row is not None, "insert … returning gives a row"
    return _from_row(row)


def discard(ledger: Ledger, message_id: int) -> None:
    """Forget a message that was never sent; one that was stays."""
    ledger.execute(SQL["discard"], {"message_id": message_id})


def mark_sending(ledger: Ledger, message_id: int) -> None:
    """The message is about to be sent; until an answer is recorded, it may have been applied."""
    ledger.execute(SQL["mark_sending"], {"message_id": message_id})


def mark_busy(ledger: Ledger, message_id: int) -> None:
    """This sending was answered, and not applied."""
    ledger.execute(SQL["mark_busy"], {"message_id": message_id})


def mark_refused(ledger: Ledger, message_id: int) -> None:
    """The receiver refuses the message as it stands: it was not applied by any sending."""
    ledger.execute(SQL["mark_refused"], {"message_id": message_id})


def acknowledge(ledger: Ledger, message_id: int, *, ack_code: str) -> None:
    """The receiver took the message."""
    ledger.execute(SQL["acknowledge"], {"message_id": message_id, "ack_code": ack_code})


def of_job(ledger: Ledger, job_id: int) -> list[AdtMessage]:
    """The messages of a job, oldest first: mostly one."""
    return [_from_row(row) for row in ledger.fetch_all(SQL["of_job"], {"job_id": job_id})]


def facility_id(ledger: Ledger, destination_id: int, patient_key: str) -> str | None:
    """The facility of the latest job on a study that was filed under a patient; None: there was none."""
    row = ledger.fetch_one(SQL["facility"], {"destination_id": destination_id, "patient_key": patient_key})
    return row["facility_id"] if row else None


def purge(ledger: Ledger, older_than: datetime) -> int:
    """Forget the content of messages acknowledged, or given up, before ``older_than``; returns how many.

    Their marks stay. A message given up is one that its job, done by now, left behind: refused, or cancelled with it.
    """
    return ledger.execute(SQL["purge"], {"older_than": older_than})
