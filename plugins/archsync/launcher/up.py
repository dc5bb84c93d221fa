"""Runs Airflow with archsync on this machine: ``python -m archsync.launcher.up``, until Ctrl-C or SIGTERM.

PostgreSQL → databases and their migrations → Airflow's scheduler, DAG processor, triggerer and API server. The demo
(``demo.py``) is the same with a platform and archives beside it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import psycopg

from archsync.errors import ArchsyncError
from archsync.launcher import airflow_env
from archsync.launcher.components import ComponentFailed, Supervisor
from archsync.launcher.postgres import EmbeddedPostgres
from archsync.launcher.state import CHECKOUT, State
from archsync.ledger.migrate import migrate

_COMPONENTS = {
    # Logs are read from the disk we share; nothing needs to serve them.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
    "api-server": ("api-server",),
}
_HEALTHY_TIMEOUT_S = 240.0
_PREFERRED_UI_PORT = 8080


class Installation:
    """A local installation; as a context manager it has its databases up, and stops everything at the end.

    Args:
        state: where it keeps what a second start finds again.
        ui_port: of Airflow's API server and UI; None: the one used last, 8080, or a free one.
        postgres_port: None: the one used last, or a free one.
        report: gets one line for each step.
        extra_settings: environment variables beside, or instead of, those of ``airflow_env``.
    """

    def __init__(
        self,
        state: State,
        *,
        ui_port: int | None,
        postgres_port: int | None,
        report: Callable[[str], None],
        extra_settings: Mapping[str, str] | None = None,
    ) -> None:
        self.state = state
        self.report = report
        self.postgres = EmbeddedPostgres(state.postgres_folder, port=postgres_port)
        self._wanted_ui_port = ui_port
        self._extra_settings = dict(extra_settings or {})
        self._supervisor: Supervisor | None = None
        self.passwords: dict[str, str] = {}
        self.settings: dict[str, str] = {}

    @property
    def supervisor(self) -> Supervisor:
        """The processes of this installation."""
        assert self._supervisor is not None, "used as a context manager"
        return self._supervisor

    @property
    def url(self) -> str:
        """Where the UI is."""
        return self.settings["AIRFLOW__API__BASE_URL"]

    @property
    def ledger_dsn(self) -> str:
        """URI of the ledger database."""
        return self.postgres.dsn(airflow_env.LEDGER_DATABASE)

    @property
    def platform_dsn(self) -> str:
        """URI of the platform database."""
        return self.postgres.dsn(airflow_env.PLATFORM_DATABASE)

    def __enter__(self) -> Self:
        self.passwords = airflow_env.write_passwords(self.state)
        # A launcher killed together with its guard leaves a server behind: take it over.
        self.postgres.start()
        try:
            self._prepare_databases()
        except BaseException as exc:
            self.__exit__(type(exc), exc, exc.__traceback__)
            self.postgres.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._supervisor is not None:
                self._supervisor.__exit__(kind, error, traceback)
        finally:
            self.state.unlock()

    def _prepare_databases(self) -> None:
        ui_port = self.state.port("ui", wanted=self._wanted_ui_port, preferred=_PREFERRED_UI_PORT)
        self.settings = {**airflow_env.own_settings(self.state, self.postgres, ui_port), **self._extra_settings}
        self.state.write_environment(self.settings)
        supervisor = Supervisor(
            airflow_env.process_environment(self.settings),
            working_folder=self.state.airflow_home,
            logs=self.state.logs,
            report=self.report,
            keep_open=self.state.lock_file,
        )
        self._supervisor = supervisor.__enter__()
        supervisor.stop_at_exit(self.postgres)
        self.report(f"PostgreSQL {self.postgres.version} runs on 127.0.0.1:{self.postgres.port}")
        for name in (airflow_env.AIRFLOW_DATABASE, airflow_env.LEDGER_DATABASE, airflow_env.PLATFORM_DATABASE):
            self.postgres.create_database(name, if_missing=True)
        self._migrate_airflow()
        if applied := migrate(self.ledger_dsn):
            self.report(f"the ledger is migrated ({', '.join(applied)})")
        with psycopg.connect(self.platform_dsn) as connection:
            connection.execute((CHECKOUT / "include" / "platform" / "schema.sql").read_bytes())

    def _migrate_airflow(self) -> None:
        # The command takes seconds also when there is nothing to do.
        stamp = self.state.airflow_home / "migrated"
        airflow_version = version("apache-airflow-core")
        if stamp.exists() and stamp.read_text() == airflow_version:
            return
        self.report(f"creating the database of Airflow {airflow_version} ...")
        self.supervisor.run("db-migrate", "airflow", "db", "migrate")
        stamp.write_text(airflow_version)

    def start_airflow(self) -> None:
        """Start Airflow's components and wait until they say they are healthy."""
        self.report("starting Airflow (10 to 30 seconds) ...")
        for name, arguments in _COMPONENTS.items():
            self.supervisor.start(name, "airflow", *arguments)
        deadline = time.monotonic() + _HEALTHY_TIMEOUT_S
        while missing := self._unhealthy():
            if time.monotonic() > deadline:
                logs = "\n".join(self.supervisor.log_tail(name) for name in _COMPONENTS if name in missing)
                raise ComponentFailed(f"Airflow is not healthy, missing: {', '.join(missing)}\n{logs}")
            self.supervisor.check()
            time.sleep(0.2)
        # The part of the API that tasks talk to is built at its first request, which would stall the first tasks.
        self._get("/execution/health")

    def _unhealthy(self) -> list[str]:
        try:
            health = json.loads(self._get("/api/v2/monitor/health"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return ["api-server"]
        parts = {"metadatabase": "metadata database", "scheduler": "scheduler", "triggerer": "triggerer"}
        parts["dag_processor"] = "dag-processor"
        return [name for key, name in parts.items() if (health.get(key) or {}).get("status") != "healthy"]

    def _get(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + path, timeout=30) as answer:
            body: bytes = answer.read()
            return body


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that the launchers share."""
    parser.add_argument("--port", type=_port, help="port of Airflow's UI (default: the last one, 8080, or a free one)")
    parser.add_argument("--postgres-port", type=_port, help="port of PostgreSQL (default: the last, or a free one)")
    parser.add_argument("--reset", action="store_true", help="start afresh: wipe all data of earlier starts")
    parser.add_argument(
        "--state", type=Path, metavar="FOLDER", help="keep data here (default: $ARCHSYNC_STATE, or .archsync)"
    )


def open_state(options: argparse.Namespace) -> State:
    """Lock the state folder, wiped if the options say so."""
    state = State(options.state)
    if options.reset:
        EmbeddedPostgres(state.postgres_folder).stop()
        state.wipe()
    return state


def run_until_told(program: Callable[[], int]) -> NoReturn:
    """Run a launcher; Ctrl-C, SIGTERM and a closed terminal end it in good order, an error in two lines and code 1."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        code = program()
    except KeyboardInterrupt:
        code = 0
    except ArchsyncError as exc:
        print(f"\narchsync: {exc.message}\n{exc.next_step}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _stop(_number: int, _frame: object) -> NoReturn:
    # Stopping takes a few seconds; nothing is to break into it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("\nStopping ...", flush=True)
    raise KeyboardInterrupt


class Reporter:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started_s:6.1f} s] {line}", flush=True)


def print_login(installation: Installation) -> None:
    """Say where the UI is and how to log in."""
    print(f"\n  Airflow:  {installation.url}")
    for user, password in installation.passwords.items():
        print(f"  log-in:   {user} / {password}")
    folders = {installation.state.folder, installation.postgres.data_dir}
    print(f"  data:     {', '.join(str(f) for f in sorted(folders))}\n", flush=True)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return int(text)


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="archsync.launcher.up", description=(__doc__ or "").split("\n", 1)[0])
    add_arguments(parser)
    options = parser.parse_args(arguments)
    report = Reporter()
    with Installation(
        open_state(options), ui_port=options.port, postgres_port=options.postgres_port, report=report
    ) as installation:
        installation.start_airflow()
        report("Airflow is ready; Ctrl-C stops it")
        print_login(installation)
        while True:
            installation.supervisor.check()
            time.sleep(0.5)


if __name__ == "__main__":
    run_until_told(_main)
