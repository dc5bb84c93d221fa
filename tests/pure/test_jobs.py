"""The table of status changes: complete, closed, and the same as the drawing above it."""

from __future__ import annotations

import pytest

from archsync.core import job as job_module
from archsync.core.job import DONE, TRANSITIONS, UNDONE, JobStatus, may_become

ALL = list(JobStatus)


def test_every_status_has_a_row():
    assert set(TRANSITIONS) == set(ALL)


def test_done_and_undone_share_the_statuses_out():
    assert set(ALL) == DONE | UNDONE
    assert not DONE & UNDONE
    assert {s for s in ALL if s.is_done} == DONE
    assert JobStatus.FAILED in UNDONE, "a failed job blocks its followers, visibly"


def test_what_succeeded_stays_so():
    assert not TRANSITIONS[JobStatus.SUCCEEDED]


@pytest.mark.parametrize("status", sorted(UNDONE))
def test_every_undone_job_can_be_cancelled_and_suppressed(status):
    assert may_become(status, JobStatus.CANCELLED)
    assert may_become(status, JobStatus.SUPPRESSED)


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.SUPPRESSED])
def test_a_cancelled_or_suppressed_job_starts_again_only_by_way_of_waiting(status):
    assert TRANSITIONS[status] == {JobStatus.WAITING}


@pytest.mark.parametrize("status", sorted(set(ALL) - {JobStatus.RUNNING}))
def test_only_a_running_job_can_succeed_or_ask_for_a_retry(status):
    assert not may_become(status, JobStatus.SUCCEEDED)
    assert not may_become(status, JobStatus.RETRYING)


@pytest.mark.parametrize("status", sorted(set(ALL) - {JobStatus.SUCCEEDED}))
def test_from_everywhere_there_is_a_way_to_success(status):
    reached, frontier = {status}, [status]
    while frontier:
        following = TRANSITIONS[frontier.pop()] - reached
        reached |= following
        frontier.extend(following)

    assert JobStatus.SUCCEEDED in reached


def test_the_drawing_shows_every_status():
    drawing = job_module.__doc__ or ""

    assert [status.value for status in ALL if status.value not in drawing] == []
