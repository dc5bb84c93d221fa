"""What the tasks that work on jobs share: a job of the dispatcher's, or all that is asked for in somebody's own DAG."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from archsync.core.job import Job, JobStatus
from archsync.errors import ArchsyncError, StoreUnavailable
from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger import jobs
from archsync.ledger.database import Ledger
from archsync.operators._outcome import raise_for
from archsync.platformdb.reader import Platform
from archsync.services.attempt import Ended, Run


class RequestJob(Protocol):
    """Finds or makes the next job of what is asked for, due now; None when nothing is left to be done."""

    def __call__(
        self,
        platform: Platform,
        ledger: Ledger,
        /,
        *,
        destination: str,
        study_instance_uid: str,
        requested_by: str,
        now: datetime,
    ) -> int | None:
        """Give the job's number."""


class RunJob(Protocol):
    """Runs one attempt of a job."""

    def __call__(self, ledger: Ledger, platform: Platform, job_id: int, run: Run, /) -> Ended:
        """Tell how it ended."""


class JobOperator(BaseOperator):
    """Works on the job ``job_id``, or asks for one job after the other until nothing is left to be done.

    A subclass says what it asks for, how one such job is run, and how the log tells that nothing is left.
    """

    template_fields: Sequence[str] = ("job_id", "destination", "study_instance_uid")
    request_job: ClassVar[RequestJob]
    run_job: ClassVar[RunJob]
    #: Jobs that one task works on at most; more would mean that they achieve nothing.
    max_jobs: ClassVar[int] = 20
    #: Logged when nothing is left to be done; takes the destination's name.
    nothing_left: ClassVar[str]

    def __init__(
        self,
        *,
        job_id: str | int | None = None,
        destination: str | None = None,
        study_instance_uid: str | None = None,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        platform_conn_id: str = PlatformHook.default_conn_name,
        poke_interval_s: float = 15.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.destination = destination
        self.study_instance_uid = study_instance_uid
        self.ledger_conn_id = ledger_conn_id
        self.platform_conn_id = platform_conn_id
        self.poke_interval_s = poke_interval_s

    def is_well(self, job: Job) -> bool:
        """Tell whether a job that is over ended as it should; one that turned out to be needless did."""
        return job.status is JobStatus.SUCCEEDED or job.reason_code == "nothing-to-do"

    def execute(self, context: Context) -> int | None:
        """Run one attempt of the job, or in your own DAG one of each job that is due."""
        ti = context["ti"]
        run = Run(ti.dag_id, ti.run_id, ti.try_number)
        with (
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            PlatformHook(self.platform_conn_id).get_platform() as platform,
        ):
            if self.job_id is not None:
                return self._work_on(ledger, platform, self._job_number(), run)
            return self._ask_and_wait(ledger, platform, run)

    def _job_number(self) -> int:
        try:
            return int(str(self.job_id))
        except ValueError:
            raise AirflowFailException(
                f"{self.job_id!r} is not a job number; runs of this DAG are started by the dispatcher,"
                " one per job (to retry a job, clear its run or use `archsync jobs retry`)"
            ) from None

    def _work_on(self, ledger: Ledger, platform: Platform, job_id: int, run: Run) -> int:
        """Run a job that the dispatcher handed out."""
        self.log.info("Job %s, try %s.", job_id, run.try_number)
        ended = self.run_job(ledger, platform, job_id, run)
        self._tell(ended)
        raise_for(ended)
        return job_id

    def _ask_and_wait(self, ledger: Ledger, platform: Platform, run: Run) -> int | None:
        """Do one job after the other; gives the last, None when there was none."""
        last: int | None = None
        for _ in range(self.max_jobs):
            job_id = self._do_next(ledger, platform, run)
            if job_id is None:
                return last
            last = job_id
        raise AirflowFailException(f"{self.max_jobs} jobs ended and destination {self.destination} needs yet another")

    def _do_next(self, ledger: Ledger, platform: Platform, run: Run) -> int | None:
        """Ask for the next job and work on it if it is free; ends when it is over, None when there is none."""
        job_id = self._request(platform, ledger, run)
        if job_id is None:
            self.log.info(self.nothing_left, self.destination)
        else:
            self._attempt(ledger, platform, job_id, run)
        return job_id

    def _request(self, platform: Platform, ledger: Ledger, run: Run) -> int | None:
        if not self.destination or not self.study_instance_uid:
            raise AirflowFailException(f"{type(self).__name__} needs job_id, or destination and study_instance_uid")
        try:
            return self.request_job(
                platform,
                ledger,
                destination=self.destination,
                study_instance_uid=self.study_instance_uid,
                requested_by=f"{run.dag_id}/{run.run_id}",
                now=datetime.now(UTC),
            )
        except StoreUnavailable:
            raise
        except ArchsyncError as exc:
            raise AirflowFailException(f"{exc.message}. {exc.next_step}") from exc

    def _attempt(self, ledger: Ledger, platform: Platform, job_id: int, run: Run) -> None:
        """Run an attempt of a job asked for; unless it is over and well, come back later or fail the task."""
        ended = self.run_job(ledger, platform, job_id, run)
        self._tell(ended)
        job = jobs.get(ledger, job_id)
        if not job.status.is_done and job.status is not JobStatus.FAILED:
            delay_s = ended.retry_delay_s or self.poke_interval_s
            raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=delay_s))
        if not self.is_well(job):
            raise AirflowFailException(f"Job {job_id} {job.status.value}: {ended.message}")

    def _tell(self, ended: Ended) -> None:
        code = f" [{ended.code}]" if ended.code else ""
        self.log.info("Job %s is %s: %s%s", ended.job_id, ended.status.value, ended.message, code)
