"""Archives one study at one destination: the task of our own DAGs, and a building block for yours."""

from __future__ import annotations

from archsync.core.job import Job, JobStatus
from archsync.ledger.database import Ledger
from archsync.operators._job_operator import JobOperator
from archsync.platformdb.reader import Platform
from archsync.services.archive import run_store_job
from archsync.services.attempt import Run
from archsync.services.request import request_study


class ArchiveStudyOperator(JobOperator):
    """Sends what is missing of a study to a destination, checks it there, and records it in the ledger.

    In your own DAG name the study and the destination; the task ends when the study is there::

        ArchiveStudyOperator(
            task_id="archive", destination="vna1", study_instance_uid="{{ params.study_instance_uid }}"
        )

    It works whatever the exam's status and the destination's trigger say, on the job that is open for this study
    there, or on a new one. While it has to wait (an earlier job, a destination that is down, a closed send window) it
    frees its worker slot and looks again every ``poke_interval_s``. It returns the number of the job, None when all
    was there.

    Our own DAGs give ``job_id`` instead: a job the dispatcher handed out.

    Args:
        job_id: number of an existing job (templated).
        destination: name of the destination (templated).
        study_instance_uid: Study Instance UID on the platform (templated).
        ledger_conn_id: connection of the ledger.
        platform_conn_id: connection of the platform.
        poke_interval_s: how often a waiting study is looked at, in seconds.
    """

    ui_color = "#d7e8f7"
    nothing_left = "Destination %s holds the study already."
    request_job = staticmethod(request_study)
    run_job = staticmethod(run_store_job)

    def is_well(self, job: Job) -> bool:
        """A needless job archived nothing: the study left the platform meanwhile."""
        return job.status is JobStatus.SUCCEEDED

    def _ask_and_wait(self, ledger: Ledger, platform: Platform, run: Run) -> int | None:
        """Do one job: what comes to the study while it is under way is not waited for."""
        return self._do_next(ledger, platform, run)
