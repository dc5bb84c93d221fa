"""Help, mistakes, exit statuses, and how the command line finds its databases."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import click
import pytest

from archsync.cli.main import COMMANDS, archsync


def commands(group: click.Command = archsync, path: tuple[str, ...] = ()):
    """Every command with its words."""
    if isinstance(group, click.Group):
        with click.Context(group) as context:
            for name in group.list_commands(context):
                yield from commands(group.get_command(context, name), (*path, name))
    else:
        yield path, group


ALL_COMMANDS = list(commands())


def test_the_help_lists_every_command(run_bare) -> None:
    output = run_bare("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in output


@pytest.mark.parametrize("path", [path for path, _ in ALL_COMMANDS], ids=" ".join)
def test_every_command_explains_itself_and_its_options(run_bare, path) -> None:
    command = dict(ALL_COMMANDS)[path]
    assert command.help
    output = run_bare(*path, "--help").stdout
    assert f"Usage: archsync {' '.join(path)}" in output
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help or parameter.show_default, parameter.name


def test_the_command_line_starts_without_its_heavy_libraries(run_process) -> None:
    done = run_process(
        "-c",
        "import sys, archsync.cli.main\n"
        "print([name for name in ('airflow', 'psycopg', 'pydicom', 'pynetdicom', 'yaml') if name in sys.modules])",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_it_runs_as_a_module_in_a_process_of_its_own(run_process) -> None:
    done = run_process("-m", "archsync", "destination", "list", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_a_mistake_in_a_process_of_its_own_is_one_line_and_status_2(run_process) -> None:
    done = run_process("-m", "archsync", "jobs", "list", "--limit", "many")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: Invalid value for '--limit': 'many' is not a valid integer range. Try 'archsync jobs list --help'.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["destinatoin"], "No such command 'destinatoin'. Did you mean 'destination'? Try 'archsync --help'."),
        (["jobs", "list", "--stat", "failed"], "No such option '--stat'"),
        (["jobs", "list", "--status", "broken"], "Invalid value for '--status'"),
        (["jobs", "show"], "Missing argument 'JOB'."),
        (["jobs", "cancel", "3"], "Missing option '--reason'."),
        (["held"], "Missing option '--destination'."),
        (["destination", "set", "vna1"], "Missing argument 'KEY=VALUE...'."),
        (["destination", "set", "vna1", "port"], "'port' is no setting; write it as key=value."),
        (["destination", "set", "vna1", "port=1", "port=2"], "port is given twice."),
    ],
)
def test_a_mistyped_command_gets_one_line_and_status_2(run_bare, arguments, message) -> None:
    result = run_bare(*arguments, status=2)
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_without_any_named_ledger_it_says_how_to_name_one(run_bare) -> None:
    result = run_bare("jobs", "list", status=2)
    assert result.stderr.startswith("error: no ledger is named. Give --ledger-dsn or set ARCHSYNC_LEDGER_DSN")


def test_a_ledger_that_does_not_answer_is_an_expected_error(run_bare) -> None:
    result = run_bare("--ledger-dsn", "postgresql://nobody@127.0.0.1:1/none", "jobs", "list", status=1)
    assert result.stderr.startswith("error: the ledger database does not answer: ")
    assert "Check the database server" in result.stderr


def test_a_ledger_without_tables_says_to_migrate(run_bare, empty_dsn) -> None:
    result = run_bare("--ledger-dsn", empty_dsn, "jobs", "list", status=1)
    assert result.stderr == "error: the ledger database has no tables. Run `archsync db migrate`.\n"


def test_a_malformed_dsn_is_refused_without_repeating_its_password(run_bare) -> None:
    result = run_bare("--ledger-dsn", "host=db passwordhunter2", "jobs", "list", status=2)
    assert "--ledger-dsn" in result.stderr
    assert "hunter2" not in result.stderr


def connection_as_json(dsn: str, **extra: object) -> str:
    parts = urlsplit(dsn)
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": parts.hostname,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password,
            "schema": parts.path[1:],
            "extra": extra,
        }
    )


IMPORTS_AIRFLOW = """
import sys
from archsync.cli.main import archsync
try:
    archsync(sys.argv[1:])
except SystemExit as exc:
    print(exc.code, "airflow" in sys.modules)
"""


@pytest.mark.parametrize("as_json", [False, True], ids=["URI", "JSON"])
def test_airflow_connections_in_the_environment_are_read_without_importing_airflow(
    run_process, ledger_dsn, platform_dsn, pacs, as_json
) -> None:
    if as_json:
        ledger, platform = connection_as_json(ledger_dsn), connection_as_json(platform_dsn, schema="archsync_platform")
    else:
        ledger = ledger_dsn.replace("postgresql://", "postgres://")
        platform = platform_dsn.replace("postgresql://", "postgres://") + "?schema=archsync_platform"
    done = run_process(
        "-c",
        IMPORTS_AIRFLOW,
        "gateway",
        "create",
        "north_1",
        "--facility-group",
        "region",
        ARCHSYNC_LEDGER_DSN="",
        ARCHSYNC_PLATFORM_DSN="",
        AIRFLOW_CONN_ARCHSYNC_LEDGER=ledger,
        AIRFLOW_CONN_ARCHSYNC_PLATFORM=platform,
    )
    assert done.stdout.splitlines() == ["Gateway north_1 made: facility group region, queue north_1.", "0 False"]


def test_a_malformed_connection_variable_is_named_and_its_text_is_not_shown(run_bare) -> None:
    result = run_bare("jobs", "list", status=1, AIRFLOW_CONN_ARCHSYNC_LEDGER='{"password": "hunter2"')
    assert "the variable AIRFLOW_CONN_ARCHSYNC_LEDGER is neither" in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("given_as", ["option", "connection"])
def test_the_schema_of_the_platforms_views_is_honoured(run_bare, platform_dsn, given_as) -> None:
    dsn = f"{platform_dsn}?schema=elsewhere"
    if given_as == "option":
        result = run_bare("--platform-dsn", dsn, "platform", "check", status=1)
    else:
        result = run_bare("platform", "check", status=1, AIRFLOW_CONN_ARCHSYNC_PLATFORM=dsn)
    assert "elsewhere" in result.stdout


def test_a_wrong_revision_mode_of_the_platform_is_an_expected_error(run_bare) -> None:
    result = run_bare("--platform-dsn", "postgresql://127.0.0.1/pacs?revision=daily", "platform", "check", status=1)
    assert result.stderr.startswith('error: platform connection, extra: "revision" must be')


def test_the_audit_names_the_person_or_the_actor_given(run, audit, monkeypatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "grace")
    settings = ["--ae-title", "A", "--host", "h", "--port", "104"]
    run("destination", "create", "one", *settings)
    run("--actor", "change 4711", "destination", "create", "two", *settings)
    assert [(actor, subject) for actor, _, subject, _ in audit()] == [
        ("grace", "destination one"),
        ("change 4711", "destination two"),
    ]
