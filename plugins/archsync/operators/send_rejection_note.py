"""Withdraws from one destination what left a study: the task of our own DAGs, and a building block for yours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from archsync.core.job import JobStatus
from archsync.errors import ArchsyncError, StoreUnavailable
from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger import jobs
from archsync.ledger.database import Ledger
from archsync.operators._outcome import raise_for
from archsync.platformdb.reader import Platform
from archsync.services.attempt import Ended, Run
from archsync.services.post_archive import request_withdrawal
from archsync.services.rejection import run_note_job

#: Jobs that one task works on at most: what waits for replacements goes in a later job than what doesn't.
MAX_JOBS = 20


class SendRejectionNoteOperator(BaseOperator):
    """Sends the rejection notes (IHE IOCM) that withdraw from a destination what no longer belongs to a study.

    In your own DAG name the study and the destination; the task ends when all of it is withdrawn there::

        SendRejectionNoteOperator(
            task_id="withdraw", destination="vna1", study_instance_uid="{{ params.study_instance_uid }}"
        )

    What to withdraw is found by comparing platform and ledger. While it has to wait (replacements that are still to be
    stored, a destination that is down, a closed send window) it frees its worker slot and looks again every
    ``poke_interval_s``. It returns the number of the last job it worked on, None when nothing is to be withdrawn.

    Our own DAGs give ``job_id`` instead: a job the dispatcher handed out.

    Args:
        job_id: number of an existing job (templated).
        destination: name of the destination (templated).
        study_instance_uid: Study Instance UID, on the platform or as the archive knows it (templated).
        ledger_conn_id: connection of the ledger.
        platform_conn_id: connection of the platform.
        poke_interval_s: how often a waiting job is looked at, in seconds.
    """

    template_fields: Sequence[str] = ("job_id", "destination", "study_instance_uid")
    ui_color = "#f6dcd3"

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

    def execute(self, context: Context) -> int | None:
        """Run one attempt; in your own DAG one for each job that is due."""
        ti = context["ti"]
        run = Run(ti.dag_id, ti.run_id, ti.try_number)
        with (
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            PlatformHook(self.platform_conn_id).get_platform() as platform,
        ):
            if self.job_id is not None:
                return self._work_on(ledger, platform, self._job_number(), run)
            return self._withdraw_and_wait(ledger, platform, run)

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
        ended = run_note_job(ledger, platform, job_id, run)
        self._tell(ended)
        raise_for(ended)
        return job_id

    def _withdraw_and_wait(self, ledger: Ledger, platform: Platform, run: Run) -> int | None:
        """Ask for what is to be withdrawn and work on its job, until there is none."""
        if not self.destination or not self.study_instance_uid:
            raise AirflowFailException("SendRejectionNoteOperator needs job_id, or destination and study_instance_uid")
        last: int | None = None
        for _ in range(MAX_JOBS):
            job_id = self._request(platform, ledger, self.destination, self.study_instance_uid, run)
            if job_id is None:
                self.log.info("Nothing is to be withdrawn from destination %s.", self.destination)
                return last
            ended = run_note_job(ledger, platform, job_id, run)
            self._tell(ended)
            job = jobs.get(ledger, job_id)
            if not job.status.is_done and job.status is not JobStatus.FAILED:
                delay_s = ended.retry_delay_s or self.poke_interval_s
                raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=delay_s))
            if job.status is not JobStatus.SUCCEEDED and job.reason_code != "nothing-to-do":
                raise AirflowFailException(f"Job {job_id} {job.status.value}: {ended.message}")
            last = job_id
        raise AirflowFailException(f"{MAX_JOBS} jobs ended and there is still something to be withdrawn")

    def _request(
        self, platform: Platform, ledger: Ledger, destination: str, study_instance_uid: str, run: Run
    ) -> int | None:
        try:
            return request_withdrawal(
                platform,
                ledger,
                destination=destination,
                study_instance_uid=study_instance_uid,
                requested_by=f"{run.dag_id}/{run.run_id}",
                now=datetime.now(UTC),
            )
        except StoreUnavailable:
            raise
        except ArchsyncError as exc:
            raise AirflowFailException(f"{exc.message}. {exc.next_step}") from exc

    def _tell(self, ended: Ended) -> None:
        code = f" [{ended.code}]" if ended.code else ""
        self.log.info("Job %s is %s: %s%s", ended.job_id, ended.status.value, ended.message, code)
