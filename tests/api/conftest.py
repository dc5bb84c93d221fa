"""Airflow's real API server in this process, with the plugin loaded as Airflow loads it, a ledger and a platform.

One user for each role of Airflow's simple auth manager; every user logs in through Airflow's own ``/auth/token``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from archsync.core.destination import Destination
from archsync.ledger import destinations
from archsync.ledger.database import Ledger

ROLES = ("viewer", "user", "op", "admin")
API = "/archsync/api/v1"
PASSWORD = "a password of the tests"


@pytest.fixture(scope="session")
def airflow_app(airflow_db: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """Airflow's API server as ``airflow api-server`` builds it."""
    passwords = tmp_path_factory.mktemp("auth") / "passwords.json"
    passwords.write_text(json.dumps(dict.fromkeys(ROLES, PASSWORD)))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own, while it imports itself
        patch.setenv(
            "AIRFLOW__CORE__AUTH_MANAGER",
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        )
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", ",".join(f"{role}:{role}" for role in ROLES))
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        from airflow.api_fastapi.app import create_app, purge_cached_app

        purge_cached_app()
        yield create_app(apps="core")
        purge_cached_app()


@pytest.fixture(scope="session")
def tokens(airflow_app: FastAPI) -> dict[str, str]:
    """A token for each role."""
    client = TestClient(airflow_app)
    found = {}
    for role in ROLES:
        answer = client.post("/auth/token", json={"username": role, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        found[role] = answer.json()["access_token"]
    return found


Client = Callable[[str | None], TestClient]


@pytest.fixture
def client_of(airflow_app: FastAPI, tokens: dict[str, str], ledger_dsn: str, monkeypatch) -> Iterator[Client]:
    """Gives a client that is logged in with a role (None: not at all), at an Airflow with this test's ledger.

    The platform's connection is there for tests that ask for ``platform_dsn`` or ``pacs``, too.
    """
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", ledger_dsn.replace("postgresql://", "postgres://", 1))
    made: list[TestClient] = []

    def client(role: str | None) -> TestClient:
        headers = {"Authorization": f"Bearer {tokens[role]}"} if role else {}
        made.append(TestClient(airflow_app, headers=headers, raise_server_exceptions=False))
        return made[-1]

    yield client
    for opened in made:
        opened.close()


@pytest.fixture
def admin(client_of: Client) -> TestClient:
    """A client of Airflow's admin."""
    return client_of("admin")


@pytest.fixture
def ledger(ledger_dsn: str) -> Iterator[Ledger]:
    """The ledger that the API reads."""
    with Ledger(ledger_dsn) as opened:
        yield opened


@pytest.fixture
def platform_connection(platform_dsn: str, monkeypatch) -> str:
    """Airflow's connection to the platform of this test; gives its URI."""
    uri = platform_dsn.replace("postgresql://", "postgres://", 1)
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", f"{uri}?schema=archsync_platform")
    return platform_dsn


@pytest.fixture
def pacs(platform_connection: str, tmp_path: Path) -> Any:
    """The simulated platform behind that connection, with its facilities and without studies."""
    from archsync.simulate.platform import SimulatedPlatform

    platform = SimulatedPlatform(platform_connection, tmp_path / "pacs", slices=2, matrix=16)
    platform.install()
    return platform


@pytest.fixture
def add_destination(ledger: Ledger) -> Callable[..., Destination]:
    """Makes a destination in the ledger; nothing listens at its address."""

    def add(name: str = "vna1", **values: Any) -> Destination:
        settings = {"called_ae_title": name.upper(), "host": "127.0.0.1", "port": 9, "settle_s": 0.0, **values}
        return destinations.insert(ledger, Destination(name=name, **settings))

    return add


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def add_job(ledger: Ledger) -> Callable[..., int]:
    """Puts a job into the ledger as it stands in its row; gives its number."""
    made = 0

    def add(destination: str = "vna1", **columns: Any) -> int:
        nonlocal made
        made += 1
        values = {
            "job_type": "archive",
            "priority": 2,
            "patient_key": f"p{made}",
            "study_key": f"s{made}",
            "study_instance_uid": f"1.2.3.{made}",
            "facility_id": "CITY",
            "instances_total": 3,
            **columns,
        }
        names = ", ".join(values)
        marks = ", ".join(["%s"] * len(values))
        row = ledger.fetch_one(
            f"insert into job (destination_id, {names}) select destination_id, {marks} from destination"
            " where name = %s returning job_id",
            [*values.values(), destination],
        )
        assert row is not None, f"there is no destination {destination}"
        return int(row["job_id"])

    return add


@pytest.fixture
def planned(pacs: Any, platform_connection: str, ledger: Ledger) -> Callable[..., int]:
    """Puts a study on the platform and plans it; gives the number of its job."""
    from archsync.platformdb.reader import Platform
    from archsync.services import planner

    def plan(**values: Any) -> int:
        study_key = pacs.add_volume(exam_status="Completed", **values)
        with Platform.from_dsn(platform_connection) as platform:
            planner.observe(platform, ledger)
            planner.plan_queued(platform, ledger, now=datetime.now(UTC))
        row = ledger.fetch_one("select job_id from job where study_key = %s", [study_key])
        assert row is not None, "the study is not due"
        return int(row["job_id"])

    return plan
