"""Tells a destination what changed about a patient: the task of our own DAGs, and a building block for yours."""

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
from archsync.services.adt import run_adt_job
from archsync.services.adt_request import request_adt
from archsync.services.attempt import Ended, Run

#: Messages that one task sends at most: a patient has three kinds of difference, and merges one for each pair.
MAX_MESSAGES = 50


class SendAdtOperator(BaseOperator):
    """Sends the HL7 ADT messages that a destination needs to know a patient as the platform does.

    In your own DAG name the destination, and a study of the patient; the task ends when the archive knows all. (Not the
    patient's identifier: Airflow keeps and shows rendered values.) ::

        SendAdtOperator(
            task_id="tell", destination="vna1", study_instance_uid="{{ params.study_instance_uid }}"
        )

    What to say is found by comparing platform and ledger: another identifier or a merge is an A40 (or A47), other
    demographics are an A08 (or A31), in this order. While it has to wait (an earlier job, a receiver that is down) it
    frees its worker slot and looks again every ``poke_interval_s``. It returns the number of the last job it worked
    on, None when the archive knew all.

    Our own DAGs give ``job_id`` instead: a job the dispatcher handed out.

    Args:
        job_id: number of an existing job (templated).
        destination: name of the destination (templated).
        study_instance_uid: Study Instance UID on the platform of a study of the patient (templated).
        ledger_conn_id: connection of the ledger.
        platform_conn_id: connection of the platform.
        poke_interval_s: how often a waiting job is looked at, in seconds.
    """

    template_fields: Sequence[str] = ("job_id", "destination", "study_instance_uid")
    ui_color = "#e3f1df"

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
        """Run one attempt; in your own DAG one for each message that is due."""
        ti = context["ti"]
        run = Run(ti.dag_id, ti.run_id, ti.try_number)
        with (
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            PlatformHook(self.platform_conn_id).get_platform() as platform,
        ):
            if self.job_id is not None:
                return self._work_on(ledger, platform, self._job_number(), run)
            return self._tell_and_wait(ledger, platform, run)

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
        ended = run_adt_job(ledger, platform, job_id, run)
        self._tell(ended)
        raise_for(ended)
        return job_id

    def _tell_and_wait(self, ledger: Ledger, platform: Platform, run: Run) -> int | None:
        """Ask for the next job about the patient and work on it, until there is none."""
        if not self.destination:
            raise AirflowFailException("SendAdtOperator needs job_id, or destination and study_instance_uid")
        last: int | None = None
        for _ in range(MAX_MESSAGES):
            job_id = self._request(platform, ledger, self.destination, run)
            if job_id is None:
                self.log.info("Destination %s knows the patient as the platform does.", self.destination)
                return last
            ended = run_adt_job(ledger, platform, job_id, run)
            self._tell(ended)
            job = jobs.get(ledger, job_id)
            if not job.status.is_done and job.status is not JobStatus.FAILED:
                delay_s = ended.retry_delay_s or self.poke_interval_s
                raise AirflowRescheduleException(datetime.now(UTC) + timedelta(seconds=delay_s))
            if job.status is not JobStatus.SUCCEEDED and job.reason_code != "nothing-to-do":
                raise AirflowFailException(f"Job {job_id} {job.status.value}: {ended.message}")
            last = job_id
        raise AirflowFailException(f"{MAX_MESSAGES} messages were sent and the archive still does not know all")

    def _request(self, platform: Platform, ledger: Ledger, destination: str, run: Run) -> int | None:
        try:
            return request_adt(
                platform,
                ledger,
                destination=destination,
                study_instance_uid=self.study_instance_uid or None,
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
