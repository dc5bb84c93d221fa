"""Time and plan of every query behind the pages, with many jobs beside few, in one run.

    scripts/benchmark pages [--jobs 10000000] [--few 10000] [--destinations 100] [--rounds 15] [--json FILE]

Two ledgers in one embedded PostgreSQL, filled by SQL with the same mixture: types, statuses, facilities, gateways,
studies, one job in a thousand failed; a thousand jobs wait in both. Each query runs in turn on both, on a new
connection each time, as a page's requests have. The fastest rounds are compared (what else the machine does only adds)
for answers of the same length: what the small ledger can give. Beside them stands the time of a whole page of 51 jobs,
or of counts up to 1000, in the large one. A query that reads ``job`` from end to end fails the run whatever its time.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
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
       case when n > %(jobs)s - 1000 then 'waiting'
            when (hashint8(n) & 2147483647) %% 1000 = 0 then 'failed'
            when (hashint8(n) & 2147483647) %% 1000 < 30 then 'cancelled'
            when (hashint8(n) & 2147483647) %% 1000 < 40 then 'suppressed' else 'succeeded' end,
       1 + (hashint8(n * 13) & 2147483647) %% %(destinations)s,
       -- Of a study at a destination no two wait.
       2, 'p' || n / 5, 's' || case when n > %(jobs)s - 1000 then n * 10 else n / 3 end,
       '1.2.826.0.1.3680043.8.498.' || n / 3,
       'F' || (hashint8(n * 17) & 2147483647) %% %(facilities)s,
       'One of the reasons for which a job is as it is.', 'refused', 250, 250,
       now() - make_interval(secs => %(seconds)s::float8 * (%(jobs)s - n) / %(jobs)s),
       now(), now() - make_interval(secs => %(seconds)s::float8 * (%(jobs)s - n) / %(jobs)s), 'run ' || n, 'dag'
from generate_series(%(first)s::bigint, %(last)s::bigint) n
"""


#: Asks a ledger with so many jobs for an answer of at most a length, and gives the answer's length.
Ask = Callable[[Ledger, int, int], int]


@dataclass(frozen=True)
class Question:
    """What a page asks, and how."""

    name: str
    ask: Ask
    at_most: int = 1
    """How long the page's own answer is: jobs of a page, or the cap of a count."""


def _page(**wanted: Any) -> Ask:
    def ask(ledger: Ledger, _jobs: int, at_most: int) -> int:
        listed = jobs.listing(ledger, JobFilter(limit=at_most, **wanted))
        return len(explain(ledger, listed, now=datetime.now(UTC)))

    return ask


def _deep(**wanted: Any) -> Ask:
    """A page in the middle of all jobs."""

    def ask(ledger: Ledger, number: int, at_most: int) -> int:
        return len(jobs.listing(ledger, JobFilter(limit=at_most, before_job_id=number // 2, **wanted)))

    return ask


def _counts(**wanted: Any) -> Ask:
    return lambda ledger, _jobs, at_most: max(job_pages.count(ledger, JobFilter(**wanted), cap=at_most).values())


def _whole(ask: Callable[[Ledger, int], Any]) -> Ask:
    """A question whose answer has the length it has."""

    def asked(ledger: Ledger, number: int, _at_most: int) -> int:
        ask(ledger, number)
        return 1

    return asked


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
        "a facility at a destination, succeeded": {
            "facilities": ["F3"],
            "destinations": ["d7"],
            "statuses": succeeded,
        },
        "a facility behind a gateway, failed": {"facilities": ["F3"], "gateways": ["g3"], "statuses": failed},
        "a day a month ago": {"since": month_ago, "until": month_ago + day},
        "a day a month ago, failed": {"since": month_ago, "until": month_ago + day, "statuses": failed},
        "a day a month ago, a destination": {"since": month_ago, "until": month_ago + day, "destinations": ["d7"]},
        "the last day, succeeded": {"since": now - day, "statuses": succeeded},
        "a study": {"study_instance_uid": "1.2.826.0.1.3680043.8.498.77"},
        "a study without jobs": {"study_instance_uid": "1.2.3"},
        "a job": {"job_ids": [77]},
    }
    asked = [Question(f"page: {name}", _page(**wanted), 51) for name, wanted in filters.items()]
    asked += [
        Question(f"page in the middle: {name}", _deep(**filters[name]), 51)
        for name in ("nothing", "status failed", "a destination", "a facility", "a gateway")
    ]
    asked += [Question(f"counts: {name}", _counts(**wanted), 1000) for name, wanted in filters.items()]
    memory = HourMemory()
    others: dict[str, Callable[[Ledger, int], Any]] = {
        "job": lambda ledger, number: describe_job(ledger, number // 2, now=datetime.now(UTC)),
        "job of a run": lambda ledger, _: jobs.by_run(ledger, dag_id="dag", run_id="run 77"),
        "facilities": lambda ledger, _: job_pages.facilities(ledger),
        "destinations": lambda ledger, _: describe_destinations(ledger, now=datetime.now(UTC)),
        "a destination's lock": lambda ledger, _: destinations.lock_of(ledger, destination_store.get(ledger, "d7")),
        "overview": lambda ledger, _: describe_all(ledger, now=datetime.now(UTC), memory=memory),
        "holds": lambda ledger, _: holds.page(ledger, limit=51),
    }
    asked += [Question(name, _whole(ask)) for name, ask in others.items()]
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

    def plans(self, question: Question, number: int) -> list[str]:
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
            question.ask(ledger, number, question.at_most)
        return explained


def measure(ask: Ask, ledger: Ledger, number: int, at_most: int) -> float:
    """Milliseconds of one answer, on a connection of its own as each request of a page has one."""
    with ledger.clone() as own:
        own.fetch_one("select 1")
        began = time.perf_counter()
        ask(own, number, at_most)
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
        print(f"{'':<46} {'items':>5} {'few':>11} {'many':>11} {'whole':>11} {'ratio':>6}")
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
    few, many = ledgers["few"], ledgers["many"]
    # Also warms up.
    same = max(1, min(question.ask(ledger, sizes[name], question.at_most) for name, ledger in ledgers.items()))
    times: dict[str, list[float]] = {"few": [], "many": [], "whole": []}
    for _ in range(rounds):
        times["few"].append(measure(question.ask, few, sizes["few"], same))
        times["many"].append(measure(question.ask, many, sizes["many"], same))
        times["whole"].append(measure(question.ask, many, sizes["many"], question.at_most))
    few_ms, many_ms, whole_ms = (min(found) for found in times.values())
    found = plans.plans(question, sizes["many"])
    scans = [line for plan in found for line in plan.splitlines() if re.search(r"Seq Scan on job( |$)", line)]
    return {
        "name": question.name,
        "length": same,
        "few_ms": round(few_ms, 2),
        "many_ms": round(many_ms, 2),
        "ratio": round(many_ms / few_ms, 2),
        "whole_ms": round(whole_ms, 2),
        "reads_all_jobs": bool(scans),
        "is_met": not scans and (many_ms <= few_ms * MAX_RATIO or many_ms - few_ms < NOISE_MS),
        "plans": found,
    }


def _say(result: dict[str, Any], *, with_plans: bool) -> None:
    mark = "" if result["is_met"] else "  <-- " + ("reads all jobs" if result["reads_all_jobs"] else "too slow")
    times = " ".join(f"{result[name]:>8.2f} ms" for name in ("few_ms", "many_ms", "whole_ms"))
    print(f"{result['name']:<46} {result['length']:>5} {times} {result['ratio']:>6.2f}{mark}", flush=True)
    if with_plans:
        print("\n".join(result["plans"]))


if __name__ == "__main__":
    main()
