"""The overview through the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from archsync.core.naming import DagKind
from archsync.core.retry import Health
from archsync.ledger import destinations

API = "/archsync/api/v1"


def add_job(ledger, destination, status: str, *, made_at: datetime, ended_at: datetime | None = None) -> None:
    ledger.execute(
        "insert into job (job_type, status, destination_id, priority, patient_key, created_at, finished_at)"
        " values ('archive', %s, %s, 2, 'p', %s, %s)",
        [status, destination.destination_id, made_at, ended_at],
    )


def test_an_empty_ledger_has_48_empty_hours(client_of) -> None:
    overview = client_of("viewer").get(f"{API}/overview").json()
    assert len(overview["jobs_per_hour"]) == 48
    assert all(hour["counts"] == {} and hour["made"] == 0 for hour in overview["jobs_per_hour"])
    assert (overview["backlog"], overview["outages"]) == ([], [])
    assert overview["totals"] == {"waiting": 0, "ready": 0, "running": 0, "retrying": 0, "failed": 0}


def test_the_overview_tells_what_went_on_what_is_left_and_who_is_down(admin, ledger, add_destination) -> None:
    now = datetime.now(UTC)
    vna = add_destination("vna1", adt_host="h", adt_receiving_application="R")
    add_destination("vna2")
    for ago in (0, 5, 47, 60):
        moment = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=ago)
        add_job(ledger, vna, "succeeded", made_at=moment, ended_at=moment)
    add_job(ledger, vna, "failed", made_at=now - timedelta(hours=9), ended_at=now)
    waiting_since = now - timedelta(hours=6)
    add_job(ledger, vna, "waiting", made_at=waiting_since)
    add_job(ledger, vna, "retrying", made_at=now)
    down = Health(3, now - timedelta(minutes=5), now, "connection-refused", "No service listens there")
    destinations.set_health(ledger, vna.destination_id, DagKind.ARCHIVE, down)

    overview = admin.get(f"{API}/overview").json()
    hours = overview["jobs_per_hour"]
    assert datetime.fromisoformat(hours[-1]["hour"]) == now.replace(minute=0, second=0, microsecond=0)
    assert sum(hour["counts"].get("succeeded", 0) for hour in hours) == 3
    assert hours[0]["counts"] == {"succeeded": 1}
    assert hours[-1]["counts"]["failed"] == 1
    assert sum(hour["made"] for hour in hours) == 6
    assert [(b["destination"], b["waiting"], b["failed"]) for b in overview["backlog"]] == [
        ("vna1", 2, 1),
        ("vna2", 0, 0),
    ]
    assert datetime.fromisoformat(overview["backlog"][0]["oldest_waiting_at"]) == waiting_since
    (outage,) = overview["outages"]
    assert (outage["destination"], outage["kind"], outage["reason_code"]) == ("vna1", "archive", "connection-refused")
    assert overview["totals"] == {"waiting": 1, "ready": 0, "running": 0, "retrying": 1, "failed": 1}
