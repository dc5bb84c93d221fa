"""The launcher with a real Airflow: starts healthy, mends, stops without a trace, and finds its data again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WAIT_S = 120.0


class Launcher:
    """``python -m archsync.launcher.up`` in a process of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.log = state.with_name("launcher.log")
        command = [sys.executable, "-m", "archsync.launcher.up", "--state", str(state)]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    @property
    def url(self) -> str:
        return self.environment["AIRFLOW__API__BASE_URL"]

    @property
    def environment(self) -> dict[str, str]:
        """What the launcher wrote down for ``scripts/archsync``."""
        script = f'. "{self.state}/env"; env -0'
        output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in output.split("\0") if line)

    def started_processes(self) -> list[psutil.Process]:
        """Everything that runs because of it: its descendants and the server."""
        pid = int((self.state / "postgres" / "cluster" / "postmaster.pid").read_text().split()[0])
        server = psutil.Process(pid)
        return [*psutil.Process(self.process.pid).children(recursive=True), server, *server.children()]

    def component(self, name: str) -> psutil.Process:
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if name in process.cmdline():
                    return process
        raise AssertionError(f"no process {name}")


def get(url, token=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


def log_in(launcher, user):
    passwords = json.loads((launcher.state / "airflow" / "passwords.json").read_text())
    body = json.dumps({"username": user, "password": passwords[user]}).encode()
    request = urllib.request.Request(
        f"{launcher.url}/auth/token", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)["access_token"]


def still_running(processes):
    _, alive = psutil.wait_procs(processes, timeout=45)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def launch(open_tmp_path):
    folder = open_tmp_path / "launcher"
    folder.mkdir()
    folder.chmod(0o711)
    launched = []

    def start():
        launched.append(Launcher(folder / "state"))
        launched[-1].wait_for("Airflow is ready")
        return launched[-1]

    yield start
    for launcher in launched:
        # Its guard stops what it started.
        launcher.process.kill()
        launcher.process.wait()


def test_it_starts_healthy_stops_without_a_trace_and_finds_its_data_again(launch):
    launcher = launch()
    health = get(f"{launcher.url}/api/v2/monitor/health")
    parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
    assert {part: health[part]["status"] for part in parts} == dict.fromkeys(parts, "healthy")
    dags = get(f"{launcher.url}/api/v2/dags?dag_id_pattern=archsync_dispatch", log_in(launcher, "viewer"))
    assert [dag["dag_id"] for dag in dags["dags"]] == ["archsync_dispatch"]
    assert dags["dags"][0]["is_paused"] is False

    ledger = launcher.environment["AIRFLOW_CONN_ARCHSYNC_LEDGER"].replace("postgres://", "postgresql://", 1)
    with psycopg.connect(ledger) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")

    killed = launcher.component("triggerer")
    killed.send_signal(signal.SIGKILL)
    launcher.wait_for("triggerer was killed by signal 9; starting it again")

    processes = launcher.started_processes()
    assert len(processes) > 8
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.process.wait(60) == 0
    assert still_running(processes) == []

    again = launch()
    assert again.environment == launcher.environment | {"_": again.environment["_"]}
    with psycopg.connect(ledger) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)

    processes = again.started_processes()
    os.kill(again.process.pid, signal.SIGKILL)
    assert still_running(processes) == []
