"""Time and plan of every query behind the pages, with many jobs beside few, in one run.

    scripts/benchmark pages [--jobs 10000000] [--few 10000] [--destinations 100] [--rounds 15] [--json FILE]

Two ledgers in one embedded PostgreSQL, filled by SQL with the same mixture: types, statuses, facilities, gateways,
studies, one job in ten thousand waiting, one in a thousand failed. Each query runs in turn on both, in the same order;
medians are compared. A query that reads ``job`` from end to end fails the run whatever its time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from archsync.core.job import JobStatus, JobType
from archsync.launcher.postgres import EmbeddedPostgres
from archsync.ledger import destinations as destination_store
from archsync.ledger import holds, job_pages, jobs
from archsync.ledger.database import Ledger
from archsync.ledger.job_pages import JobFilter
from archsync.ledger.migrate import migrate
from archsync.services import destinations
from archsync.services.dispatch import explain
from archsync.services.explain import describe_job
from archsync.services.overview import HourMemory, describe_all, describe_destinations

#: More than this many times as long with many jobs as with few is too long.
MAX_RATIO = 1.5
#: Differences below this are noise, in milliseconds.
NOISE_MS = 1.0
FACILITIES = 40
GATEWAYS = 10
DAYS = 365

FILL = """
insert into job (job_type, status, destination_id, priority, patient_key, study_key, study_instance_uid, facility_id,
                 reason, reason_code, instances_total, instances_done, created_at, updated_at, finished_at, run_id,
                 dag_id)
select (array['archive', 'archive', 'archive', 'archive', 'archive', 'dicom', 'dicom', 'iocm', 'kos', 'adt'])
           [1 + (hashint8(n * 7) & 2147483647) %% 10],
       case when n > %(jobs)s - %(jobs)s / 10000 - 20 then 'waiting'
            when (hashint8(n) & 2147483647) %% 1000 = 0 then 'failed'
            when (hashint8(n) & 2147483647) %% 1000 < 30 then 'cancelled'
            when (hashint8(n) & 2147483647) %% 1000 < 40 then 'suppressed' else 'succeeded' end,
       1 + (hashint8(n * 13) & 2147483647) %% %(destinations)s,
       -- Of a study at a destination no two wait.
       2, 'p' || n / 5, 's' || case when n > %(jobs)s - %(jobs)s / 10000 - 20 then n * 10 else n / 3 end, '1.2.826.0.1.3680043.8.498.' || n / 3,
       'F' || (hashint8(n * 17) & 2147483647) %% %(facilities)s,
       'One of the reasons for which a job is as it is.', 'refused', 250, 250,
       now() - make_interval(secs => %(seconds)s::float8 * (%(jobs)s - n) / %(jobs)s),
       now(), now() - make_interval(secs => %(seconds)s::float8 * (%(jobs)s - n) / %(jobs)s), 'run ' || n, 'dag'
from generate_series(%(first)s::bigint, %(last)s::bigint) n
"""


@dataclass(frozen=True)
class Question:
    """What a page asks, and how."""

    name: str
    ask: Callable[[Ledger, int], Any]


def _page(**wanted: Any) -> Callable[[Ledger, int], Any]:
    def ask(ledger: Ledger, _jobs: int) -> Any:
        return explain(ledger, jobs.listing(ledger, JobFilter(limit=51, **wanted)), now=datetime.now(UTC))

    return ask


def _deep(**wanted: Any) -> Callable[[Ledger, int], Any]:
    """A page in the middle of all jobs."""

    def ask(ledger: Ledger, number: int) -> Any:
        return jobs.listing(ledger, JobFilter(limit=51, before_job_id=number // 2, **wanted))

    return ask


def _counts(**wanted: Any) -> Callable[[Ledger, int], Any]:
    return lambda ledger, _jobs: job_pages.count(ledger, JobFilter(**wanted), cap=1000)


def questions() -> list[Question]:
    """Every filter that the page offers, alone and together."""
    now = datetime.now(UTC)
    month_ago, day = now - timedelta(days=30), timedelta(days=1)
    failed, succeeded = [JobStatus.FAILED], [JobStatus.SUCCEEDED]
    filters: dict[str, dict[str, Any]] = {
        "nothing": {},
        "status failed": {"statuses": failed},
        "status retrying (none)": {"statuses": [JobStatus.RETRYING]},
        "status waiting": {"statuses": [JobStatus.WAITING]},
        "type kos": {"job_types": [JobType.KOS]},
        "type adt, failed": {"job_types": [JobType.ADT], "statuses": failed},
        "a destination": {"destinations": ["d7"]},
        "a destination, failed": {"destinations": ["d7"], "statuses": failed},
        "ten destinations, two statuses": {
            "destinations": [f"d{n}" for n in range(1, 11)],
            "statuses": [JobStatus.FAILED, JobStatus.CANCELLED],
        },
        "a gateway": {"gateways": ["g3"]},
        "a gateway, failed": {"gateways": ["g3"], "statuses": failed},
        "a facility": {"facilities": ["F3"]},
        "a facility, failed": {"facilities": ["F3"], "statuses": failed},
        "a facility without jobs": {"facilities": ["NONE"]},
        "a facility at a destination": {"facilities": ["F3"], "destinations": ["d7"]},
        "a facility behind a gateway, failed": {"facilities": ["F3"], "gateways": ["g3"], "statuses": failed},
        "a day a month ago": {"since": month_ago, "until": month_ago + day},
        "a day a month ago, failed": {"since": month_ago, "until": month_ago + day, "statuses": failed},
        "a day a month ago, a destination": {"since": month_ago, "until": month_ago + day, "destinations": ["d7"]},
        "the last day, succeeded": {"since": now - day, "statuses": succeeded},
        "a study": {"study_instance_uid": "1.2.826.0.1.3680043.8.498.77"},
        "a study without jobs": {"study_instance_uid": "1.2.3"},
        "a job": {"job_ids": [77]},
    }
    asked = [Question(f"page: {name}", _page(**wanted)) for name, wanted in filters.items()]
    asked += [
        Question(f"page in the middle: {name}", _deep(**filters[name]))
        for name in ("nothing", "status failed", "a destination", "a facility", "a gateway")
    ]
    asked += [Question(f"counts: {name}", _counts(**wanted)) for name, wanted in filters.items()]
    asked += [
        Question("job", lambda ledger, number: describe_job(ledger, number // 2, now=datetime.now(UTC))),
        Question("job of a run", lambda ledger, _: jobs.by_run(ledger, dag_id="dag", run_id="run 77")),
        Question("facilities", lambda ledger, _: job_pages.facilities(ledger)),
    ]
    memory = HourMemory()
    asked += [
        Question("destinations", lambda ledger, _: describe_destinations(ledger, now=datetime.now(UTC))),
        Question(
            "a destination's lock", lambda ledger, _: destinations.lock_of(ledger, destination_store.get(ledger, "d7"))
        ),
        Question("overview", lambda ledger, _: describe_all(ledger, now=datetime.now(UTC), memory=memory)),
        Question("holds", lambda ledger, _: holds.page(ledger, limit=51)),
    ]
    return asked


def fill(dsn: str, number: int, destinations: int) -> None:
    """Make a ledger with so many jobs."""
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        for n in range(1, GATEWAYS + 1):
            connection.execute(
                "insert into gateway (name, facility_group, queue) values (%s, 'all', %s)", [f"g{n}", f"g{n}"]
            )
        _add_destinations(dsn, destinations)
        indexes = connection.execute(
            "select indexname, indexdef from pg_indexes where tablename = 'job' and indexname <> 'job_pkey'"
        ).fetchall()
        if number > 100_000:
            for name, _ in indexes:
                connection.execute(f"drop index {name}".encode())
        connection.execute("alter table job disable trigger user")
        step = 500_000
        for first in range(1, number + 1, step):
            connection.execute(
                FILL,
                {
                    "jobs": number,
                    "destinations": destinations,
                    "facilities": FACILITIES,
                    "seconds": DAYS * 86400,
                    "first": first,
                    "last": min(first + step - 1, number),
                },
            )
            if number > step:
                print(f"{min(first + step - 1, number):,} of {number:,} jobs made", file=sys.stderr, flush=True)
        if number > 100_000:
            connection.execute("set maintenance_work_mem = '512MB'")
            for name, definition in indexes:
                connection.execute(definition.encode())
                print(f"index {name} made", file=sys.stderr, flush=True)
        connection.execute("alter table job enable trigger user")
        connection.execute("vacuum analyze job")


def _add_destinations(dsn: str, number: int) -> None:
    from archsync.core.destination import Destination
    from archsync.ledger import destinations

    with Ledger(dsn) as ledger:
        for n in range(1, number + 1):
            gateway = f"g{1 + n % GATEWAYS}"
            destinations.insert(
                ledger, Destination(name=f"d{n}", called_ae_title=f"D{n}", host="vna", port=104, gateway=gateway)
            )


class PlanReader:
    """Plans of the statements that a question runs, as the server itself made them while it answered."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def plans(self, ask: Callable[[Ledger, int], Any], number: int) -> list[str]:
        """The plan of each statement, in the order they ran."""
        explained: list[str] = []

        class Explaining(Ledger):
            def fetch_all(self, sql: str, parameters: Any = ()) -> list[Any]:
                rows = super().fetch_all("explain " + sql, parameters)
                explained.append("\n".join(str(row["QUERY PLAN"]) for row in rows))
                return super().fetch_all(sql, parameters)

            def fetch_one(self, sql: str, parameters: Any = ()) -> Any:
                found = self.fetch_all(sql, parameters)
                return found[0] if found else None

        with Explaining(self._dsn) as ledger:
            ask(ledger, number)
        return explained


def measure(ask: Callable[[Ledger, int], Any], ledger: Ledger, number: int) -> float:
    """Milliseconds of one answer."""
    began = time.perf_counter()
    ask(ledger, number)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=10_000_000)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--destinations", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plans", action="store_true", help="print every plan")
    parser.add_argument("--only", default="", help="only questions whose name holds this")
    parser.add_argument("--keep", type=Path, help="folder for the databases, made once and kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="archsync-benchmark-"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    server.start()
    sizes = {"few": options.few, "many": options.jobs}
    dsns = {name: server.dsn(f"{name}_{number}") for name, number in sizes.items()}
    results: list[dict[str, Any]] = []
    try:
        for name, number in sizes.items():
            server.create_database(f"{name}_{number}", if_missing=True)
            with psycopg.connect(dsns[name]) as connection:
                made = connection.execute("select to_regclass('job')").fetchone()
            if made == (None,):
                fill(dsns[name], number, options.destinations)
        ledgers = {name: Ledger(dsn) for name, dsn in dsns.items()}
        for question in questions():
            if options.only in question.name:
                results.append(_compare(question, ledgers, sizes, options.rounds, PlanReader(dsns["many"])))
                _say(results[-1], with_plans=options.plans)
        for ledger in ledgers.values():
            ledger.close()
    finally:
        server.stop()
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps({"sizes": sizes, "questions": results}, indent=1) + "\n")
    worst = max(results, key=lambda r: r["ratio"])
    print(f"\nworst ratio {worst['ratio']:.2f} ({worst['name']})")
    missed = [r["name"] for r in results if not r["is_met"]]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


def _compare(
    question: Question, ledgers: dict[str, Ledger], sizes: dict[str, int], rounds: int, plans: PlanReader
) -> dict[str, Any]:
    for name, ledger in ledgers.items():
        measure(question.ask, ledger, sizes[name])  # warm up
    times: dict[str, list[float]] = {name: [] for name in ledgers}
    for _ in range(rounds):
        for name, ledger in ledgers.items():
            times[name].append(measure(question.ask, ledger, sizes[name]))
    few, many = (statistics.median(times[name]) for name in ("few", "many"))
    found = plans.plans(question.ask, sizes["many"])
    scans = [line.strip() for plan in found for line in plan.splitlines() if "Seq Scan on job" in line]
    scans = [line for line in scans if "Seq Scan on job_" not in line]
    return {
        "name": question.name,
        "few_ms": round(few, 2),
        "many_ms": round(many, 2),
        "ratio": round(many / few, 2),
        "reads_all_jobs": bool(scans),
        "is_met": not scans and (many <= few * MAX_RATIO or many - few < NOISE_MS),
        "plans": found,
    }


def _say(result: dict[str, Any], *, with_plans: bool) -> None:
    mark = "" if result["is_met"] else "  <-- " + ("reads all jobs" if result["reads_all_jobs"] else "too slow")
    print(
        f"{result['name']:<48} {result['few_ms']:>8.2f} ms {result['many_ms']:>8.2f} ms {result['ratio']:>6.2f}{mark}",
        flush=True,
    )
    if with_plans:
        print("\n".join(result["plans"]))


if __name__ == "__main__":
    main()
