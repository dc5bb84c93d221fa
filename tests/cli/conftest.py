"""The command line with a ledger and a platform of the test's own, and Airflow out of sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archsync.cli.main import archsync
from archsync.ledger.database import Ledger
from archsync.simulate.platform import SimulatedPlatform

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def bare_environment() -> dict[str, str | None]:
    """Variables that hide Airflow (None: not set) and name no database."""
    hidden = [name for name in os.environ if name.startswith(("AIRFLOW_", "ARCHSYNC_"))]
    return {**dict.fromkeys(hidden), "HOME": "/nonexistent"}


@pytest.fixture
def site_environment(request, bare_environment, ledger_dsn: str) -> dict[str, str | None]:
    """The same, with the ledger named; and the platform, for tests that ask for one."""
    environment = {**bare_environment, "ARCHSYNC_LEDGER_DSN": ledger_dsn}
    if "platform_dsn" in request.fixturenames:
        environment["ARCHSYNC_PLATFORM_DSN"] = request.getfixturevalue("platform_dsn")
    return environment


def _runner(environment: dict[str, str | None]) -> Run:
    def invoke(*arguments: str, status: int = 0, typed: str | None = None, **more: str | None) -> Result:
        result = CliRunner(env={**environment, **more}).invoke(archsync, arguments, input=typed)
        assert result.exit_code == status, (arguments, result.output, result.exception)
        return result

    return invoke


@pytest.fixture
def run(site_environment) -> Run:
    """Runs the command line in this process; ``status`` is what it has to exit with."""
    return _runner(site_environment)


@pytest.fixture(scope="session")
def run_bare(bare_environment) -> Run:
    """The same where no database is named."""
    return _runner(bare_environment)


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Runs a command with ``--json`` and gives what it says."""

    def invoke(*arguments: str, status: int = 0) -> Any:
        return json.loads(run(*arguments, "--json", status=status).stdout)

    return invoke


@pytest.fixture
def run_process(site_environment: dict[str, str | None]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a process of its own, with the databases named and Airflow hidden."""

    def invoke(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if name not in site_environment}
        wanted = {name: value for name, value in site_environment.items() if value is not None}
        return subprocess.run(
            [sys.executable, *arguments],
            env={**inherited, **wanted, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return invoke


@pytest.fixture
def ledger(ledger_dsn: str):
    with Ledger(ledger_dsn) as opened:
        yield opened


@pytest.fixture
def pacs(platform_dsn: str, tmp_path: Path) -> SimulatedPlatform:
    """The platform with its facilities (CITY in metro; NORTH and SOUTH in region), without studies."""
    platform = SimulatedPlatform(platform_dsn, tmp_path / "pacs", slices=2, matrix=16)
    platform.install()
    return platform


@pytest.fixture
def audit(ledger: Ledger) -> Callable[[], list[tuple[str, str, str, str]]]:
    """Gives who did what: actor, action, subject, detail, oldest first."""

    def read() -> list[tuple[str, str, str, str]]:
        rows = ledger.fetch_all("select actor, action, subject, detail from audit_event order by audit_event_id")
        return [(row["actor"], row["action"], row["subject"], row["detail"]) for row in rows]

    return read
