"""The young parts of Airflow 3.3 that we lean on, each touched here only.

Asset partitions (one DAG run per job), the retry policy, and two questions that a task may ask the Execution API.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from http import HTTPStatus
from typing import Any, cast

from airflow.sdk import Asset, BaseOperator, Context, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.comms import (
    DagResult,
    DagRunStateResult,
    ErrorResponse,
    GetDag,
    GetDagRunState,
)

from archsync.core.naming import DagKind, dag_id
from archsync.core.retry import STORE_RETRY_S
from archsync.errors import StoreUnavailable
from archsync.operators._outcome import JobWillRetry

#: Retries of a job's task: high, since the destination's own settings decide (see :class:`DestinationRetryPolicy`).
RETRIES = 100_000


class DestinationRetryPolicy(RetryPolicy):
    """Carries out what ``core.retry`` decided: the operator recorded it in the ledger and raised it as an exception."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Retry after the decided delay, or when the ledger could not be written; everything else fails now."""
        if isinstance(exception, JobWillRetry):
            return RetryDecision.retry(timedelta(seconds=exception.delay_s), str(exception))
        if isinstance(exception, StoreUnavailable):
            return RetryDecision.retry(timedelta(seconds=STORE_RETRY_S), exception.code)
        return RetryDecision.fail(getattr(exception, "code", type(exception).__name__))

    def serialize(self) -> dict[str, Any]:
        """Nothing to keep: the policy has no settings of its own."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> DestinationRetryPolicy:
        """The same policy again."""
        return cls()


def jobs_asset(kind: DagKind, destination: str) -> Asset:
    """The asset whose partition keys (job numbers) start the runs of a destination's DAG."""
    return Asset(name=dag_id(kind, destination), uri=f"archsync://jobs/{kind.value}/{destination}")


def emit_jobs(operator: BaseOperator, context: Context, handed: Iterable[tuple[Asset, int]]) -> None:
    """Start one DAG run per job once the running task succeeds: its outlets become the assets that have keys.

    The outlets are set now and not declared: an outlet without a key would start a run without one.
    """
    keys: dict[str, tuple[Asset, list[str]]] = {}
    for asset, job_id in handed:
        keys.setdefault(asset.name, (asset, []))[1].append(str(job_id))
    operator.outlets = [asset for asset, _ in keys.values()]
    for asset, asset_keys in keys.values():
        context["outlet_events"][asset].add_partitions(asset_keys)


def _ask(question: GetDag | GetDagRunState) -> Any:
    """Put a question to the Execution API; None when Airflow knows no such thing."""
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    try:
        answer = SUPERVISOR_COMMS.send(question)
    except AirflowRuntimeError as exc:
        if _is_not_found(exc.error):
            return None
        raise
    if isinstance(answer, ErrorResponse):
        if _is_not_found(answer):
            return None
        raise AirflowRuntimeError(answer)
    return answer


def _is_not_found(error: ErrorResponse) -> bool:
    return (error.detail or {}).get("status_code") == HTTPStatus.NOT_FOUND


def is_paused(kind: DagKind, destination: str) -> bool | None:
    """Whether a destination's DAG is paused; None: Airflow has not parsed it yet. Only inside a task."""
    answer = _ask(GetDag(dag_id=dag_id(kind, destination)))
    return None if answer is None else cast("DagResult", answer).is_paused


def run_state(dag_id: str, run_id: str) -> str | None:
    """The state of a DAG run; None: Airflow has no such run. Only inside a task."""
    answer = _ask(GetDagRunState(dag_id=dag_id, run_id=run_id))
    return None if answer is None else str(cast("DagRunStateResult", answer).state.value)
