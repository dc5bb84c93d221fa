"""Jobs per second and CPU per job of small archive jobs, beside an Airflow no-op of the same shape, in one run.

    scripts/benchmark jobs [--jobs 100] [--rounds 3] [--json FILE]

Interleaved A B A B on one installation (the launcher's, in a temporary folder). A: no-op DAG runs made by partition
keys. B: studies of one small instance each, committed as Completed at once, archived to a simulated archive (without
verification). CPU is that of the whole machine less the archive's, so run it on a quiet machine; trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import psycopg

from archsync.core.destination import Destination
from archsync.launcher.postgres import free_port
from archsync.launcher.state import State
from archsync.launcher.up import Installation
from archsync.ledger import destinations
from archsync.ledger.database import Ledger
from archsync.simulate.platform import SimulatedPlatform

SLOTS = 16


def box_cpu_s() -> float:
    """CPU seconds the whole machine has spent so far."""
    times = psutil.cpu_times()
    return times.user + times.system + times.nice + times.softirq + times.irq


class Bench:
    """An installation with a destination, its archive in a process of its own, and the comparator's DAGs."""

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder = folder
        self.installation = installation
        self.platform = SimulatedPlatform(installation.platform_dsn, folder / "platform", slices=1, matrix=64)
        self.ledger = Ledger(installation.ledger_dsn)
        self.archive: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make the destination and its archive, start Airflow and wait for its DAGs."""
        self.platform.install()
        port = free_port()
        self.archive = subprocess.Popen(
            [sys.executable, "-m", "archsync", "simulate", "archive", "--ae-title", "BENCH", "--port", str(port),
             "--folder", str(self.folder / "archive")],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        destinations.insert(
            self.ledger,
            Destination(
                name="bench", called_ae_title="BENCH", host="127.0.0.1", port=port, settle_s=0, concurrency=SLOTS
            ),
        )
        for pool in ("archsync_bench", "benchmark"):
            self.installation.supervisor.run("pool", "airflow", "pools", "set", pool, str(SLOTS), "benchmark")
        self.installation.start_airflow()
        for dag_id in ("archsync_archive__bench", "benchmark_noop", "benchmark_noop_dispatch"):
            self.wait(lambda dag_id=dag_id: self.has_dag(dag_id), 120)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Call Airflow's API."""
        token_body = json.dumps({"username": "admin", "password": self.installation.passwords["admin"]}).encode()
        json_type = {"Content-Type": "application/json"}
        url = self.installation.url
        with urllib.request.urlopen(urllib.request.Request(f"{url}/auth/token", token_body, json_type)) as answer:
            token = json.load(answer)["access_token"]
        data = None if body is None else json.dumps(body).encode()
        headers = {**json_type, "Authorization": f"Bearer {token}"}
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method)) as answer:
            return json.load(answer)

    def has_dag(self, dag_id: str) -> bool:
        """Whether Airflow has parsed a DAG."""
        return any(dag["dag_id"] == dag_id for dag in self.api("GET", "/api/v2/dags?limit=100")["dags"])

    def wait(self, look: Any, timeout_s: float) -> None:
        """Look until it is true."""
        deadline = time.monotonic() + timeout_s
        while not look():
            if time.monotonic() > deadline:
                raise TimeoutError("the benchmark's jobs did not end")
            self.installation.supervisor.check()
            time.sleep(0.1)

    def measure(self, start: Any, is_done: Any, jobs: int) -> tuple[float, float]:
        """Jobs per second and CPU seconds per job between ``start()`` and ``is_done()``."""
        time.sleep(3)
        assert self.archive is not None
        archive = psutil.Process(self.archive.pid)
        began, cpu, archive_cpu = time.monotonic(), box_cpu_s(), sum(archive.cpu_times()[:2])
        start()
        self.wait(is_done, 600)
        wall = time.monotonic() - began
        used = box_cpu_s() - cpu - (sum(archive.cpu_times()[:2]) - archive_cpu)
        return jobs / wall, used / jobs

    def run_noop(self, jobs: int) -> tuple[float, float]:
        """No-op jobs, from the trigger of their dispatcher to the end of the last."""
        before = self._noop_done()
        body = {"conf": {"jobs": jobs}, "logical_date": None}
        return self.measure(
            lambda: self.api("POST", "/api/v2/dags/benchmark_noop_dispatch/dagRuns", body),
            lambda: self._noop_done() - before >= jobs,
            jobs,
        )

    def _noop_done(self) -> int:
        with psycopg.connect(self.installation.postgres.dsn("airflow")) as connection:
            row = connection.execute(
                "select count(*) from dag_run where dag_id = 'benchmark_noop' and state = 'success'"
            ).fetchone()
        return int(row[0]) if row else 0

    def run_archive(self, jobs: int) -> tuple[float, float]:
        """Archive jobs, from the commit that completes their exams to the last acknowledgement."""
        for _ in range(jobs):
            self.platform.add_volume()
        before = self._archived()

        def complete() -> None:
            with psycopg.connect(self.installation.platform_dsn) as connection:
                connection.execute("update pacs.study set exam_status = 'Completed' where exam_status = 'Pending'")

        return self.measure(complete, lambda: self._archived() - before >= jobs, jobs)

    def _archived(self) -> int:
        row = self.ledger.fetch_one("select count(*) as n from job where status = 'succeeded'")
        return int(row["n"]) if row else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="archsync-benchmark-"))
    folder.chmod(0o755)
    dags = Path(__file__).resolve().parent / "dags"
    results: dict[str, list[tuple[float, float]]] = {"noop": [], "archive": []}
    try:
        with Installation(
            State(folder / "state"),
            ui_port=free_port(),
            postgres_port=None,
            report=print,
            extra_settings={"AIRFLOW__CORE__DAGS_FOLDER": str(dags)},
        ) as installation:
            bench = Bench(folder, installation)
            try:
                bench.prepare()
                bench.run_noop(10), bench.run_archive(10)  # warm up
                for number in range(options.rounds):
                    results["noop"].append(bench.run_noop(options.jobs))
                    results["archive"].append(bench.run_archive(options.jobs))
                    print(f"round {number + 1}: " + ", ".join(_say(name, results[name][-1]) for name in results))
            finally:
                if bench.archive is not None:
                    bench.archive.terminate()
                    bench.archive.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    medians = {
        name: [statistics.median(values) for values in zip(*rounds, strict=True)] for name, rounds in results.items()
    }
    rate = medians["archive"][0] / medians["noop"][0]
    cpu = medians["archive"][1] / medians["noop"][1]
    print("medians: " + ", ".join(_say(name, tuple(values)) for name, values in medians.items()))
    print(f"archive : no-op   jobs/s {rate:.2f}x   CPU per job {cpu:.2f}x")
    if options.json:
        options.json.write_text(json.dumps({"medians": medians, "jobs_per_s_ratio": rate, "cpu_ratio": cpu}, indent=2))


def _say(name: str, measured: tuple[float, ...]) -> str:
    return f"{name} {measured[0]:.1f} jobs/s {measured[1]:.3f} CPU-s/job"


if __name__ == "__main__":
    main()
