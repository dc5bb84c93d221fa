"""Addresses in answers: pages of Airflow, and where a code is explained. Relative to where this Airflow is mounted."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import Request

from archsync.core.job import Job, JobType
from archsync.core.naming import DagKind, dag_id, dag_kind

#: Where the plugin is mounted in Airflow.
PREFIX = "/archsync"

#: The one task of each kind of DAG.
TASK_IDS = {DagKind.ARCHIVE: "archive", DagKind.IOCM: "send_note", DagKind.ADT: "send_adt"}


def airflow_base(request: Request) -> str:
    """The path of Airflow itself: empty, unless a proxy serves it below one."""
    return str(request.scope.get("root_path", "")).removesuffix(PREFIX)


def troubleshooting_url(request: Request, code: str) -> str:
    """Where an error's code is explained."""
    return f"{airflow_base(request)}{PREFIX}/docs/troubleshooting#{code}"


def run_url(base: str, dag: str | None, run: str | None) -> str | None:
    """A DAG run in Airflow's own pages."""
    return f"{base}/dags/{quote(dag, safe='')}/runs/{quote(run, safe='')}" if dag and run else None


def logs_url(base: str, job_type: JobType, dag: str, run: str, try_number: int) -> str:
    """The log of one attempt in Airflow's own pages."""
    return f"{run_url(base, dag, run)}/tasks/{TASK_IDS[dag_kind(job_type)]}?try_number={try_number}"


def dag_of(job: Job) -> str:
    """The DAG that runs a job, whether it ran yet or not."""
    return dag_id(dag_kind(job.job_type), job.destination)
