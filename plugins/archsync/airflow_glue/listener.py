"""Airflow's own word on a job's task, carried to the ledger: killed processes, and the UI's mark buttons.

The operator itself records how its attempts end. These hooks fire where it can't: in the scheduler, when an executor
reports that a task's process is gone (``kill -9``, out of memory), and in the API server, when somebody marks a task.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.utils.state import TaskInstanceState

from archsync.core.naming import parse_dag_id
from archsync.errors import ArchsyncError
from archsync.hooks.ledger import LedgerHook
from archsync.ledger import dispatching, jobs
from archsync.services import job_control

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

log = logging.getLogger(__name__)

_ACTOR = "airflow"


def _is_servers_view(task_instance: Any) -> bool:
    """In the task's own process the operator has recorded everything already."""
    return type(task_instance).__module__.startswith("airflow.models")


def _with_job(task_instance: Any, act: Any) -> None:
    """Run ``act(ledger, job_id)`` for the job of a task instance; the sweeper mends what fails here."""
    if parse_dag_id(task_instance.dag_id) is None or not _is_servers_view(task_instance):
        return
    try:
        with LedgerHook().get_conn() as ledger:
            job_id = jobs.by_run(ledger, dag_id=task_instance.dag_id, run_id=task_instance.run_id)
            if job_id is not None:
                act(ledger, job_id)
    except ArchsyncError as exc:
        log.warning("The ledger did not learn of run %s: %s", task_instance.run_id, exc.message)


@hookimpl
def on_task_instance_failed(previous_state: Any, task_instance: Any, error: str | BaseException | None) -> None:
    """A task failed without its operator's doing: its process is gone, or somebody marked it failed."""
    if previous_state is None:
        _with_job(
            task_instance, lambda ledger, job: job_control.record_marked(ledger, job, as_success=False, actor=_ACTOR)
        )
        return
    will_retry = task_instance.state == TaskInstanceState.UP_FOR_RETRY
    _with_job(
        task_instance,
        lambda ledger, job: job_control.record_killed(
            ledger, job, will_retry=will_retry, try_number=task_instance.try_number
        ),
    )


@hookimpl
def on_task_instance_success(previous_state: Any, task_instance: Any) -> None:
    """Somebody marked a task as success."""
    _with_job(task_instance, lambda ledger, job: job_control.record_marked(ledger, job, as_success=True, actor=_ACTOR))


@hookimpl
def on_task_instance_skipped(previous_state: Any, task_instance: Any) -> None:
    """Somebody marked a task as skipped: the same as success, nothing more is sent."""
    _with_job(task_instance, lambda ledger, job: job_control.record_marked(ledger, job, as_success=True, actor=_ACTOR))


@hookimpl
def on_dag_run_running(dag_run: DagRun, msg: str) -> None:
    """The scheduler began the run of a job: the sweeper need not look for it."""
    if parse_dag_id(dag_run.dag_id) is None or not dag_run.partition_key or not dag_run.partition_key.isdecimal():
        return
    try:
        with LedgerHook().get_conn() as ledger:
            dispatching.record_run_seen(
                ledger, int(dag_run.partition_key), dag_id=dag_run.dag_id, run_id=dag_run.run_id
            )
    except ArchsyncError as exc:
        log.warning("The ledger did not learn of run %s: %s", dag_run.run_id, exc.message)
