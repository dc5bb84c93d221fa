"""Builds the DAGs: the dispatcher, the housekeeper, and one per destination and kind of job.

In the DAG processor the destinations come from the ledger, by one short query whose last good answer stays on disk: a
ledger that is away changes no DAG. In a task's process Airflow names the one DAG it needs, and the id alone is enough
to build it, so workers elsewhere (Celery, Edge) need neither.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, AssetWatcher, BaseOperator, PartitionedAssetTimetable, conf, get_parsing_context

from archsync.core.destination import Destination
from archsync.core.naming import (
    DISPATCH_DAG_ID,
    MAINTAIN_DAG_ID,
    WORK_ASSET,
    DagKind,
    dag_id,
    parse_dag_id,
    peer_of,
    pool_name,
)
from archsync.errors import ArchsyncError
from archsync.hooks.ledger import LedgerHook
from archsync.ledger import destinations
from archsync.operators._engine import RETRIES, DestinationRetryPolicy, jobs_asset
from archsync.operators.archive_study import ArchiveStudyOperator
from archsync.operators.dispatch import DispatchOperator, MaintainOperator
from archsync.operators.send_adt import SendAdtOperator
from archsync.operators.send_rejection_note import SendRejectionNoteOperator
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
    send_window: str | None = None
    adt_application: str = ""
    adt_address: str | None = None
    """None: the destination takes no ADT messages, and has no DAG for them."""
    adt_concurrency: int = 0
    facility_groups: tuple[str, ...] = ()


def build_dags() -> dict[str, DAG]:
    """Every DAG by id; in a task's process only the one it asks for."""
    wanted = get_parsing_context().dag_id
    if wanted is not None:
        built = _build_one(wanted)
        return {wanted: built} if built else {}
    built_dags = [_build_dispatch(), _build_maintain()]
    for settings in _read_settings():
        built_dags.extend(_build_jobs(kind, settings) for kind in _kinds(settings))
    return {dag.dag_id: dag for dag in built_dags}


def _build_one(wanted: str) -> DAG | None:
    if wanted == DISPATCH_DAG_ID:
        return _build_dispatch()
    if wanted == MAINTAIN_DAG_ID:
        return _build_maintain()
    named = parse_dag_id(wanted)
    if named is not None and named[0] in _JOB_TASKS:
        return _build_jobs(named[0], DagSettings(named[1]))
    return None


@dataclass(frozen=True, slots=True)
class _JobTask:
    """What a DAG of a kind of job runs: one task of this operator."""

    task_id: str
    operator: type[BaseOperator]
    sends: str
    doc: Callable[[DagSettings], str]


def _kinds(settings: DagSettings) -> list[DagKind]:
    """The kinds of job that a destination has DAGs for."""
    return [kind for kind in _JOB_TASKS if kind is not DagKind.ADT or settings.adt_address is not None]


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


def _build_jobs(kind: DagKind, settings: DagSettings) -> DAG:
    task = _JOB_TASKS[kind]
    groups = {f"group:{group}" for group in settings.facility_groups}
    with DAG(
        dag_id(kind, settings.name),
        description=f"Sends {task.sends} to {settings.name}: one run per job.",
        schedule=PartitionedAssetTimetable(assets=jobs_asset(kind, settings.name)),
        catchup=False,
        max_active_runs=MAX_ACTIVE_RUNS,
        max_active_tasks=MAX_ACTIVE_RUNS,
        is_paused_upon_creation=False,
        tags={"archsync", kind.value, f"destination:{settings.name}", *groups},
        doc_md=task.doc(settings),
    ) as dag:
        task.operator(
            task_id=task.task_id,
            job_id="{{ dag_run.partition_key }}",
            pool=pool_name(peer_of(kind), settings.name),
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
        send_window=destination.send_window,
        adt_application=destination.adt_receiving_application or "",
        adt_address=f"{destination.adt_host}:{destination.adt_port}" if destination.adt_host else None,
        adt_concurrency=destination.adt_concurrency,
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
Sends what the archive lacks of a study: one run per *archive* or *dicom* job.

| | |
|---|---|
| Archive | `{settings.called_ae_title}` at `{settings.address}` |
| Sends from exam status | {settings.trigger_status} |
| Scope | {settings.scope} |
| Send window | {settings.send_window or "always"} |
| Jobs at a time | {settings.concurrency}, with rejection notes |

{_RUNS_DOC}"""


def _iocm_doc(settings: DagSettings) -> str:
    return f"""### Rejection notes to {settings.name}
Tells the archive what to withdraw after a change (IOCM): one run per *kos* job, one step of an *iocm* job.

| | |
|---|---|
| Archive | `{settings.called_ae_title}` at `{settings.address}` |
| Send window | {settings.send_window or "always"} |
| Jobs at a time | {settings.concurrency}, with images |

{_RUNS_DOC}"""


def _adt_doc(settings: DagSettings) -> str:
    return f"""### ADT messages to {settings.name}
Tells the archive of merged and corrected patients (HL7 ADT over MLLP): one run per *adt* job, at any time of day. While
a patient's message is not acknowledged, later images and rejection notes of that patient wait; others do not.

| | |
|---|---|
| Receiver | `{settings.adt_application}` at `{settings.adt_address}` |
| Jobs at a time | {settings.adt_concurrency} |

{_RUNS_DOC}"""


_RUNS_DOC = """A run's *partition key* is the job number (`archsync jobs show NUMBER`). To **retry** a failed job,
*Clear* its run. To **suspend** this kind of job, pause this DAG: jobs wait and say so. A *skipped* run means that its
job went back to waiting (destination down, an earlier job on the same study or patient); it gets another run when its
turn comes.
"""

#: The task of each kind of DAG. A kind that is not here has no DAGs, and its jobs wait.
_JOB_TASKS = {
    DagKind.ARCHIVE: _JobTask("archive", ArchiveStudyOperator, "studies", _archive_doc),
    DagKind.IOCM: _JobTask("send_note", SendRejectionNoteOperator, "rejection notes", _iocm_doc),
    DagKind.ADT: _JobTask("send_adt", SendAdtOperator, "ADT messages", _adt_doc),
}
