"""A site whose archive honours IHE IOCM, and the running of all that is planned there."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from pydicom import dcmread

from archsync.core.job import Job, JobStatus, JobType, WaitReason
from archsync.ledger import jobs
from archsync.ledger.jobs import JobFilter
from archsync.services.archive import STORE_JOBS, run_store_job
from archsync.services.attempt import Ended, Run
from archsync.services.rejection import run_note_job
from archsync.simulate.archive import SimulatedArchive

KOS = "1.2.840.10008.5.1.4.1.1.88.59"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


class Withdrawals:
    """A site whose archive honours rejection notes, and the running of all that is planned."""

    def __init__(self, site: Any, archive: SimulatedArchive) -> None:
        self.site = site
        self.archive = archive
        self.pacs = site.pacs
        self.runs = itertools.count(1)

    def add_destination(self, **settings: Any) -> None:
        wanted = {"profile": "dcm4chee", "verification": "c-find", **settings}
        self.site.add_destination(self.archive, **wanted)

    def archived(self, instances: int = 3) -> str:
        """A study that the archive has got; gives its key."""
        study_key = self.site.add_study(instances)
        self.settle()
        assert len(self.shown(study_key)) == instances
        return study_key

    def run(self, job_id: int, *, later_s: float = 0.0) -> Ended:
        """Run one attempt of a job of either kind."""
        job = self.site.job(job_id)
        work = run_store_job if job.job_type in STORE_JOBS else run_note_job
        run = Run("a DAG", f"run{next(self.runs)}", 1)
        return work(
            self.site.ledger,
            self.site.platform,
            job_id,
            run,
            clock=lambda: datetime.now(UTC) + timedelta(seconds=later_s),
        )

    def plan(self) -> None:
        self.site.plan()

    def runnable(self) -> list[int]:
        """The jobs whose turn it is, oldest first."""
        return [
            n
            for n in self.site.open_jobs()
            if (job := self.site.job(n)).job_type in (*STORE_JOBS, JobType.KOS)
            and job.status is not JobStatus.FAILED
            and job.wait_reason is not WaitReason.HOLD
            and jobs.blocker(self.site.ledger, n) is None
        ]

    def settle(self, rounds: int = 12) -> list[Ended]:
        """Plan and run until nothing is left that can run; gives how each attempt ended."""
        ended = []
        for _ in range(rounds):
            self.plan()
            waiting = self.runnable()
            if not waiting:
                return ended
            ended.append(self.run(waiting[0]))
        raise AssertionError(f"it never settles: {ended}")

    def shown(self, study_key: str) -> set[str]:
        """What the archive shows of a study, notes left out."""
        return self.images() & self.shown_in(self.site.study_uid(study_key))

    def shown_in(self, study_uid: str) -> set[str]:
        return {uid for uid, shown in self.archive.shown().items() if shown.study_instance_uid == study_uid}

    def images(self) -> set[str]:
        """All images that the archive shows."""
        return {uid for uid in self.archive.shown() if self.archive.stored[uid].sop_class_uid != KOS}

    def notes(self) -> list[Any]:
        """The notes that the archive holds, in the order of their arrival."""
        uids = [a.uid for a in self.archive.arrivals if a.is_kept and a.kind == "note"]
        return [dcmread(self.archive.stored[uid].path) for uid in uids]

    def titles(self) -> set[str]:
        return set(self.archive.rejected.values())

    def job(self, kind: JobType = JobType.KOS) -> Job:
        """The newest job of a kind."""
        listed = jobs.listing(self.site.ledger, JobFilter(job_types=[kind]))
        return listed[0].job

    def kos_job(self) -> int:
        """Plan, and give the kos job that waits."""
        self.plan()
        (job_id,) = [n for n in self.site.open_jobs() if self.site.job(n).job_type is JobType.KOS]
        return job_id

    def is_in_step(self, *study_keys: str) -> bool:
        """Tell whether the archive shows one instance for each that the platform shows in each study, and no others."""
        held = {key: self.site.held(key) for key in study_keys}
        counts = {key: len(self.site.uids(key)) for key in study_keys}
        return set().union(*held.values()) == self.images() and {k: len(v) for k, v in held.items()} == counts

    def removed(self, instances: int = 2, **settings: Any) -> tuple[str, int]:
        """A study of which one image was removed, and its kos job."""
        self.add_destination(**settings)
        study_key = self.archived(instances)
        self.pacs.remove_instances(study_key, 1)
        return study_key, self.kos_job()

    def digests(self) -> list[str]:
        """Of each note that came, in order, whatever became of it."""
        return [a.digest for a in self.archive.arrivals if a.kind == "note"]
