"""``archsync db``, ``archsync platform`` and ``archsync simulate``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest


def test_migrate_makes_the_tables_and_may_run_again(run_bare, empty_dsn) -> None:
    first = run_bare("--ledger-dsn", empty_dsn, "db", "migrate").stdout.splitlines()
    assert first[0] == "applied 0001_ledger.sql"
    assert first[-1] == "The ledger is up to date."
    assert run_bare("--ledger-dsn", empty_dsn, "db", "migrate").stdout == "The ledger is up to date.\n"
    assert run_bare("--ledger-dsn", empty_dsn, "destination", "list", "--json").stdout == "[]\n"


def test_a_ledger_of_a_newer_version_is_left_alone(run_bare, ledger_dsn) -> None:
    with psycopg.connect(ledger_dsn) as connection:
        connection.execute("insert into schema_migration (name) values ('9999_future.sql')")
    result = run_bare("--ledger-dsn", ledger_dsn, "db", "migrate", status=1)
    assert result.stderr == (
        "error: the ledger was migrated by a newer archsync (it has 9999_future.sql)."
        " Upgrade this archsync; a ledger is never migrated back.\n"
    )


def test_a_user_without_rights_is_an_expected_error(run_bare, postgres, ledger_dsn) -> None:
    role, database = f"guest_{uuid.uuid4().hex[:8]}", urlsplit(ledger_dsn).path[1:]
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(f"create role {role} login password 'x'")
    try:
        guest = f"postgresql://{role}:x@{urlsplit(ledger_dsn).netloc.rpartition('@')[2]}/{database}"
        for arguments in (["db", "migrate"], ["jobs", "list"]):
            result = run_bare("--ledger-dsn", guest, *arguments, status=1)
            assert result.stderr.startswith("error: the ledger database refuses its user: permission denied for ")
    finally:
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"drop role {role}")


def test_a_sound_platform_passes_the_check(run_bare, platform_dsn, pacs) -> None:
    pacs.fill(3)
    output = run_bare("--platform-dsn", platform_dsn, "platform", "check").stdout
    assert "ok      study: 14 columns, 3 rows looked at\n" in output
    assert output.splitlines()[-1].startswith("0 errors, ")


def test_a_broken_view_fails_the_check_with_a_hint(run_bare, platform_dsn) -> None:
    with psycopg.connect(platform_dsn) as connection:
        connection.execute("drop view archsync_platform.instance")
    result = run_bare("--platform-dsn", platform_dsn, "platform", "check", status=1)
    lines = result.stdout.splitlines()
    problem = next(number for number, line in enumerate(lines) if line.startswith("error   instance"))
    assert lines[problem + 1].startswith("        → ")
    assert result.stderr == ""


def test_the_check_as_json_fails_the_same_way(run_bare, platform_dsn) -> None:
    with psycopg.connect(platform_dsn) as connection:
        connection.execute("drop view archsync_platform.instance")
    found = json.loads(run_bare("--platform-dsn", platform_dsn, "platform", "check", "--json", status=1).stdout)
    assert {"view", "column", "level", "message", "hint"} == found[0].keys()
    assert any((item["view"], item["level"]) == ("instance", "error") for item in found)


def test_a_platform_that_does_not_answer_is_an_expected_error(run_bare) -> None:
    result = run_bare("--platform-dsn", "postgresql://nobody@127.0.0.1:1/none", "platform", "check", status=1)
    assert result.stderr.startswith("error: the platform database does not answer: ")


def test_simulate_platform_fills_an_empty_database(run_bare, empty_dsn, tmp_path) -> None:
    arguments = ["simulate", "platform", "--folder", str(tmp_path), "--studies", "3", "--slices", "2", "--once"]
    assert run_bare("--platform-dsn", empty_dsn, *arguments).stdout == "3 studies added.\n"
    assert run_bare("--platform-dsn", empty_dsn, *arguments).stdout == "0 studies added.\n"
    check = run_bare("--platform-dsn", empty_dsn, "platform", "check").stdout
    assert "3 rows looked at" in check


@pytest.fixture
def start_process():
    """Starts the command line in a process of its own, which is gone at the end of the test."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "archsync", *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_simulate_archive_listens_until_it_is_told_to_stop(start_process, run, tmp_path: Path, number) -> None:
    process = start_process("simulate", "archive", "--folder", str(tmp_path), "--port", "0", "--ae-title", "DEMO")
    line = process.stdout.readline()
    assert line.startswith("Archive DEMO listens on 127.0.0.1 port ")
    port = line.split("port ")[1].split(",")[0]
    run("destination", "create", "demo", "--ae-title", "DEMO", "--host", "127.0.0.1", "--port", port)
    run("destination", "test", "demo")
    process.send_signal(number)
    assert process.wait(timeout=20) == 0


def test_simulate_platform_lets_exams_move_on_until_it_is_told_to_stop(start_process, platform_dsn, tmp_path) -> None:
    process = start_process(
        "--platform-dsn", platform_dsn, "simulate", "platform", "--folder", str(tmp_path),
        "--studies", "2", "--slices", "2", "--interval", "0.1",
    )  # fmt: skip
    assert process.stdout.readline() == "2 studies added.\n"
    assert "Pending → Inflight" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_simulate_archive_refuses_a_bad_ae_title_and_a_port_in_use(run_bare, start_process, tmp_path) -> None:
    arguments = ["simulate", "archive", "--folder", str(tmp_path)]
    refused = run_bare(*arguments, "--ae-title", "A" * 17, status=2)
    assert "--ae-title: an AE title has at most 16 characters" in refused.stderr
    line = start_process(*arguments, "--port", "0").stdout.readline()
    port = line.split("port ")[1].split(",")[0]
    second = start_process(*arguments, "--port", port)
    assert second.wait(timeout=20) == 2
    assert second.stderr.read().startswith(f"error: port: can't listen on 127.0.0.1 port {port} (")
