"""Withdraws from one destination what left a study: the task of our own DAGs, and a building block for yours."""

from __future__ import annotations

from archsync.operators._job_operator import JobOperator
from archsync.services.post_archive import request_withdrawal
from archsync.services.rejection import run_note_job


class SendRejectionNoteOperator(JobOperator):
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

    ui_color = "#f6dcd3"
    nothing_left = "Nothing is to be withdrawn from destination %s."
    request_job = staticmethod(request_withdrawal)
    run_job = staticmethod(run_note_job)
