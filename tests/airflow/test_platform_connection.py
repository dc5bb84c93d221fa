"""The platform's connection: asked for once, and named where it is missing."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg
import pytest
from airflow.sdk import Connection

from archsync.errors import ConfigurationError
from archsync.hooks.platform import PlatformHook


def test_a_hook_asks_airflow_once_for_its_connection(platform_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each question is a request to Airflow's API server, which every job would pay for.
    where = psycopg.conninfo.conninfo_to_dict(platform_dsn)
    values = {
        "conn_type": "postgres",
        "host": where["host"],
        "port": int(where["port"]),
        "login": where["user"],
        "password": where["password"],
        "schema": where["dbname"],
    }
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", json.dumps(values))
    asked: list[str] = []
    ask = Connection.get
    monkeypatch.setattr(Connection, "get", lambda conn_id: (asked.append(conn_id), ask(conn_id))[1])
    hook = PlatformHook()
    with hook.get_platform() as platform:
        assert platform.fetch_facilities() == ()
    assert where["dbname"] in hook.listen_dsn()
    assert asked == ["archsync_platform"]


def test_a_missing_connection_is_named_with_the_variable_that_defines_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", raising=False)
    with pytest.raises(ConfigurationError, match="'archsync_platform' is not defined") as refused:
        PlatformHook().get_platform()
    assert refused.value.code == "connection-missing"
    assert "AIRFLOW_CONN_ARCHSYNC_PLATFORM" in refused.value.next_step


def test_the_scheduler_loads_ahead_what_every_task_would_load_again() -> None:
    loaded = (
        "import sys; sys.argv = ['airflow', 'scheduler']\n"
        "from archsync.airflow_glue.plugin import ArchsyncPlugin; ArchsyncPlugin.on_load()\n"
        "from archsync.core.naming import DagKind; from archsync.operators._engine import jobs_asset\n"
        "before = set(sys.modules); jobs_asset(DagKind.ARCHIVE, 'vna1')\n"
        "import archsync.airflow_glue.dags, archsync.operators.archive_study, archsync.net.dicom.store\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
