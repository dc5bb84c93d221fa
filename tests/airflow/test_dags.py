"""The DAGs as Airflow's DAG processor and its task processes see them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from archsync.airflow_glue import dags
from archsync.core.destination import Destination
from archsync.core.naming import DagKind, dag_id, parse_dag_id
from archsync.core.study import ExamStatus
from archsync.ledger import destinations
from archsync.ledger.database import Ledger
from archsync.operators.archive_study import ArchiveStudyOperator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def two_destinations(ledger_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A ledger that Airflow's connection names, with a local destination and one behind a gateway."""
    with Ledger(ledger_dsn) as ledger:
        destinations.insert_gateway(ledger, destinations.Gateway("north_1", "region", "gw_north_1"))
        common = {"called_ae_title": "VNA", "host": "vna.example", "port": 104}
        destinations.insert(ledger, Destination(name="vna1", **common))
        destinations.insert(
            ledger,
            Destination(
                name="vna2",
                gateway="north_1",
                trigger_status=ExamStatus.INFLIGHT,
                facility_groups=("region",),
                concurrency=7,
                **common,
            ),
        )
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", ledger_dsn.replace("postgresql://", "postgres://"))
    return ledger_dsn


def load() -> DagBag:
    bag = DagBag(str(ROOT / "dags"), load_op_links=False)
    assert bag.import_errors == {}
    return bag


def test_there_is_a_dag_per_destination_beside_dispatcher_and_housekeeper(two_destinations: str, airflow_db) -> None:
    bag = load()
    assert set(bag.dags) == {
        "archsync_dispatch",
        "archsync_maintain",
        "archsync_archive__vna1",
        "archsync_archive__vna2",
        "archsync_iocm__vna1",
        "archsync_iocm__vna2",
        "example_archive_after_pipeline",
    }
    for dag in bag.dags.values():
        assert dag.doc_md
        assert "archsync" in dag.tags
        assert dag.catchup is False


def test_a_destinations_dag_carries_its_pool_queue_tags_and_settings(two_destinations: str, airflow_db) -> None:
    bag = load()
    local, remote = bag.dags["archsync_archive__vna1"], bag.dags["archsync_archive__vna2"]
    assert local.get_task("archive").queue == "default"
    assert remote.get_task("archive").queue == "gw_north_1"
    assert remote.get_task("archive").pool == "archsync_vna2"
    assert {"destination:vna2", "group:region", "archive"} <= remote.tags
    assert "Inflight" in remote.doc_md
    assert remote.get_task("archive").retry_policy is not None


def test_each_kind_of_job_has_a_dag_and_adt_only_where_it_is_taken(
    two_destinations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = {DagKind.ARCHIVE: dags._archive_doc, DagKind.IOCM: dags._iocm_doc, DagKind.ADT: dags._adt_doc}
    tasks = {kind: dags._JobTask("send", ArchiveStudyOperator, kind.value, doc) for kind, doc in docs.items()}
    monkeypatch.setattr(dags, "_JOB_TASKS", tasks)
    with Ledger(two_destinations) as ledger:
        taken = replace(destinations.get(ledger, "vna2"), adt_host="adt.example", adt_receiving_application="MPI")
        destinations.update(ledger, taken)

    built = dags.build_dags()

    ours = {parsed for name in built if (parsed := parse_dag_id(name))}
    assert ours == {*((kind, "vna2") for kind in DagKind), (DagKind.ARCHIVE, "vna1"), (DagKind.IOCM, "vna1")}
    pools = {kind: built[dag_id(kind, "vna2")].get_task("send").pool for kind in DagKind}
    assert pools == {
        DagKind.ARCHIVE: "archsync_vna2", DagKind.IOCM: "archsync_vna2", DagKind.ADT: "archsync_vna2-adt",
    }  # fmt: skip
    assert "`MPI` at `adt.example:2575`" in built["archsync_adt__vna2"].doc_md
    assert {"iocm", "destination:vna2", "group:region"} <= built["archsync_iocm__vna2"].tags


def test_a_ledger_that_is_away_changes_no_dag(
    two_destinations: str, airflow_db, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(load().dags)
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", "postgres://nobody:x@127.0.0.1:1/none")
    assert set(load().dags) == before


def test_without_any_ledger_the_dispatcher_is_there_all_the_same(
    tmp_path: Path, airflow_db, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", raising=False)
    assert "archsync_dispatch" in load().dags


def test_a_task_process_builds_its_dag_from_the_id_alone(tmp_path: Path) -> None:
    # A worker at a gateway has neither the ledger at parse time nor the remembered file.
    code = (
        "from airflow.sdk.definitions.context import get_parsing_context\n"
        "from archsync.airflow_glue.dags import build_dags\n"
        "print(sorted(build_dags()))\n"
    )
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "_AIRFLOW_PARSING_CONTEXT_DAG_ID": "archsync_archive__x9",
    }
    environment.pop("AIRFLOW_CONN_ARCHSYNC_LEDGER", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "['archsync_archive__x9']"


def test_the_plugin_folder_shows_the_loader_one_file_and_it_loads_alone(tmp_path: Path) -> None:
    # Airflow's loader executes every file it finds under its bare stem: one called types.py would replace the
    # standard library's.
    code = (
        "import sys, types\n"
        "from airflow import plugins_manager\n"
        "plugins_manager.ensure_plugins_loaded() if hasattr(plugins_manager, 'ensure_plugins_loaded')"
        " else plugins_manager._get_plugins()\n"
        "names = [p.name for p in plugins_manager._get_plugins()[0]]\n"
        "errors = plugins_manager.get_import_errors()\n"
        "assert 'archsync' in names, names\n"
        "assert not errors, errors\n"
        "assert 'site-packages' not in (types.__file__ or '') and 'plugins' not in types.__file__\n"
        "heavy = [m for m in ('pydicom', 'pynetdicom', 'psycopg', 'numpy') if m in sys.modules]\n"
        "print(heavy)\n"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pynetdicom" not in done.stdout
    files = {path.name for path in (ROOT / "plugins").glob("*.py")}
    assert files == {"archsync_plugin.py"}
    assert (ROOT / "plugins" / ".airflowignore").read_text().split() == ["archsync/"]
