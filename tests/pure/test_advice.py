"""The next step that is shown with a job."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import pytest

from archsync.core.job import Job, JobStatus
from archsync.messages.hl7_ack import ACK_TABLE, AckResult
from archsync.services.advice import SUPPRESSED, next_step

NOTHING = "Nothing to do."
GENERAL = "Correct the cause that the reason names, then `archsync jobs retry 7`."


def step(status: JobStatus, code: str) -> str:
    needed: dict[str, Any] = {f.name: None for f in fields(Job) if f.default is MISSING}
    job = Job(**{**needed, "job_id": 7, "destination": "vna1", "status": status, "reason_code": code})
    return next_step(job, wait_reason=None, blocked_by=None)


@pytest.mark.parametrize("code", SUPPRESSED)
def test_a_job_that_a_rule_suppressed_names_what_would_have_it_sent(code: str) -> None:
    said = step(JobStatus.SUPPRESSED, code)
    assert "it is planned again" in said
    assert "vna1" in said
    assert "{" not in said


def test_what_never_went_there_needs_nothing() -> None:
    assert step(JobStatus.SUPPRESSED, "iocm-never-archived") == NOTHING


@pytest.mark.parametrize("row", [row for row in ACK_TABLE if row.result in (AckResult.REFUSED, AckResult.STOP)])
def test_a_message_that_was_refused_gets_the_advice_of_its_answer(row) -> None:
    assert step(JobStatus.FAILED, row.code) == row.next_step


@pytest.mark.parametrize(
    "code",
    ["adt-identifier-swap", "adt-identifier-taken", "adt-identifier-shared", "adt-other-authority",
     "identifier-taken", "identifier-retired", "hl7-character-set", "adt-not-configured", "withdraw-by-hand"],
)  # fmt: skip
def test_what_an_operator_has_to_decide_is_said_with_the_job(code: str) -> None:
    said = step(JobStatus.FAILED, code)
    assert said != GENERAL
    assert "job" in said
    assert "{" not in said


def test_any_other_failure_points_at_its_reason() -> None:
    assert step(JobStatus.FAILED, "something-new") == GENERAL
