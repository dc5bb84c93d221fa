"""A site for the services: a real ledger, the reference platform with files, and archives behind real sockets.

Everything about the patient is planted: after each test no log record and no text in the ledger may show it.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from archsync.core.destination import Destination
from archsync.core.identity import HeldPatient
from archsync.core.job import Job, JobStatus, JobType
from archsync.core.naming import DagKind
from archsync.launcher.postgres import free_port
from archsync.ledger import destinations, holdings, jobs, patients
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import JobFilter
from archsync.platformdb.reader import Platform
from archsync.services import dispatch, planner
from archsync.services import rejection as rejection_service
from archsync.services.adt import run_adt_job
from archsync.services.archive import run_store_job
from archsync.services.attempt import Ended, Run
from archsync.simulate.adt_receiver import SimulatedAdtReceiver
from archsync.simulate.archive import IocmRules, SimulatedArchive
from archsync.simulate.platform import SimulatedPlatform
from archsync.simulate.volumes import DemoPatient, VolumeStudy, make_uid, write_volume
from withdrawals import Withdrawals

PATIENT = DemoPatient("PLANTEDMRN", "CITYMRN", "Plantedname^Secret", date(1950, 1, 2), "F")
ACCESSION = "PLANTEDACC"
PERSONAL = ("PLANTED", "Plantedname", "Secret", "1950-01-02", "19500102")

#: Time-outs that no test waits for, and failures that show at once.
QUICK = {
    "settle_s": 0.0,
    "retry_delay_s": 5.0,
    "retry_jitter": 0.0,
    "connect_timeout_s": 5.0,
    "acse_timeout_s": 10.0,
    "dimse_timeout_s": 20.0,
    "network_timeout_s": 20.0,
    "breaker_threshold": 2,
    "probe_delay_s": 10.0,
}


@dataclass
class Site:
    """A hospital's platform, its ledger and its archives."""

    ledger: Ledger
    ledger_dsn: str
    platform_dsn: str
    platform: Platform
    pacs: SimulatedPlatform
    folder: Path
    archives: list[SimulatedArchive] = field(default_factory=list)
    studies: int = 0

    # the platform

    def add_study(self, instances: int = 3, *, exam_status: str = "Completed", matrix: int = 8, **values: Any) -> str:
        """Put a study with small images on the platform; gives its key."""
        self.studies += 1
        uid = make_uid(self.folder, "study", self.studies)
        files = self.write(uid, instances, matrix=matrix)
        return self.pacs.add_study(
            files, exam_status=exam_status, patient=PATIENT, accession_number=f"{ACCESSION}{self.studies}", **values
        )

    def write(self, uid: str, instances: int, *, series_number: int = 1, matrix: int = 8) -> list[Path]:
        study = VolumeStudy(uid, ACCESSION, datetime(2026, 1, 5, tzinfo=UTC), "CT", PATIENT)
        return list(
            write_volume(
                self.folder / uid, study, modality="CT", slices=instances, matrix=matrix, series_number=series_number
            )
        )

    def add_late_images(self, study_key: str, instances: int = 2) -> list[str]:
        """Put another series into a study; gives its SOP Instance UIDs."""
        files = self.write(self.study_uid(study_key), instances, series_number=900)
        self.pacs.add_instances(study_key, files)
        return [path.stem for path in files]

    def dba(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL on the platform's own tables, as the site could."""
        with psycopg.connect(self.platform_dsn, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def study_uid(self, study_key: str) -> str:
        return str(self.dba("select study_instance_uid from pacs.study where study_key = %s", study_key)[0][0])

    def uids(self, study_key: str) -> list[str]:
        """SOP Instance UIDs the platform shows of a study."""
        rows = self.dba(
            "select sop_instance_uid from pacs.instance where study_key = %s and removed_at is null"
            " order by instance_key",
            study_key,
        )
        return [uid for (uid,) in rows]

    # the ledger

    def add_destination(self, archive: SimulatedArchive | None = None, name: str = "vna", **values: Any) -> Destination:
        archive = archive or self.archives[0]
        host, port = archive.address
        settings = {"called_ae_title": archive.ae_title, "host": host, "port": port, **QUICK, **values}
        return destinations.insert(self.ledger, Destination(name=name, **settings))

    def plan(self, *, now: datetime | None = None) -> list[int]:
        """Look at the platform and plan; gives the open jobs."""
        planner.observe(self.platform, self.ledger)
        planner.plan_queued(self.platform, self.ledger, now=now or datetime.now(UTC))
        return self.open_jobs()

    def open_jobs(self) -> list[int]:
        listed = jobs.listing(self.ledger, JobFilter())
        return sorted(item.job.job_id for item in listed if not item.job.status.is_done)

    def hand_out(self, *, now: datetime | None = None, paused: bool | None = False) -> list[int]:
        handed = dispatch.hand_out(self.ledger, now=now or datetime.now(UTC), is_paused=lambda kind, name: paused)
        return [item.job_id for item in handed]

    def run(self, job_id: int, *, try_number: int = 1, run_id: str = "run1", later_s: float = 0.0) -> Ended:
        """Run one attempt, ``later_s`` seconds from now by the clock of the destination's breaker and window."""
        run = Run("archsync_archive__vna", run_id, try_number)
        return run_store_job(
            self.ledger,
            self.platform,
            job_id,
            run,
            clock=lambda: datetime.now(UTC) + timedelta(seconds=later_s),
        )

    def job(self, job_id: int) -> Job:
        return jobs.get(self.ledger, job_id)

    def planned(self, instances: int = 3, **destination: Any) -> tuple[str, int]:
        """A study that is due at one archive, and its job."""
        if not destinations.all_destinations(self.ledger):
            self.add_destination(**destination)
        study_key = self.add_study(instances)
        (job_id,) = self.plan()
        return study_key, job_id

    def held(self, study_key: str, destination: str = "vna") -> set[str]:
        """SOP Instance UIDs the ledger claims of a study."""
        destination_id = destinations.get(self.ledger, destination).destination_id
        assert destination_id is not None
        placed = holdings.placements(self.ledger, study_keys=[study_key], instance_keys=[])
        known = holdings.held(self.ledger, [destination_id], {p.placement_id: p for p in placed})[destination_id]
        return {h.placed.uids.sop_instance_uid for h in known.values() if h.is_stored and not h.is_hidden}

    def has_all(self, study_key: str) -> bool:
        """Tell whether archive, ledger and platform agree on a study."""
        wanted = set(self.uids(study_key))
        return wanted == self.held(study_key) == set(self.archives[0].stored)

    def sent(self) -> list[str]:
        """SOP Instance UIDs of the C-STORE requests so far."""
        return [uid for uid, _ in self.archives[0].requests]


@pytest.fixture
def site(ledger_dsn: str, platform_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    """A site with one archive and no destination yet."""
    caplog.set_level(logging.DEBUG)
    archive = SimulatedArchive(tmp_path / "archive", free_port())
    archive.start()
    pacs = SimulatedPlatform(platform_dsn, tmp_path / "pacs")
    pacs.install()
    with Ledger(ledger_dsn) as ledger, Platform.from_dsn(platform_dsn) as platform:
        made = Site(ledger, ledger_dsn, platform_dsn, platform, pacs, tmp_path / "pacs", [archive])
        yield made
    for running in made.archives:
        running.stop()
    _assert_nothing_personal(ledger_dsn, caplog)


ADT_SETTINGS = {
    "adt_host": "127.0.0.1",
    "adt_receiving_application": "VNA",
    "adt_ack_timeout_s": 5.0,
    "max_attempts": 4,
}


@dataclass
class Ward:
    """The site with an HL7 receiver beside its archive."""

    site: Site
    receiver: SimulatedAdtReceiver
    studies: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    def admit(self, patient: DemoPatient, *, facility_id: str = "CITY", study: str = "") -> str:
        """A study of a patient, archived; gives the patient's key."""
        patient_key = self.register(patient, facility_id=facility_id, study=study)
        self.archive_all()
        return patient_key

    def register(self, patient: DemoPatient, *, facility_id: str = "CITY", study: str = "") -> str:
        """A study of a patient, on the platform; gives the patient's key."""
        uid = make_uid(self.site.folder, patient.name, patient.patient_id, study)
        volume = VolumeStudy(uid, "PLANTEDACC", datetime(2026, 1, 5, tzinfo=UTC), "CT", patient)
        files = list(write_volume(self.site.folder / uid, volume, modality="CT", slices=2, matrix=8))
        study_key = self.site.pacs.add_study(
            files,
            exam_status="Completed",
            patient=patient,
            facility_id=facility_id,
            accession_number=f"PLANTED{uid[-6:]}",
        )
        ((patient_key,),) = self.site.dba("select patient_key::text from pacs.study where study_key = %s", study_key)
        self.studies[patient_key + study] = study_key
        return patient_key

    def archive_all(self) -> None:
        for job_id in self.site.plan():
            if self.site.job(job_id).job_type in (JobType.ARCHIVE, JobType.DICOM):
                assert self.site.run(job_id).status is JobStatus.SUCCEEDED

    def plan(self) -> list[int]:
        """The open adt jobs after a look at the platform."""
        return [job_id for job_id in self.site.plan() if self.site.job(job_id).job_type is JobType.ADT]

    def run(self, job_id: int, *, later_s: float = 0.0) -> Ended:
        self.runs += 1
        run = Run("archsync_adt__vna", f"run{self.runs}", 1)
        later = timedelta(seconds=later_s)
        return run_adt_job(self.site.ledger, self.site.platform, job_id, run, clock=lambda: datetime.now(UTC) + later)

    def settle(self) -> None:
        """Plan and run adt jobs until none is due."""
        while due := [job_id for job_id in self.plan() if jobs.blocker(self.site.ledger, job_id) is None]:
            for job_id in due:
                assert self.run(job_id).status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED)

    def known(self, patient_key: str) -> HeldPatient:
        destination_id = destinations.get(self.site.ledger, "vna").destination_id
        return patients.held(self.site.ledger, [destination_id], [patient_key])[destination_id][patient_key]

    def triggers(self) -> list[str]:
        return [message.trigger for message in self.receiver.received]

    def is_down(self, kind: DagKind) -> bool:
        destination_id = destinations.get(self.site.ledger, "vna").destination_id
        return destinations.health(self.site.ledger)[destination_id, kind].health.is_down

    def set(self, **values: object) -> None:
        """Change settings of the destination, as an administrator would."""
        current = destinations.get(self.site.ledger, "vna")
        destinations.update(self.site.ledger, dataclasses.replace(current, **values))


@pytest.fixture
def ward(site: Site) -> Iterator[Ward]:
    """A site whose destination takes ADT messages."""
    with site.archives[0].make_adt_receiver() as receiver:
        site.add_destination(adt_port=receiver.address[1], **ADT_SETTINGS)
        yield Ward(site, receiver)


@pytest.fixture
def ws(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Withdrawals:
    """A site with another archive, one that honours rejection notes."""
    monkeypatch.setattr(rejection_service, "VERIFY_PAUSES_S", (0.01, 0.02))
    archive = SimulatedArchive(tmp_path / "vna", free_port(), ae_title="VNA", iocm=IocmRules())
    archive.start()
    site.archives.insert(0, archive)
    return Withdrawals(site, archive)


#: The columns that are there to say who a patient is, or hold what was sent. Nothing of a patient is in any other.
_PAYLOAD = {
    "held_patient": {"patient_id", "issuer_of_patient_id", "name", "birth_date", "sex"},
    "retired_identifier": {"patient_id", "issuer_of_patient_id"},
    "rejection_note": {"encoded"},
    "adt_message": {
        "encoded", "patient_id", "issuer_of_patient_id", "name", "birth_date", "sex",
        "prior_patient_id", "prior_issuer_of_patient_id",
    },
}  # fmt: skip


def _assert_nothing_personal(ledger_dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    formatter = logging.Formatter()
    shown = [formatter.format(record) for phase in ("setup", "call") for record in caplog.get_records(phase)]
    with psycopg.connect(ledger_dsn) as connection:
        tables = [name for (name,) in connection.execute(_TABLES)]
        assert _PAYLOAD.keys() <= set(tables)
        for table in tables:
            rows = connection.execute(
                f"select (to_jsonb(t) - %s::text[])::text from {table} t", [[*_PAYLOAD.get(table, ())]]
            )
            shown.extend(f"{table}: {text}" for (text,) in rows)
    leaks = [text for text in shown if any(word in text for word in PERSONAL)]
    assert not leaks, leaks


_TABLES = """
    select relname from pg_class
    where relkind in ('r', 'p') and not relispartition and relnamespace = 'public'::regnamespace
"""


@pytest.fixture
def meanwhile() -> Iterator[Callable[..., None]]:
    """Runs a function in a thread once a condition holds; its failure fails the test."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def start(when: Callable[[], bool], do: Callable[[], object]) -> None:
        def wait_and_do() -> None:
            try:
                while not when():
                    if stop.wait(0.005):
                        raise AssertionError("what the test waited for did not happen")
                do()
            except BaseException as exc:  # noqa: BLE001  # shown by the test below
                failures.append(exc)

        threads.append(threading.Thread(target=wait_and_do))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)
