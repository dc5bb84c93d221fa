"""The trigger that wakes the dispatcher, against two real databases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from archsync.core.destination import Destination
from archsync.ledger import destinations, plan_queue
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services import planner
from archsync.simulate.platform import SimulatedPlatform
from archsync.triggers.work import WorkTrigger


@pytest.fixture
def connections(ledger_dsn: str, platform_dsn: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", ledger_dsn.replace("postgresql://", "postgres://"))
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", platform_dsn.replace("postgresql://", "postgres://"))
    return ledger_dsn, platform_dsn


def settle(ledger_dsn: str, platform_dsn: str) -> None:
    """Have nothing to do: the platform is read, nothing is queued."""
    with Ledger(ledger_dsn) as ledger, Platform.from_dsn(platform_dsn) as platform:
        planner.observe(platform, ledger)
        plan_queue.take(ledger, 1000)


@contextlib.asynccontextmanager
async def running(trigger: WorkTrigger) -> AsyncIterator[asyncio.Queue[object]]:
    """Run a trigger as the triggerer does; its events come through the queue."""
    events: asyncio.Queue[object] = asyncio.Queue()

    async def pump() -> None:
        async for event in trigger.run():
            await events.put(event)

    task = asyncio.create_task(pump())
    try:
        yield events
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def fires(connections: tuple[str, str], act, *, resync_s: float, within_s: float = 20.0) -> bool:
    """Tell whether the trigger fires after ``act``, having been quiet before."""

    async def main() -> bool:
        async with running(WorkTrigger(resync_s=resync_s)) as events:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(events.get(), 1.0)
            await asyncio.to_thread(act)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(events.get(), within_s)
                return True
            return False

    return asyncio.run(main())


def test_it_can_be_stored_and_made_again() -> None:
    path, arguments = WorkTrigger(ledger_conn_id="a", platform_conn_id="b", resync_s=3).serialize()
    assert path == "archsync.triggers.work.WorkTrigger"
    assert WorkTrigger(**arguments).serialize() == (path, arguments)


def test_a_committed_change_on_the_platform_wakes_it_long_before_the_resync(
    connections: tuple[str, str], tmp_path: Path, airflow_db
) -> None:
    ledger_dsn, platform_dsn = connections
    platform = SimulatedPlatform(platform_dsn, tmp_path, slices=2, matrix=16)
    platform.install()
    study = platform.add_volume()
    settle(ledger_dsn, platform_dsn)
    assert fires(connections, lambda: platform.set_status(study, "Completed"), resync_s=3600)


def test_a_change_without_notification_is_found_by_the_resync(
    connections: tuple[str, str], tmp_path: Path, airflow_db
) -> None:
    ledger_dsn, platform_dsn = connections
    platform = SimulatedPlatform(platform_dsn, tmp_path, slices=2, matrix=16)
    platform.install()
    study = platform.add_volume()
    with psycopg.connect(platform_dsn, autocommit=True) as connection:
        triggers = connection.execute(
            "select tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal and tgname like '%notif%'"
        ).fetchall()
        assert triggers
        for name, table in triggers:
            connection.execute(f"drop trigger {name} on {table}")
    settle(ledger_dsn, platform_dsn)
    assert fires(connections, lambda: platform.set_status(study, "Completed"), resync_s=1)


def test_a_queued_study_in_the_ledger_wakes_it(connections: tuple[str, str], airflow_db) -> None:
    settle(*connections)

    def queue() -> None:
        with Ledger(connections[0]) as ledger:
            plan_queue.queue(ledger, ["1"])

    assert fires(connections, queue, resync_s=3600)


def test_a_job_that_waits_for_a_disabled_destination_does_not_wake_it(connections: tuple[str, str], airflow_db) -> None:
    settle(*connections)

    def add_job() -> None:
        with Ledger(connections[0]) as ledger:
            made = destinations.insert(
                ledger, Destination(name="off", called_ae_title="OFF", host="h", port=104, enabled=False)
            )
            ledger.execute(
                "insert into job (job_type, destination_id, priority, patient_key, study_key) values"
                " ('archive', %s, 2, 'p', 's')",
                [made.destination_id],
            )

    assert not fires(connections, add_job, resync_s=0.5, within_s=3.0)


def test_it_survives_the_loss_of_its_connections(connections: tuple[str, str], airflow_db) -> None:
    settle(*connections)

    def cut_and_queue() -> None:
        with psycopg.connect(connections[0], autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'archsync%' and pid <> pg_backend_pid()"
            )
        with Ledger(connections[0]) as ledger:
            plan_queue.queue(ledger, ["1"])

    assert fires(connections, cut_and_queue, resync_s=3600)
