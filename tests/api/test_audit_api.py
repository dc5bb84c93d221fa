"""``GET /audit``: who did what, for who may configure."""

from __future__ import annotations

import pytest

from archsync.core.audit import AuditAction
from archsync.ledger import audit

AUDIT = "/archsync/api/v1/audit"


@pytest.fixture
def trail(ledger) -> None:
    for actor, action, subject, detail in [
        ("anna", AuditAction.JOB_CANCEL, "job 1", "sent by hand"),
        ("ben", AuditAction.PATIENT_SHOWN, "study 1.2.3", ""),
        ("anna", AuditAction.DESTINATION_OVERRIDE, "destination vna1", "host; lock overridden: moved"),
    ]:
        audit.record(ledger, actor=actor, action=action, subject=subject, detail=detail)


def test_the_trail_is_read_page_by_page_newest_first(client_of, trail) -> None:
    op = client_of("op")
    first = op.get(AUDIT, params={"limit": 2}).json()
    assert [(e["actor"], e["action"]) for e in first["items"]] == [
        ("anna", "destination.override"),
        ("ben", "patient.shown"),
    ]
    second = op.get(AUDIT, params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert second["next_cursor"] is None
    (event,) = second["items"]
    assert event.pop("at").endswith("Z")
    assert event == {
        "event_id": 1,
        "actor": "anna",
        "action": "job.cancel",
        "subject": "job 1",
        "detail": "sent by hand",
    }


def test_it_is_narrowed_by_who_what_what_to_and_when(client_of, trail) -> None:
    op = client_of("op")

    def found(**wanted) -> list[int]:
        return [e["event_id"] for e in op.get(AUDIT, params=wanted).json()["items"]]

    assert found(actor="anna") == [3, 1]
    assert found(actor=["anna", "ben"], action=["patient.shown", "job.cancel"]) == [2, 1]
    assert found(subject="study 1.2.3") == [2]
    assert found(since="1h") == [3, 2, 1]
    assert found(until="1h") == []


@pytest.mark.parametrize(
    ("wanted", "code"), [({"action": "job.explode"}, "bad-request"), ({"cursor": "x"}, "bad-cursor")]
)
def test_what_is_not_understood_is_refused(client_of, trail, wanted, code) -> None:
    answer = client_of("op").get(AUDIT, params=wanted)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
