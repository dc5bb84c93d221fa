"""The audit trail: by any filter, newest first, page by page, and answered by an index however long it grows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

from archsync.core.audit import AuditAction
from archsync.core.job import FAR_FUTURE
from archsync.ledger import audit
from archsync.ledger.audit import AuditFilter

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def trail(ledger, sql) -> None:
    """Six events, two of them at the same moment."""
    for minute, actor, action, subject in [
        (0, "anna", AuditAction.JOB_RETRY, "job 1"),
        (1, "ben", AuditAction.JOB_CANCEL, "job 1"),
        (1, "anna", AuditAction.PATIENT_SHOWN, "study 1.2.3"),
        (2, "ben", AuditAction.DESTINATION_OVERRIDE, "destination vna1"),
        (3, "anna", AuditAction.JOB_RETRY, "job 11"),
        (4, "carl", AuditAction.JOB_SHOW_PHI, "job 1"),
    ]:
        audit.record(ledger, actor=actor, action=action, subject=subject, detail=f"minute {minute}")
        sql(
            "update audit_event set at = %s where audit_event_id = (select max(audit_event_id) from audit_event)",
            NOON + timedelta(minutes=minute),
        )


def ids(ledger, **wanted) -> list[int]:
    return [event.event_id for event in audit.page(ledger, AuditFilter(**wanted))]


def test_an_event_is_read_as_it_was_recorded(ledger, trail) -> None:
    (event,) = audit.page(ledger, AuditFilter(actions=[AuditAction.DESTINATION_OVERRIDE]))
    assert (event.event_id, event.at, event.actor) == (4, NOON + timedelta(minutes=2), "ben")
    assert (event.action, event.subject, event.detail) == ("destination.override", "destination vna1", "minute 2")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"actors": ["anna"]}, [5, 3, 1]),
        ({"actors": ["anna", "carl"]}, [6, 5, 3, 1]),
        ({"actors": ["ann"]}, []),
        ({"actions": [AuditAction.PATIENT_SHOWN, AuditAction.JOB_SHOW_PHI]}, [6, 3]),
        ({"subject": "job 1"}, [6, 2, 1]),
        ({"since": NOON + timedelta(minutes=1)}, [6, 5, 4, 3, 2]),
        ({"until": NOON + timedelta(minutes=1)}, [1]),
        ({"since": NOON + timedelta(minutes=1), "until": NOON + timedelta(minutes=2)}, [3, 2]),
        ({"actors": ["anna"], "actions": [AuditAction.JOB_RETRY], "subject": "job 1"}, [1]),
        ({"before_event_id": 3}, [2, 1]),
        ({"before_event_id": 4, "until": NOON + timedelta(minutes=1)}, [1]),
        ({"before_event_id": 99}, []),
        ({"limit": 2}, [6, 5]),
    ],
)
def test_events_are_found_by_who_what_what_to_and_when(ledger, trail, wanted, found) -> None:
    assert ids(ledger, **wanted) == found


def test_pages_leave_out_and_repeat_nothing_whether_by_place_or_by_number(ledger, trail) -> None:
    by_place, by_number, place, number = [], [], None, None
    while page := audit.page(ledger, AuditFilter(before=place, limit=1)):
        by_place += [event.event_id for event in page]
        place = (page[-1].at, page[-1].event_id)
    while page := audit.page(ledger, AuditFilter(before_event_id=number, limit=1)):
        by_number += [event.event_id for event in page]
        number = page[-1].event_id
    assert by_place == by_number == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({}, "audit_event_newest"),
        ({"actors": ["rare"]}, "audit_event_actor"),
        ({"actions": ["destination.override"]}, "audit_event_action"),
        ({"subject": "job 7"}, "audit_event_subject"),
    ],
)
def test_each_filter_is_answered_by_an_index(ledger_dsn, sql, wanted, index) -> None:
    sql(
        "insert into audit_event (at, actor, action, subject) select now() - n * interval '1 minute',"
        " case when n %% 5000 = 0 then 'rare' else 'anna' end,"
        " case when n %% 5000 = 1 then 'destination.override' else 'job.retry' end, 'job ' || n"
        " from generate_series(1, 20000) n"
    )
    sql("analyze audit_event")
    parameters = {
        "actors": None, "actions": None, "subject": None, "since": NOON - timedelta(days=36500),
        "before_at": FAR_FUTURE, "before_event_id": 0, "limit": 51, **wanted,
    }  # fmt: skip
    with psycopg.connect(ledger_dsn, row_factory=dict_row) as connection:
        rows = connection.execute("explain " + audit.SQL["page"], parameters).fetchall()
    plan = "\n".join(row["QUERY PLAN"] for row in rows)
    assert index in plan, plan
