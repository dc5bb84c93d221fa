"""What is done to jobs: retry, cancel, move to the front; to those named, or to all that a filter matches."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from archsync.api.access import Actor, CurrentUser, Right, guarded_router, is_granted, needs
from archsync.api.fields import JobId, Text
from archsync.api.links import dag_of
from archsync.api.models_jobs import JobQuery
from archsync.api.pages import Cursor, read_cursor, write_cursor
from archsync.api.sites import LedgerDep, Now
from archsync.core.job import Job
from archsync.errors import InvalidInput
from archsync.ledger import jobs
from archsync.services.job_actions import (
    Acted,
    JobAction,
    Objection,
    Skipped,
    act_on,
    act_on_matching,
    check_reason,
    matching,
    may,
)

router = guarded_router("jobs")


class ActionIn(BaseModel):
    """What to do, and to which jobs: either `job_ids` or `filter`."""

    model_config = ConfigDict(extra="forbid")

    action: JobAction
    reason: Text = Field(default="", description="Why; a cancellation needs one. No patient data.")
    job_ids: list[JobId] | None = Field(default=None, min_length=1, max_length=1000)
    filter: JobQuery | None = Field(
        default=None,
        description="Without `status`: failed jobs are retried, undone ones cancelled, waiting ones moved.",
    )
    expected: int | None = Field(
        default=None, ge=0, le=2**31, description="With `filter`: refuse if more jobs match than were confirmed."
    )
    cursor: Cursor | None = Field(default=None, description="With `filter`: go on where the last batch ended.")
    dry_run: bool = Field(default=False, description="Only count.")

    @model_validator(mode="after")
    def _names_jobs_one_way(self) -> Self:
        if (self.job_ids is None) == (self.filter is None):
            raise ValueError("give either job_ids or filter")
        return self


class SkippedOut(BaseModel):
    """A job to which it was not done, and why."""

    job_id: int
    code: str
    detail: str


class ActionOut(BaseModel):
    """What became of it."""

    matching: int | None = Field(default=None, description="Of a dry run: how many jobs it would be tried on.")
    done: int = 0
    skipped: list[SkippedOut] = Field(default=[], description="At most 1000.")
    remaining: int = Field(default=0, description="How many are left: ask again, with `cursor`.")
    next_cursor: str | None = None


@router.post(
    "/jobs/actions",
    dependencies=[needs(Right.OPERATE)],
    responses={409: {"description": "More jobs match than were expected."}},
)
def act(ledger: LedgerDep, now: Now, user: CurrentUser, actor: Actor, asked: ActionIn) -> ActionOut:
    """Retry, cancel or move to the front, at most 1000 jobs at a time; asking again does nothing twice.

    With `filter`, repeat with `cursor` = `next_cursor` while that is not null. Each job is judged by itself: those that
    the action does not fit, or whose DAG you may not change, are named in `skipped`.
    """
    reason = check_reason(asked.action, asked.reason) if not asked.dry_run else ""
    object_to = _objection_of(user)
    if asked.job_ids is not None:
        job_ids = list(dict.fromkeys(asked.job_ids))
        if asked.dry_run:
            found = [item.job for item in jobs.listed(ledger, job_ids)]
            return ActionOut(matching=sum(may(asked.action, job) for job in found))
        return _out(act_on(ledger, asked.action, job_ids, actor=actor, reason=reason, now=now, object_to=object_to))
    assert asked.filter is not None, "the model asks for one of them"
    wanted = replace(asked.filter.as_filter(), before=read_cursor(asked.cursor, int))
    if asked.dry_run:
        return ActionOut(matching=matching(ledger, asked.action, wanted))
    if asked.expected is not None and asked.cursor is None:
        _check_expected(asked.expected, matching(ledger, asked.action, wanted))
    acted = act_on_matching(ledger, asked.action, wanted, actor=actor, reason=reason, now=now, object_to=object_to)
    out = _out(acted)
    if acted.resume is not None:
        out.next_cursor = write_cursor(acted.resume)
        rest = replace(wanted, until=min(filter(None, (wanted.until, acted.resume[0]))))
        out.remaining = max(1, matching(ledger, asked.action, rest))
    return out


def _check_expected(expected: int, found: int) -> None:
    if found > expected:
        raise InvalidInput(
            f"{found} jobs match by now, {expected} were confirmed",
            code="more-than-expected",
            next_step="Look at the list again, then confirm the new number.",
        )


def _objection_of(user: CurrentUser) -> Objection:
    """Whether the user may change runs of a job's DAG; asked once for each DAG."""
    granted: dict[str, bool] = {}

    def object_to(job: Job) -> Skipped | None:
        dag = dag_of(job)
        if dag not in granted:
            granted[dag] = is_granted(user, Right.OPERATE, dag_id=dag)
        return None if granted[dag] else Skipped(job.job_id, "no-right", f"you may not change runs of {dag}")

    return object_to


def _out(acted: Acted) -> ActionOut:
    return ActionOut(
        done=len(acted.done),
        skipped=[SkippedOut(job_id=s.job_id, code=s.code, detail=s.detail) for s in acted.skipped],
    )
