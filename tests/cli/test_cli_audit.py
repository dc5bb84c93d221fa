"""``archsync audit``."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsync.core.audit import AuditAction


@pytest.fixture
def trail(run) -> None:
    """What grace and linus did to a destination."""
    make = ("destination", "create", "vna1", "--ae-title", "VNA1", "--host", "h", "--port", "104")
    run("--actor", "grace", *make)
    run("--actor", "linus", "destination", "set", "vna1", "port=105")
    run("--actor", "grace", "destination", "disable", "vna1")
    run("--actor", "grace", "destination", "delete", "vna1", "--yes")


def test_what_was_done_is_listed_newest_first_with_who_did_it(run, run_json, trail) -> None:
    found = run_json("audit")
    assert [(e["actor"], e["action"], e["subject"]) for e in found] == [
        ("grace", "destination.delete", "destination vna1"),
        ("grace", "destination.set", "destination vna1"),
        ("linus", "destination.set", "destination vna1"),
        ("grace", "destination.create", "destination vna1"),
    ]
    assert found[2]["detail"] == "port: 104 → 105"
    assert found[0]["at"].endswith("+00:00")
    lines = run("audit").stdout.splitlines()
    assert lines[0].split() == ["EVENT", "AT", "BY", "ACTION", "SUBJECT", "DETAIL"]
    assert "linus  destination.set" in lines[3]


def test_it_is_narrowed_by_who_what_what_to_and_when(run, run_json, trail) -> None:
    assert [e["action"] for e in run_json("audit", "--by", "linus")] == ["destination.set"]
    assert [e["actor"] for e in run_json("audit", "--action", "destination.set")] == ["grace", "linus"]
    assert len(run_json("audit", "--subject", "destination vna1", "--since", "1h")) == 4
    assert run_json("audit", "--subject", "destination vna") == []
    assert run_json("audit", "--until", "2026-01-01") == []
    assert run("audit", "--by", "nobody").stdout == "No entry matches.\n"


def test_the_next_page_goes_on_where_the_last_one_ended(run, run_json, trail) -> None:
    said = run("audit", "--limit", "3").stdout.splitlines()[-1]
    last = run_json("audit", "--limit", "3")[-1]
    assert said == f"There may be more: --before {last['event_id']} shows the next ones."
    rest = run_json("audit", "--limit", "3", "--before", str(last["event_id"]))
    assert [e["action"] for e in rest] == ["destination.create"]


def test_an_action_that_is_none_is_refused_and_the_known_ones_named(run) -> None:
    said = run("audit", "--action", "job.explode", status=2).stderr
    assert "'job.explode'" in said
    for action in AuditAction:
        assert action.value in said


def test_every_action_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    assert [action for action in AuditAction if f"`{action.value}`" not in page] == []
