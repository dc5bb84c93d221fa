"""Reading from a hot standby, whose snapshots do not list the transactions that are still running on the primary."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from archsync.launcher.postgres import free_port
from archsync.platformdb.reader import Platform


@pytest.fixture
def standby_dsn(postgres, platform_dsn, open_tmp_path) -> Iterator[str]:
    """The same database on a streaming standby of the test server."""
    data, port = postgres.data_dir / f"standby-{free_port()}", free_port()
    postgres._run(
        "pg_basebackup", "-D", str(data), "-d", postgres.dsn(), "--checkpoint=fast", "--wal-method=stream",
        "--write-recovery-conf", "--no-sync",
    )  # fmt: skip
    settings = (
        "listen_addresses=127.0.0.1",
        f"port={port}",
        "unix_socket_directories=''",
        "max_connections=200",
        "fsync=off",
    )
    options = " ".join(f"-c {setting}" for setting in settings)
    postgres._run("pg_ctl", "-w", "-D", str(data), "-l", str(data / "standby.log"), "-o", options, "start")
    yield platform_dsn.replace(f":{postgres.port}/", f":{port}/")
    postgres._run("pg_ctl", "-w", "-D", str(data), "-m", "immediate", "stop")


def wait_for_replay(primary: psycopg.Connection, standby_dsn: str) -> None:
    """Until the standby shows all that the primary committed."""
    target = primary.execute("select pg_current_wal_flush_lsn()").fetchone()[0]
    deadline = time.monotonic() + 30
    with psycopg.connect(standby_dsn, autocommit=True) as standby:
        while not standby.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", [target]).fetchone()[0]:
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.05)


def test_a_late_commit_is_not_missed_on_a_standby(platform_dsn, standby_dsn, add_studies, dba):
    add_studies(2)
    dba.execute("set synchronous_commit = on")
    with psycopg.connect(platform_dsn) as early, psycopg.connect(platform_dsn, autocommit=True) as late:
        for session in (early, late):
            session.execute("set synchronous_commit = on")
        early.commit()
        early.execute("update pacs.study set exam_status = 'Completed' where study_key = 1")
        late.execute("update pacs.study set exam_status = 'Completed' where study_key = 2")
        wait_for_replay(late, standby_dsn)
        with Platform.from_dsn(standby_dsn) as platform:
            watermark = platform.fetch_changes(None).watermark
            snapshot = platform_snapshot(standby_dsn)
            assert snapshot.endswith(":"), "a standby's own snapshot hides the running transaction; that is the trap"

            early.commit()
            wait_for_replay(late, standby_dsn)
            assert platform.has_changes(watermark)
            changes = platform.fetch_changes(watermark)
            assert not changes.is_full
            assert "1" in changes.study_keys
            assert platform.fetch_changes(changes.watermark).study_keys == ()


def platform_snapshot(dsn: str) -> str:
    with psycopg.connect(dsn) as session:
        return session.execute("select pg_current_snapshot()::text").fetchone()[0]
