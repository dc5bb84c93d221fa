"""The demo: a local installation, a platform that lives, and two archives that take what is due and what changes.

One archive refuses its first associations with a transient reason, so that retries are seen; later the other goes down
in the middle of the story. At the end both are asked what they show.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from archsync.core.job import JobStatus, JobType
from archsync.core.study import Study
from archsync.errors import ArchsyncError, StoreUnavailable
from archsync.launcher.airflow_env import PLATFORM_SCHEMA
from archsync.launcher.progress import Progress, format_line, format_table, measure
from archsync.launcher.proof import format_proof, prove
from archsync.launcher.story import write_story
from archsync.launcher.up import Installation, Reporter, add_arguments, open_state, print_login, run_until_told
from archsync.ledger import destinations as ledger_destinations
from archsync.ledger import overview, plan_queue
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services import destinations, planner
from archsync.simulate.archive import RUDENESS_FILE
from archsync.simulate.platform import SimulatedPlatform

_FIRST_STUDIES = 24
_STUDIES_OF_A_LATER_START = 6
_EXAMS_PER_STEP = 3
_STEP_S = 1.5
_LINE_EVERY_S = 3.0
_LIFE_STEP_S = 60.0
_CHAPTER_S = 2.0
_OUTAGE_S = 20.0
_OUTAGE_AT = "vna_metro"
_ACTOR = "demo"

_ARCHIVES: Mapping[str, Mapping[str, Any]] = {
    "vna_metro": {
        "called_ae_title": "VNA_METRO",
        "trigger_status": "Completed",
        "concurrency": 2,
    },
    "vna_region": {
        "called_ae_title": "VNA_REGION",
        "trigger_status": "Inflight",
        "facility_groups": "region",
        "retry_delay_s": 2,
        "retry_cap_s": 10,
        "concurrency": 2,
    },
}
_FOR_BOTH: Mapping[str, Any] = {
    "settle_s": 2,
    "verification": "c-find",
    "supports_iocm": "true",
    "adt_host": "127.0.0.1",
    "adt_receiving_application": "VNA",
    "probe_delay_s": 2,
    "probe_cap_s": 5,
}
#: PS3.8 9.3.4: rejected-transient, by the presentation related provider, local limit exceeded.
_RUDENESS = {
    "vna_region": {"refuse_associations": 3, "refuse_result": 2, "refuse_source": 3, "refuse_reason": 2},
}


#: What an archive that is down does with association requests.
_DOWN = {"refuse_associations": 1_000_000, "refuse_result": 2, "refuse_source": 3, "refuse_reason": 1}


@dataclass(frozen=True, slots=True)
class _StoryState:
    line: str
    is_over: bool
    failed: int


class Demo:
    """Platform and archives beside an installation, and what is known of their progress."""

    def __init__(self, installation: Installation, report: Reporter) -> None:
        self._installation = installation
        self._report = report
        self._simulator = SimulatedPlatform(
            installation.platform_dsn, installation.state.folder / "platform", seed=1, slices=8, matrix=128
        )
        self._platform = Platform.from_dsn(installation.platform_dsn, schema=PLATFORM_SCHEMA)
        self._ledger = Ledger(installation.ledger_dsn)

    def prepare(self, studies: int | None) -> None:
        """Fill the platform, start the archives, and make them destinations."""
        self._simulator.install()
        known = sum(len(keys) for keys in self._platform.walk_study_keys())
        wanted = studies or max(_FIRST_STUDIES, known + _STUDIES_OF_A_LATER_START)
        new = self._simulator.fill(wanted)
        self._report(f"the platform has {known + new} studies, {new} of them new")
        existing = {d.name for d in ledger_destinations.all_destinations(self._ledger)}
        for name, settings in _ARCHIVES.items():
            ports = self._start_archive(name, settings["called_ae_title"])
            values = {**settings, **_FOR_BOTH, "host": "127.0.0.1", **ports}
            if name in existing:
                # An administrator may have changed the rest.
                self._change(name, ports)
            else:
                facilities = self._platform.fetch_facilities
                destinations.create(self._ledger, facilities, {"name": name, **values}, actor=_ACTOR)
        if any(name not in existing for name in _ARCHIVES):
            self._installation.supervisor.run("pools-sync", "archsync", "pools", "sync")

    def _change(self, name: str, values: Mapping[str, Any]) -> None:
        destinations.change(
            self._ledger, self._platform.fetch_facilities, name, values, actor=_ACTOR, now=datetime.now(UTC)
        )

    def _start_archive(self, name: str, ae_title: str) -> dict[str, int]:
        folder = self._folder_of(name)
        folder.mkdir(parents=True, exist_ok=True)
        self._set_rudeness(name, _RUDENESS.get(name, {}))
        port, adt_port = self._installation.state.port(name), self._installation.state.port(f"{name}-adt")
        self._installation.supervisor.start(
            f"archive-{name}", "archsync", "simulate", "archive",
            "--ae-title", ae_title, "--port", str(port), "--adt-port", str(adt_port), "--folder", str(folder),
        )  # fmt: skip
        self._report(f"archive {ae_title} listens on 127.0.0.1:{port}, for HL7 messages on {adt_port}")
        return {"port": port, "adt_port": adt_port}

    def _folder_of(self, name: str) -> Path:
        return self._installation.state.folder / "archives" / name

    def _set_rudeness(self, name: str, rudeness: Mapping[str, Any]) -> None:
        (self._folder_of(name) / RUDENESS_FILE).write_text(json.dumps(rudeness, indent=2) + "\n")

    def run_exams(self, *, timeout_s: float) -> bool:
        """Let all exams go through their day and wait until everything due is archived; report on the way.

        Returns:
            True when every due study is at every archive and was found there; False when jobs failed and nothing is
            under way any more, or the time is up.
        """
        deadline = time.monotonic() + timeout_s
        next_step_s = 0.0
        exams_go_on = True
        last_line, next_line_s = "", 0.0
        while True:
            self._installation.supervisor.check()
            if exams_go_on and time.monotonic() >= next_step_s:
                exams_go_on = bool(self._simulator.advance(exams=_EXAMS_PER_STEP))
                next_step_s = time.monotonic() + _STEP_S
                if not exams_go_on:
                    self._report("all exams are completed, no more images come")
            progress = self.measure()
            line = format_line(progress)
            if line and line != last_line and time.monotonic() >= next_line_s:
                self._report(line)
                last_line, next_line_s = line, time.monotonic() + _LINE_EVERY_S
            if not exams_go_on and progress:
                if all(entry.is_complete for entry in progress):
                    return True
                if all(entry.is_complete or entry.is_stuck for entry in progress):
                    return False
            if time.monotonic() > deadline:
                self._report(f"the time is up: {timeout_s:g} s")
                return False
            time.sleep(1.0)

    def tell_story(self, *, timeout_s: float) -> bool:
        """Let studies and patients change after they were archived, an outage in the middle; wait until all is in step.

        Returns:
            True when nothing is left to be done; False when jobs failed and nothing is under way any more, or the time
            is up.
        """
        chapters = write_story(self._simulator, self._cast())
        self._report(f"the story after archiving begins: {len(chapters)} chapters")
        up_again_s: float | None = None
        for chapter in chapters:
            self._installation.supervisor.check()
            self._report(chapter.title)
            if chapter.is_outage:
                self._set_rudeness(_OUTAGE_AT, _DOWN)
                up_again_s = time.monotonic() + _OUTAGE_S
            chapter.happen()
            time.sleep(_CHAPTER_S)
        deadline = time.monotonic() + timeout_s
        last_line = ""
        while True:
            self._installation.supervisor.check()
            if up_again_s is not None and time.monotonic() >= up_again_s:
                self._report(f"archive {_OUTAGE_AT} is up again")
                self._set_rudeness(_OUTAGE_AT, {})
                up_again_s = None
            state = self._story_state()
            if state.line and state.line != last_line:
                self._report(state.line)
                last_line = state.line
            if up_again_s is None and state.is_over:
                return not state.failed
            if time.monotonic() > deadline:
                self._report(f"the time is up: {timeout_s:g} s")
                return False
            time.sleep(1.0)

    def _cast(self) -> list[Study]:
        """The studies with which something can happen: archived ones, first those that are at every archive."""
        keys = [key for batch in self._platform.walk_study_keys() for key in batch]
        planned = planner.dry_run(self._platform, self._ledger, keys, now=datetime.now(UTC))
        studies = {p.study.study_key: p.study for p in planned}
        archived = Counter(p.study.study_key for p in planned if p.held.is_archived)
        return [studies[key] for key, _ in archived.most_common()]

    def _story_state(self) -> _StoryState:
        """What is left to do, as planning sees it, and what is under way or failed."""
        try:
            if self._platform.has_changes(plan_queue.read_position(self._ledger)[0]):
                return _StoryState("", is_over=False, failed=0)
            counts: Counter[tuple[JobType, JobStatus]] = Counter()
            for counted in overview.counts(self._ledger):
                counts[counted.job_type, counted.status] += counted.jobs
            keys = [key for batch in self._platform.walk_study_keys() for key in batch]
            planned = planner.dry_run(self._platform, self._ledger, keys, now=datetime.now(UTC))
        except StoreUnavailable as exc:
            return _StoryState(exc.message, is_over=False, failed=0)
        left = sum(
            not (p.plan.store.changes_nothing and p.plan.withdrawal.changes_nothing) + len(p.plan.adt) for p in planned
        )
        failed = sum(n for (_, status), n in counts.items() if status is JobStatus.FAILED)
        open_jobs = sum(n for (_, status), n in counts.items() if not status.is_done) - failed
        done = ", ".join(
            f"{counts[kind, JobStatus.SUCCEEDED]} {kind}" for kind in JobType if counts[kind, JobStatus.SUCCEEDED]
        )
        line = f"jobs done: {done}; under way: {open_jobs}" + (f"; failed: {failed}" if failed else "")
        is_over = open_jobs == 0 and (left == 0 or failed > 0)
        return _StoryState(line, is_over=is_over, failed=failed)

    def measure(self) -> list[Progress]:
        """How far it is; empty while a database restarts."""
        try:
            return measure(self._platform, self._ledger)
        except StoreUnavailable as exc:
            self._report(exc.message)
            return []

    def show_proof(self) -> bool:
        """Ask the archives what they show and print how it compares; True when it is exactly what the platform says."""
        proofs = prove(self._platform, self._ledger)
        print(f"\n{format_proof(proofs)}\n")
        is_exact = bool(proofs) and all(proof.is_exact for proof in proofs)
        print(
            "Each archive shows exactly what the platform says."
            if is_exact
            else "An archive shows something else than the platform says.",
            flush=True,
        )
        return is_exact

    def live_on(self) -> None:
        """Let new exams come, now and then, until somebody stops the demo."""
        next_step_s = time.monotonic() + _LIFE_STEP_S
        while True:
            self._installation.supervisor.check()
            if time.monotonic() >= next_step_s:
                try:
                    self._simulator.advance(exams=1, arrivals=True)
                except ArchsyncError as exc:
                    self._report(exc.message)
                next_step_s = time.monotonic() + _LIFE_STEP_S
            time.sleep(0.5)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(text)


def _main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Runs archsync on this machine with a demo platform and two demo archives, until Ctrl-C.",
    )
    add_arguments(parser)
    parser.add_argument(
        "--once",
        action="store_true",
        help="stop when all is archived; exit 0 only if every due study is at every archive and was found there",
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=600,
        metavar="SECONDS",
        help="give up after this long (default: %(default)g)",
    )
    parser.add_argument(
        "--studies", type=_positive, metavar="N", help="fill the platform up to N studies (default: 24)"
    )
    options = parser.parse_args(arguments)
    report = Reporter()
    with Installation(
        open_state(options), ui_port=options.port, postgres_port=options.postgres_port, report=report
    ) as installation:
        demo = Demo(installation, report)
        demo.prepare(options.studies)
        installation.start_airflow()
        report("Airflow is ready")
        print_login(installation)
        is_complete = demo.run_exams(timeout_s=options.timeout)
        progress = demo.measure()
        print(f"\n{format_table(progress)}\n")
        is_proven = is_complete and any(entry.due for entry in progress) and all(entry.is_checked for entry in progress)
        print(
            "Everything due is archived and was found there."
            if is_proven
            else "Not everything due is proven archived.",
            flush=True,
        )
        if is_proven:
            is_proven = demo.tell_story(timeout_s=options.timeout) and demo.show_proof()
        if options.once:
            return 0 if is_proven else 1
        print(f"Airflow stays up at {installation.url}; Ctrl-C stops everything.", flush=True)
        demo.live_on()
    return 0


if __name__ == "__main__":
    run_until_told(_main)
