"""The overview's hours, and how the memory of them keeps to what was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.destination import Destination
from archsync.core.job import JobStatus
from archsync.ledger import destinations, overview
from archsync.ledger.database import Ledger
from archsync.services.overview import HourMemory

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


@pytest.fixture
def ledger(ledger_dsn: str):
    with Ledger(ledger_dsn) as opened:
        destinations.insert(opened, Destination(name="vna", called_ae_title="VNA", host="h", port=104))
        yield opened


def end_job(ledger: Ledger, ended_at: datetime) -> None:
    ledger.execute(
        "insert into job (job_type, status, destination_id, priority, patient_key, created_at, finished_at)"
        " values ('archive', 'succeeded', 1, 2, 'p', %s, %s)",
        [ended_at, ended_at],
    )


def counts(hours) -> dict[datetime, int]:
    return {hour.started_at: hour.ended[JobStatus.SUCCEEDED] for hour in hours if hour.ended}


def test_hours_that_are_over_are_counted_once(ledger, monkeypatch) -> None:
    asked: list[datetime] = []
    count = overview.finished_per_hour

    def remembering(of: Ledger, since: datetime):
        asked.append(since)
        return count(of, since)

    monkeypatch.setattr(overview, "finished_per_hour", remembering)
    memory = HourMemory()
    this_hour, last_hour = NOW.replace(minute=0), NOW.replace(minute=0) - timedelta(hours=1)
    end_job(ledger, last_hour)
    assert counts(memory.read(ledger, now=NOW)) == {last_hour: 1}
    end_job(ledger, this_hour)
    assert counts(memory.read(ledger, now=NOW)) == {last_hour: 1, this_hour: 1}
    assert asked == [this_hour - timedelta(hours=47), this_hour]


def test_an_hour_that_just_ended_is_counted_again_for_those_who_commit_late(ledger) -> None:
    memory = HourMemory()
    ended = NOW.replace(minute=0)
    just_after = ended + timedelta(hours=1, minutes=1)
    memory.read(ledger, now=just_after)
    end_job(ledger, just_after - timedelta(minutes=2))
    assert counts(memory.read(ledger, now=just_after)) == {ended: 1}


def test_the_window_moves_on_and_each_ledger_has_its_own_memory(ledger, empty_dsn) -> None:
    from archsync.ledger.migrate import migrate

    memory = HourMemory()
    end_job(ledger, NOW)
    memory.read(ledger, now=NOW)
    days_later = memory.read(ledger, now=NOW + timedelta(days=3))
    assert (len(days_later), counts(days_later)) == (48, {})
    migrate(empty_dsn)
    with Ledger(empty_dsn) as other:
        assert counts(memory.read(other, now=NOW)) == {}
    assert counts(memory.read(ledger, now=NOW)) == {NOW.replace(minute=0): 1}
