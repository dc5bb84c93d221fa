"""Where the time of an archive job goes, from the platform's commit to the last line in the ledger, beside `dcmsend`.

    scripts/benchmark whole_job [--counts 1,10,100,1000,5000] [--scale 1] [--receivers null,stock] [--rounds 3]
                                [--json FILE] [--flame FILE.svg]

A study of so many images (34 kB each) becomes Completed on the simulated platform. archsync notices, plans, starts an
Airflow task, stores, checks what can be checked and writes the ledger; then `dcmsend` sends the same files to the same
receiver. The split is read from the moments that the ledger and Airflow's database record anyway. `--flame` needs
py-spy and the right to trace processes; it draws what the task's process does, from shortly after its fork to its end.
Trust the ratios: sender, receiver, databases and all of Airflow share the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from archsync.core.destination import Destination, Verification
from archsync.launcher.postgres import free_port
from archsync.launcher.state import State
from archsync.launcher.up import Installation
from archsync.ledger import destinations
from archsync.simulate.platform import FACILITIES
from flame import Recording, draw
from jobs import SLOTS, Bench
from sending.receivers import RECEIVERS, Receivers
from sending.runs import run_dcmtk
from sending.studies import StudyMaker

FEW = 100
STALLING_RECEIVERS = frozenset({"stock", "dcmqrscp", "orthanc"})
"""Those that delay their answers: DCMTK needs 45 ms and more for each instance, sends a few, and its time is scaled."""
LISTING_RECEIVERS = frozenset({"dcmqrscp", "orthanc"})
"""Those that answer C-FIND, so that jobs are verified."""

STAGES = {
    "plan": "notice the change, start the dispatcher's task, plan the job and hand it out",
    "schedule": "Airflow makes the run, schedules and queues the task",
    "start task": "fork, rendering of the task, connections: until the job is taken",
    "compare": "read platform and ledger, compare",
    "send": "write placements, open and check files, send, write what was acknowledged",
    "verify": "ask the archive what it has (C-FIND)",
    "conclude": "write the job's end",
}
"""The parts of a job's time, in their order: each ends where the next begins."""

_LEDGER_MOMENTS = """
select j.job_id, j.run_id, j.status, j.dispatched_at, a.started_at, a.finished_at,
       min(p.placed_at) as placed_at, max(h.stored_at) as stored_at, max(h.verified_at) as verified_at,
       count(h.stored_at) as stored
from job j join job_attempt a using (job_id) join placed_series s using (study_key)
join placement p using (placed_series_id)
join held_instance h on h.placement_id = p.placement_id and h.destination_id = j.destination_id
where j.study_key = %(study_key)s group by j.job_id, a.attempt_id
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One job, in seconds."""

    stages: dict[str, float]
    whole_s: float
    """From the platform's commit."""
    own_s: float
    """From the taking of the job to its end: what an operator can call archsync's own."""


class WholeJobs(Bench):
    """An installation with one destination for each receiver; each gets the studies of one facility."""

    def set_up(self, receivers: dict[str, int]) -> None:
        """Make the destinations, start Airflow and wait for its DAGs."""
        self.platform.install()
        self.facility_of = {name: f.facility_id for name, f in zip(receivers, FACILITIES, strict=False)}
        for name, port in receivers.items():
            verification = Verification.C_FIND if name in LISTING_RECEIVERS else Verification.NONE
            destinations.insert(
                self.ledger,
                Destination(
                    name=name,
                    called_ae_title="NULL",
                    host="127.0.0.1",
                    port=port,
                    settle_s=0,
                    facilities=(self.facility_of[name],),
                    verification=verification,
                ),
            )
            self.installation.supervisor.run("pool", "airflow", "pools", "set", f"archsync_{name}", str(SLOTS), "bench")
        self.installation.start_airflow()
        for name in receivers:
            self.wait(lambda name=name: self.has_dag(f"archsync_archive__{name}"), 120)

    def run(self, study_key: str, count: int) -> Job:
        """Complete a study and wait until it is archived."""
        with psycopg.connect(self.installation.platform_dsn) as connection:
            connection.execute("update pacs.study set exam_status = 'Completed' where study_key = %s", [study_key])
        committed_at = datetime.now(UTC)
        self.wait(lambda: self._is_over(study_key), 900)
        found = self.ledger.fetch_one(_LEDGER_MOMENTS, {"study_key": study_key})
        if found is None or found["status"] != "succeeded" or found["stored"] != count:
            raise SystemExit(f"the job of {count} instances ended otherwise: {found}")
        began_at = self._task_began_at(found["run_id"])
        moments = [
            committed_at,
            found["dispatched_at"],
            began_at,
            found["started_at"],
            found["placed_at"],
            found["stored_at"],
            found["verified_at"] or found["stored_at"],
            found["finished_at"],
        ]
        seconds = [(b - a).total_seconds() for a, b in itertools.pairwise(moments)]
        return Job(
            stages=dict(zip(STAGES, seconds, strict=True)),
            whole_s=(moments[-1] - committed_at).total_seconds(),
            own_s=(moments[-1] - found["started_at"]).total_seconds(),
        )

    def _is_over(self, study_key: str) -> bool:
        sql = "select count(*) as n from job where study_key = %(study_key)s and status in ('succeeded', 'failed')"
        row = self.ledger.fetch_one(sql, {"study_key": study_key})
        return bool(row and row["n"])

    def _task_began_at(self, run_id: str) -> datetime:
        with psycopg.connect(self.installation.postgres.dsn("airflow")) as connection:
            row = connection.execute("select start_date from task_instance where run_id = %s", [run_id]).fetchone()
        assert row is not None, "the job ran in a task"
        began_at: datetime = row[0]
        return began_at


def dcmsend_s(name: str, port: int, folder: Path) -> float:
    """Seconds `dcmsend` takes for the files of a folder."""
    files = sorted(folder.glob("*.dcm"))
    sent = files[:FEW] if name in STALLING_RECEIVERS else files
    with tempfile.TemporaryDirectory(prefix="archsync-bench-") as temporary:
        for path in sent:
            Path(temporary, path.name).hardlink_to(path)
        return run_dcmtk("dcmsend", port, Path(temporary), "ct", no_delay=True).seconds * len(files) / len(sent)


def measure(
    bench: WholeJobs, makers: dict[str, StudyMaker], ports: dict[str, int], counts: list[int], rounds: int
) -> dict[str, dict[str, Any]]:
    """Medians by receiver and number of instances."""
    runs: dict[tuple[str, int], list[tuple[Job, float]]] = {(name, n): [] for name in ports for n in counts}
    for number in range(rounds + 1):
        for name, count in runs:
            if not number and count > 1:
                continue  # one small job to warm up
            study_key, folder = makers[name].add(count)
            job = bench.run(study_key, count)
            other_s = dcmsend_s(name, ports[name], folder)
            shutil.rmtree(folder)
            if number:
                runs[name, count].append((job, other_s))
                took = f"archsync {job.whole_s:6.2f} s, dcmsend {other_s:6.2f} s"
                print(f"{number}: {name:8} {count:5} {took}", flush=True)
    found: dict[str, dict[str, Any]] = {}
    for (name, count), done in runs.items():
        other_s = statistics.median(s for _, s in done)
        whole_s = statistics.median(j.whole_s for j, _ in done)
        own_s = statistics.median(j.own_s for j, _ in done)
        found.setdefault(name, {})[str(count)] = {
            "whole_s": round(whole_s, 3),
            "own_s": round(own_s, 3),
            "dcmsend_s": round(other_s, 3),
            "whole_vs_dcmsend": round(statistics.median(j.whole_s / s for j, s in done), 2),
            "own_vs_dcmsend": round(statistics.median(j.own_s / s for j, s in done), 2),
            "stages_s": {s: round(statistics.median(j.stages[s] for j, _ in done), 3) for s in STAGES},
        }
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the medians."""
    for name, by_count in found.items():
        print(f"\n{name}: {RECEIVERS[name]}")
        print(f"{'instances':>10} {'whole s':>8} {'own s':>8} {'dcmsend':>8} {'whole:':>8} {'own:':>6}  stages (s)")
        for count, of in by_count.items():
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in of["stages_s"].items())
            print(
                f"{count:>10} {of['whole_s']:8.2f} {of['own_s']:8.2f} {of['dcmsend_s']:8.2f}"
                f" {of['whole_vs_dcmsend']:8.2f} {of['own_vs_dcmsend']:6.2f}  {stages}"
            )


def record_flame(bench: WholeJobs, name: str, maker: StudyMaker, count: int, target: Path) -> None:
    """Sample the task of one job of so many instances and draw it."""
    study_key, folder = maker.add(count)
    began_at = datetime.now(UTC)
    with (
        psycopg.connect(bench.installation.postgres.dsn("airflow"), autocommit=True) as connection,
        Recording(lambda: _task_pid(connection, name, began_at)) as recording,
    ):
        bench.run(study_key, count)
    shutil.rmtree(folder)
    title = f"The task of an archive job of {count} instances"
    target.write_text(draw(recording.stacks(), title=title, below="main (airflow/sdk/execution_time/task_runner"))


def _task_pid(connection: psycopg.Connection[Any], name: str, began_at: datetime) -> int | None:
    row = connection.execute(
        "select pid from task_instance where dag_id = %s and state = 'running' and start_date > %s",
        [f"archsync_archive__{name}", began_at],
    ).fetchone()
    return None if row is None else row[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--counts", default="1,10,100,1000,5000", help="instances of the studies")
    parser.add_argument("--scale", type=float, default=1.0, help="share of those numbers")
    parser.add_argument("--receivers", default="null,stock", help=f"up to three of {', '.join(RECEIVERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="0: none but the one that is drawn")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--flame", type=Path, help="draw the largest job with the first receiver to this SVG file")
    options = parser.parse_args()
    counts = [max(1, round(int(text) * options.scale)) for text in options.counts.split(",")]
    names = options.receivers.split(",")
    if len(names) > len(FACILITIES):
        raise SystemExit(f"name {len(FACILITIES)} receivers at most")
    folder = Path(tempfile.mkdtemp(prefix="archsync-benchmark-"))
    folder.chmod(0o755)
    found: dict[str, dict[str, Any]] = {}
    try:
        state = State(folder / "state")
        with (
            Receivers() as receivers,
            Installation(state, ui_port=free_port(), postgres_port=None, report=print) as installation,
        ):
            ports = {name: receivers.start(name) for name in names}
            bench = WholeJobs(folder, installation)
            bench.set_up(ports)
            makers = {n: StudyMaker(bench.platform, folder / "studies", bench.facility_of[n]) for n in names}
            if options.rounds:
                found = measure(bench, makers, ports, counts, options.rounds)
                show(found)
            if options.flame:
                record_flame(bench, names[0], makers[names[0]], max(counts), options.flame)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        settings = {"counts": counts, "rounds": options.rounds}
        options.json.write_text(json.dumps({"settings": settings, "receivers": found}, indent=2))


if __name__ == "__main__":
    main()
