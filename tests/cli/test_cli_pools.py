"""Pools: the command line and Airflow's metadata database."""

from __future__ import annotations

import os

import pytest

REACHED = ("--ae-title", "A", "--host", "h", "--port", "104")


@pytest.fixture
def with_airflow(airflow_db) -> dict[str, str]:
    """The variables with which the tests' own Airflow is found."""
    return {name: os.environ[name] for name in ("AIRFLOW_HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")}


def slots(name: str) -> tuple[int, bool] | None:
    from airflow.models.pool import Pool

    pool = Pool.get_pool(name)
    return None if pool is None else (pool.slots, pool.include_deferred)


def test_making_a_destination_makes_its_pool_and_a_change_of_concurrency_changes_it(run, with_airflow) -> None:
    result = run("destination", "create", "pool_a", *REACHED, "--concurrency", "3", **with_airflow)
    assert result.stderr == ""
    assert slots("archsync_pool_a") == (3, False)
    run("destination", "set", "pool_a", "concurrency=5", **with_airflow)
    assert slots("archsync_pool_a") == (5, False)
    assert slots("archsync_pool_a-adt") is None


def test_a_destination_that_takes_adt_messages_has_a_pool_for_them(run, with_airflow) -> None:
    run("destination", "create", "pool_e", *REACHED, "--concurrency", "3")
    run("destination", "set", "pool_e", "adt_host=h", "adt_receiving_application=MPI", "adt_concurrency=4")
    assert run("pools", "sync", **with_airflow).stdout == "2 pools in step.\n"
    assert slots("archsync_pool_e") == (3, False)
    assert slots("archsync_pool_e-adt") == (4, False)


def test_applying_a_configuration_file_makes_pools(run, with_airflow, tmp_path) -> None:
    path = tmp_path / "archsync.yaml"
    path.write_text("destinations:\n  pool_b: {called_ae_title: A, host: h, port: 104, concurrency: 4}\n")
    run("config", "apply", str(path), "--yes", **with_airflow)
    assert slots("archsync_pool_b") == (4, False)


def test_pools_sync_mends_what_was_made_or_changed_elsewhere(run, with_airflow) -> None:
    from airflow.models.pool import Pool

    run("destination", "create", "pool_c", *REACHED)
    run("destination", "create", "pool_d", *REACHED)
    assert slots("archsync_pool_c") is None
    Pool.create_or_update_pool("archsync_pool_d", slots=99, description="", include_deferred=True)
    Pool.create_or_update_pool("not_ours", slots=7, description="", include_deferred=False)
    assert run("pools", "sync", **with_airflow).stdout == "2 pools in step.\n"
    assert slots("archsync_pool_c") == (2, False)
    assert slots("archsync_pool_d") == (2, False)
    assert slots("not_ours") == (7, False)


def test_pools_sync_where_airflow_is_not_configured_says_where_to_run_it(run) -> None:
    result = run("pools", "sync", status=1)
    assert result.stderr == (
        "error: Airflow is not configured here. Run `archsync pools sync` on a machine of the Airflow core.\n"
    )


def test_a_metadata_database_without_tables_is_an_expected_error(run, run_process, tmp_path) -> None:
    airflow = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/empty.db",
    }
    run("destination", "create", "vna1", *REACHED)
    done = run_process("-m", "archsync", "pools", "sync", **airflow)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "error: Airflow's pools can't be written from here (OperationalError). Run `archsync pools sync` on a machine"
        " of the Airflow core; until then the destination's jobs wait."
    )


def test_connections_kept_in_airflows_database_are_used(run_process, run, with_airflow, ledger_dsn) -> None:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    run("destination", "create", "vna1", *REACHED)
    with create_session() as session:
        uri = ledger_dsn.replace("postgresql://", "postgres://")
        session.add(Connection(conn_id="archsync_ledger", uri=uri))
    try:
        done = run_process("-m", "archsync", "destination", "list", "--json", ARCHSYNC_LEDGER_DSN="", **with_airflow)
    finally:
        with create_session() as session:
            session.query(Connection).filter_by(conn_id="archsync_ledger").delete()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('[\n{"name": "vna1"')


def test_a_connection_that_airflow_does_not_have_is_an_expected_error(run_process, with_airflow) -> None:
    done = run_process("-m", "archsync", "jobs", "list", ARCHSYNC_LEDGER_DSN="", **with_airflow)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: the Airflow connection 'archsync_ledger' is not defined.")


CONNECTIONS = [
    "postgres://user:p%40ss@db.example:5433/archsync",
    "postgresql://user@db/archsync?sslmode=require&connect_timeout=5",
    "postgres://db/archsync?schema=pacs_views&revision=sequence&overlap=500",
    "postgres://user:pass@/archsync?host=%2Fvar%2Frun%2Fpostgresql",
    "postgres://user:pass@%2Fvar%2Frun%2Fpostgresql/archsync",
    "postgres://u:p@h/d?__extra__=%7B%22schema%22%3A+%22views%22%2C+%22overlap%22%3A+7%7D",
    '{"conn_type": "postgres", "host": "db", "login": "u", "password": "p@", "port": "5433", "extra": {"schema": "v"}}',
    '{"conn_type": "postgres", "host": "db", "schema": "d", "extra": "{\\"overlap\\": 5}"}',
]


@pytest.mark.parametrize("text", CONNECTIONS)
def test_connection_texts_are_read_as_airflow_reads_them(monkeypatch, text) -> None:
    from airflow.models.connection import Connection

    from archsync.hooks.connection_text import from_environment

    monkeypatch.setenv("AIRFLOW_CONN_SOME_ARCHIVE", text)
    ours = from_environment("some_archive")
    if text.startswith("{"):
        theirs = Connection.from_json(text, conn_id="some_archive")
    else:
        theirs = Connection(conn_id="some_archive", uri=text)
    assert ours is not None
    for name in ("host", "port", "login", "password", "schema", "extra_dejson"):
        assert (getattr(ours, name) or None) == (getattr(theirs, name) or None), name
