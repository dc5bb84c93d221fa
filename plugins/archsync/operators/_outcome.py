"""How the outcome of a job's attempt becomes an outcome of Airflow's task: the one translation."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from archsync.core.job import JobStatus
from archsync.services.attempt import Ended


class JobWillRetry(AirflowException):
    """The attempt failed in a way that passes; Airflow runs the next one after ``delay_s`` seconds."""

    def __init__(self, message: str, delay_s: float) -> None:
        super().__init__(message)
        self.delay_s = delay_s


def raise_for(ended: Ended) -> None:
    """Return when the job is done well; otherwise raise what makes Airflow show and do the right thing.

    A job that went back to waiting, or that somebody else works on, ends its run *skipped*: the dispatcher starts
    another run when its turn comes.
    """
    told = f"Job {ended.job_id}: {ended.message}"
    if ended.status is JobStatus.SUCCEEDED:
        return
    if ended.status is JobStatus.RETRYING and ended.retry_delay_s is not None:
        raise JobWillRetry(told, ended.retry_delay_s)
    if ended.status is JobStatus.FAILED and ended.did_run:
        raise AirflowFailException(told)
    raise AirflowSkipException(told)
