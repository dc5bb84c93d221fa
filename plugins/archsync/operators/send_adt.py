"""Tells a destination what changed about a patient: the task of our own DAGs, and a building block for yours."""

from __future__ import annotations

from archsync.operators._job_operator import JobOperator
from archsync.services.adt import run_adt_job
from archsync.services.adt_request import request_adt


class SendAdtOperator(JobOperator):
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

    ui_color = "#e3f1df"
    #: A patient has three kinds of difference, and merges one for each pair.
    max_jobs = 50
    nothing_left = "Destination %s knows the patient as the platform does."
    request_job = staticmethod(request_adt)
    run_job = staticmethod(run_adt_job)
