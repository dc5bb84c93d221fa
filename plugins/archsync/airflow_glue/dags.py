"""Builds the DAGs: the dispatcher, the housekeeper, and one per destination and kind of job.

In the DAG processor the destinations come from the ledger, by one short query whose last good answer stays on disk: a
ledger that is away changes no DAG. In a task's process Airflow names the one DAG it needs, and the id alone is enough
to build it, so workers elsewhere (Celery, Edge) need neither.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, AssetWatcher, PartitionedAssetTimetable, conf, get_parsing_context

from archsync.core.destination import Destination
from archsync.core.naming import DISPATCH_DAG_ID, MAINTAIN_DAG_ID, WORK_ASSET, DagKind, dag_id, parse_dag_id, pool_name
from archsync.errors import ArchsyncError
from archsync.hooks.ledger import LedgerHook
from archsync.ledger import destinations
from archsync.operators._engine import RETRIES, DestinationRetryPolicy, jobs_asset
from archsync.operators.archive_study import ArchiveStudyOperator
from archsync.operators.dispatch import DispatchOperator, MaintainOperator
from archsync.triggers.work import WorkTrigger

log = logging.getLogger(__name__)

#: Runs of a destination's DAG at the same time: its pool bounds what runs, and retrying jobs must not hold back others.
MAX_ACTIVE_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class DagSettings:
    """What a destination's DAG needs to know of it; all but the name only for the scheduler and the eye."""

    name: str
    queue: str | None = None
    called_ae_title: str = ""
    address: str = ""
    trigger_status: str = ""
    scope: str = ""
    concurrency: int = 0
    facility_groups: tuple[str, ...] = ()


def build_dags() -> dict[str, DAG]:
    """Every DAG by id; in a task's process only the one it asks for."""
    wanted = get_parsing_context().dag_id
    if wanted is not None:
        built = _build_one(wanted)
        return {wanted: built} if built else {}
    built_dags = [_build_dispatch(), _build_maintain(), *(_build_archive(d) for d in _read_settings())]
    return {dag.dag_id: dag for dag in built_dags}


def _build_one(wanted: str) -> DAG | None:
    if wanted == DISPATCH_DAG_ID:
        return _build_dispatch()
    if wanted == MAINTAIN_DAG_ID:
        return _build_maintain()
    named = parse_dag_id(wanted)
    if named is not None and named[0] is DagKind.ARCHIVE:
        return _build_archive(DagSettings(named[1]))
    return None


# -- the DAGs ---------------------------------------------------------------------------------------------------


def _build_dispatch() -> DAG:
    with DAG(
        DISPATCH_DAG_ID,
        description="Plans what changed on the platform and starts the jobs whose turn it is.",
        schedule=[Asset(WORK_ASSET, watchers=[AssetWatcher(name="archsync_work", trigger=WorkTrigger())])],
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags={"archsync", "dispatch"},
        doc_md=_DISPATCH_DOC,
    ) as dag:
        # No retries: the trigger fires again while there is something to do.
        DispatchOperator(task_id="dispatch", retries=0, do_xcom_push=False)
    return dag


def _build_maintain() -> DAG:
    with DAG(
        MAINTAIN_DAG_ID,
        description="Puts back jobs whose run was lost.",
        schedule=timedelta(minutes=2),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags={"archsync", "maintain"},
        doc_md=_MAINTAIN_DOC,
    ) as dag:
        MaintainOperator(task_id="sweep", retries=2, retry_delay=timedelta(seconds=30), do_xcom_push=False)
    return dag


def _build_archive(settings: DagSettings) -> DAG:
    with DAG(
        dag_id(DagKind.ARCHIVE, settings.name),
        description=f"Sends studies to {settings.name}: one run per archive or dicom job.",
        schedule=PartitionedAssetTimetable(assets=jobs_asset(DagKind.ARCHIVE, settings.name)),
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        max_active_tasks=MAX_ACTIVE_RUNS,
        is_paused_upon_creation=False,
        tags={"archsync", "archive", f"destination:{settings.name}", *(f"group:{g}" for g in settings.facility_groups)},
        doc_md=_archive_doc(settings),
    ) as dag:
        ArchiveStudyOperator(
            task_id="archive",
            job_id="{{ dag_run.partition_key }}",
            pool=pool_name(settings.name),
            retries=RETRIES,
            retry_delay=timedelta(seconds=30),
            retry_policy=DestinationRetryPolicy(),
            do_xcom_push=False,
            queue=settings.queue or conf.get("operators", "default_queue"),
        )
    return dag


# -- the destinations ----------------------------------------------------------------------------------------------


def _read_settings() -> list[DagSettings]:
    """The destinations, from the ledger or, while it is away, from its last good answer."""
    remembered = Path(os.environ.get("AIRFLOW_HOME", Path.home() / "airflow")) / "archsync-destinations.json"
    try:
        with LedgerHook().get_conn() as ledger:
            ledger.execute("set statement_timeout = 2000")
            queues = destinations.queues(ledger)
            found = [_settings(d, queues[d.name]) for d in destinations.all_destinations(ledger)]
    except ArchsyncError as exc:
        log.warning("Building the DAGs of the last known destinations: %s", exc.message)
        return _remembered(remembered)
    text = json.dumps([asdict(d) for d in found], indent=1)
    if not remembered.exists() or remembered.read_text(encoding="utf-8") != text:
        partial = remembered.with_suffix(".tmp")
        partial.write_text(text, encoding="utf-8")
        partial.replace(remembered)
    return found


def _remembered(path: Path) -> list[DagSettings]:
    if not path.exists():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [DagSettings(**{**entry, "facility_groups": tuple(entry["facility_groups"])}) for entry in entries]


def _settings(destination: Destination, queue: str | None) -> DagSettings:
    scope = [*destination.facilities, *(f"group {g}" for g in destination.facility_groups)]
    return DagSettings(
        name=destination.name,
        queue=queue,
        called_ae_title=destination.called_ae_title,
        address=f"{destination.host}:{destination.port}",
        trigger_status=destination.trigger_status.value,
        scope=", ".join(scope) or "all facilities",
        concurrency=destination.concurrency,
        facility_groups=destination.facility_groups,
    )


# -- their docs ------------------------------------------------------------------------------------------------------

_DISPATCH_DOC = """### archsync dispatcher
Started whenever there is something to do: a study changed on the platform, a job fell due, a job ended. It plans
what changed, then starts one run per job in the destinations' DAGs, STAT first, within each destination's concurrency.
Pausing it stops planning and starting; jobs keep, and go on when it is unpaused.
"""

_MAINTAIN_DOC = """### archsync housekeeping
Every two minutes: jobs whose Airflow run was lost are put back in the queue, and the dispatcher is woken.
"""


def _archive_doc(settings: DagSettings) -> str:
    return f"""### Archive to {settings.name}
| | |
|---|---|
| Archive | `{settings.called_ae_title}` at `{settings.address}` |
| Sends from exam status | {settings.trigger_status} |
| Scope | {settings.scope} |
| Jobs at a time | {settings.concurrency} |

One run per job; the run's *partition key* is the job number (`archsync jobs show NUMBER`). To **retry** a failed job,
*Clear* its run. To **suspend** the destination, pause this DAG: jobs wait and say so. A *skipped* run means that its
job went back to waiting (destination down, an earlier job on the same study); it gets another run when its turn comes.
"""
