"""A real Airflow with archsync, as tests of several tiers start it: launcher, platform, archives."""

from __future__ import annotations

import json
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

WAIT_S = 90.0


@dataclass
class Stack:
    """The running installation, and what tests do to it."""

    installation: Any
    folder: Path
    platform: Any
    archives: dict[str, Any] = field(default_factory=dict)
    receivers: dict[str, Any] = field(default_factory=dict)
    _token: str = ""

    def wait_for(self, look: Callable[[], Any], timeout_s: float, say: Callable[[], Any]) -> Any:
        """Look until it is true and return it; say what is instead when time is up."""
        deadline = time.monotonic() + timeout_s
        while not (seen := look()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s:.0f} s: {say()}")
            time.sleep(0.05)
        return seen

    # -- Airflow's REST API ------------------------------------------------------------------------------------------

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call Airflow's API as its admin."""
        return self.api_as("admin", method, path, body)

    def api_as(self, user: str, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if path != "/auth/token":
            login = {"username": user, "password": self.installation.passwords[user]}
            headers["Authorization"] = "Bearer " + self.api_as(user, "POST", "/auth/token", login)["access_token"]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.installation.url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def pause(self, dag_id: str, paused: bool) -> None:
        self.api("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": paused})

    def clear(self, job: Any) -> None:
        """Press Clear on the run of a job, once Airflow has seen it end."""
        path = f"/api/v2/dags/{job.dag_id}/dagRuns/{job.run_id}"
        self.wait_for(lambda: self.api("GET", path)["state"] in ("failed", "success"), WAIT_S, lambda: "it still runs")
        body = {"dry_run": False, "dag_run_id": job.run_id, "only_failed": False, "reset_dag_runs": True}
        self.api("POST", f"/api/v2/dags/{job.dag_id}/clearTaskInstances", body)

    # -- the ledger ------------------------------------------------------------------------------------------------

    def ledger(self) -> Any:
        from archsync.ledger.database import Ledger

        return Ledger(self.installation.ledger_dsn)

    def jobs_of(self, study_key: str, destination: str) -> list[Any]:
        """The jobs on a study at a destination, oldest first."""
        from archsync.ledger import jobs

        with self.ledger() as ledger:
            rows = ledger.fetch_all(
                "select job_id from job join destination using (destination_id)"
                " where study_key = %s and name = %s order by job_id",
                [study_key, destination],
            )
            return [jobs.get(ledger, row["job_id"]) for row in rows]

    def why_it_waits(self, job: Any) -> Any:
        """Why a job waits, as listings say it."""
        from archsync.ledger import jobs
        from archsync.ledger.jobs import JobFilter
        from archsync.services import dispatch

        wanted = JobFilter(destinations=(job.destination,), study_instance_uid=job.study_instance_uid, limit=1)
        with self.ledger() as ledger:
            explained = dispatch.explain(ledger, jobs.listing(ledger, wanted), now=datetime.now(UTC))
        return explained[0].wait_reason

    def wait_for_job(self, study_key: str, destination: str, *statuses: Any, timeout_s: float = WAIT_S) -> Any:
        """Wait until the latest job on a study has one of these statuses."""

        def reached() -> Any:
            found = self.jobs_of(study_key, destination)
            return found[-1] if found and found[-1].status in statuses else None

        return self.wait_for(reached, timeout_s, lambda: f"jobs are {self.jobs_of(study_key, destination)}")

    def wait_until_parsed(self, dag_id: str) -> None:
        """Wait until Airflow has parsed a DAG."""

        def parsed() -> bool:
            try:
                return bool(self.api("GET", f"/api/v2/dags/{dag_id}"))
            except urllib.error.HTTPError as exc:
                if exc.code != 404:
                    raise
                return False

        self.wait_for(parsed, WAIT_S, lambda: f"{dag_id} is not parsed")

    def add_destination(self, name: str, *, honours_changes: bool = False, **settings: Any) -> Any:
        """Make a destination with an archive of its own, and its pools in Airflow.

        ``honours_changes``: the archive takes rejection notes and HL7 messages, and the destination says so.
        """
        from archsync.core.destination import Destination, Verification
        from archsync.launcher.postgres import free_port
        from archsync.ledger import destinations
        from archsync.simulate.archive import SimulatedArchive
        from archsync.simulate.iocm import IocmRules

        # A port of its own, which it keeps when a test stops and starts it.
        archive = SimulatedArchive(
            self.folder / "archives" / name,
            port=free_port(),
            ae_title=name.upper(),
            iocm=IocmRules() if honours_changes else None,
        )
        archive.start()
        self.archives[name] = archive
        host, port = archive.address
        if honours_changes:
            self.receivers[name] = receiver = archive.make_adt_receiver(free_port())
            receiver.start()
            adt = {"adt_host": "127.0.0.1", "adt_port": receiver.address[1], "adt_receiving_application": "VNA"}
            settings = {"supports_iocm": True, **adt, **settings}
        chosen = {
            "settle_s": 0.0,
            "verification": Verification.C_FIND,
            "retry_delay_s": 1.0,
            "retry_cap_s": 2.0,
            "probe_delay_s": 1.0,
            "probe_cap_s": 2.0,
            "breaker_threshold": 1,
            "dimse_timeout_s": 10.0,
            **settings,
        }
        with self.ledger() as ledger:
            made = destinations.insert(
                ledger, Destination(name=name, called_ae_title=name.upper(), host=host, port=port, **chosen)
            )
            ledger.execute("delete from platform_watermark")
        self.installation.supervisor.run(f"pools-{name}", "archsync", "pools", "sync")
        return made

    # -- processes ---------------------------------------------------------------------------------------------------

    def task_process(self, dag_id: str, timeout_s: float = WAIT_S) -> psutil.Process:
        """Wait for a process that runs a task of this DAG, and return it."""
        scheduler = psutil.Process(self.installation.supervisor.pid("scheduler"))

        def running() -> psutil.Process | None:
            found = self.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/~/taskInstances?state=running&state=queued")
            titles = {f"airflow worker -- {ti['id']}" for ti in found["task_instances"]}
            return next((p for p in scheduler.children(recursive=True) if _title(p) in titles), None)

        return self.wait_for(running, timeout_s, lambda: f"no task of {dag_id} runs")


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def stack(open_tmp_path: Path) -> Iterator[Stack]:
    """The installation with the destination ``vna1`` (Completed, checked by C-FIND) and its archive."""
    from archsync.launcher.postgres import free_port
    from archsync.launcher.state import State
    from archsync.launcher.up import Installation
    from archsync.simulate.platform import SimulatedPlatform

    folder = Path(tempfile.mkdtemp(prefix="stack-", dir=open_tmp_path))
    folder.chmod(0o755)
    lines: list[str] = []
    with Installation(State(folder), ui_port=free_port(), postgres_port=None, report=lines.append) as installation:
        platform = SimulatedPlatform(installation.platform_dsn, folder / "platform", slices=4, matrix=64)
        platform.install()
        stack = Stack(installation, folder, platform)
        stack.add_destination("vna1")
        installation.start_airflow()
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(installation, ended), daemon=True)
        watcher.start()
        stack.wait_until_parsed("archsync_archive__vna1")
        yield stack
        ended.set()
        watcher.join()
        for peer in (*stack.receivers.values(), *stack.archives.values()):
            peer.stop()


def _watch(installation: Any, ended: threading.Event) -> None:
    """Start again what a test killed, as the launcher does."""
    while not ended.wait(0.3):
        installation.supervisor.check()
