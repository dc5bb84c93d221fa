"""Attempts of a kos job that die, or are cancelled, in between: nothing is lost and nothing doubled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from archsync.core.job import JobStatus
from archsync.ledger import rejection_notes
from archsync.services import job_control
from archsync.services import rejection as rejection_service
from archsync.services.housekeeping import KEEP_DAYS, forget_delivered
from archsync.simulate.archive import Rudeness


class _Died(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("where", "when"),
    [
        ("build_rejection_note", "before"),
        ("insert", "before"),
        ("claim", "before"),
        ("claim", "after"),
        ("mark_sent", "after"),
        ("store_instances", "after"),
        ("mark_stored", "before"),
        ("mark_stored", "after"),
        ("list_for_check", "before"),
    ],
)
def test_an_attempt_that_dies_loses_and_doubles_nothing(ws, monkeypatch, where, when):
    from archsync.ledger import holdings
    from archsync.services import note_building, note_sending

    study_key, job_id = ws.removed(3, max_note_references=1)
    ws.pacs.remove_instances(study_key, 1)
    module = {
        "build_rejection_note": note_building,
        "insert": rejection_notes,
        "claim": holdings,
        "mark_sent": rejection_notes,
        "store_instances": note_sending,
        "mark_stored": rejection_notes,
        "list_for_check": rejection_service,
    }[where]
    real = getattr(module, where)

    def die(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            result = real(*args, **kwargs)
            if where == "store_instances":
                list(result)
        raise _Died

    with monkeypatch.context() as patch:
        patch.setattr(module, where, die)
        with pytest.raises(_Died):
            ws.run(job_id)
    ws.site.ledger.close()
    with_lease_over(ws.site)

    ended = ws.run(job_id, later_s=3600)

    assert ended.status is JobStatus.SUCCEEDED
    assert ws.is_in_step(study_key)
    assert len(ws.notes()) == 2
    assert len(set(ws.digests())) == 2
    job = ws.site.job(job_id)
    assert job.instances_done == job.instances_total == 2
    assert ws.settle() == []


def with_lease_over(site) -> None:
    """The lease of the dead attempt runs out."""
    site.ledger.execute("update job set lease_until = now() - interval '1 second' where status = 'running'")


def test_a_note_that_another_job_built_is_delivered_first_and_as_it_was(ws):
    study_key, job_id = ws.removed(3)
    ws.archive.behave(Rudeness(answer_every_store=0xA775))
    ws.settle()
    (first,) = rejection_notes.open_notes(ws.site.ledger, ws.site.job(job_id).destination_id, study_key)
    ws.archive.behave()
    ws.pacs.remove_instances(study_key, 1)

    (ended,) = ws.settle()

    assert ended.job_id != job_id
    assert ended.message == "2 instances withdrawn."
    assert ws.notes()[0].SOPInstanceUID == first.sop_instance_uid
    assert len(ws.notes()) == 2
    assert ws.is_in_step(study_key)


def test_the_bytes_of_notes_are_forgotten_in_the_end_and_only_then(ws):
    _, job_id = ws.removed()
    ws.archive.behave(Rudeness(answer_every_store=0xA775))
    ws.settle()
    now = datetime.now(UTC)
    assert rejection_notes.purge(ws.site.ledger, now + timedelta(days=1)) == 0
    ws.archive.behave()
    job_control.retry(ws.site.ledger, job_id, actor="admin", now=datetime.now(UTC))
    ws.settle()

    assert forget_delivered(ws.site.ledger, now=now) == 0
    assert forget_delivered(ws.site.ledger, now=now + timedelta(days=KEEP_DAYS + 1)) == 1
    assert [r.encoded for r in rejection_notes.records(ws.site.ledger, [job_id])] == [None]


def test_a_cancelled_job_stops_before_it_sends(ws, monkeypatch):
    _, job_id = ws.removed()
    real = rejection_service.NoteBuilder.build

    def build_and_be_cancelled(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        job_control.cancel(ws.site.ledger, job_id, actor="admin", reason="no")

    monkeypatch.setattr(rejection_service.NoteBuilder, "build", build_and_be_cancelled)
    ended = ws.run(job_id)

    assert (ended.status, ended.did_run) == (JobStatus.CANCELLED, False)
    assert ws.digests() == []
