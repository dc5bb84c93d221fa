"""A small ledger in memory: what the real one keeps, what it reads for planning and how it writes a plan."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from archsync.core import identity, planning, withdrawal
from archsync.core.adt import PriorIdentifier
from archsync.core.comparison import Desired, Held, HeldInstance, Related
from archsync.core.destination import Destination
from archsync.core.identifiers import Holder, Look, Standing
from archsync.core.identity import HeldPatient
from archsync.core.job import AdtChange, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.placing import Placed
from archsync.core.planning import Rule, plan, unverified_instances
from archsync.core.study import Facility, Priority, Study
from archsync.core.uid_map import InstanceUids
from model.archive import Archive, Message, Note
from model.platform import PlatformModel

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
STORE = (JobType.ARCHIVE, JobType.DICOM)
QUEUED = (JobStatus.WAITING, JobStatus.READY)

Steps = Generator[str, int, None]
"""A job under way: gives what it is about to do, takes the fault that befalls it."""


@dataclass
class Job:
    """A job as the ledger keeps it."""

    job_id: int
    job_type: JobType
    site: Site
    study_key: str | None
    patient_key: str
    content_digest: str
    created_at: datetime
    not_before: datetime
    status: JobStatus = JobStatus.WAITING
    priority: Priority = Priority.ROUTINE
    wait_reason: WaitReason | None = None
    prior_patient_key: str | None = None
    adt_change: AdtChange | None = None
    depends_on: set[int] = field(default_factory=set)
    reason_code: str | None = None
    attempts: int = 0
    steps: Steps | None = None
    is_begun: bool = False
    about_to: str = ""
    is_superseded: bool = False

    def known(self) -> KnownJob:
        return KnownJob(
            self.job_id,
            self.job_type,
            self.status,
            self.content_digest,
            self.priority,
            self.wait_reason,
            self.not_before,
            self.created_at,
            adt_change=self.adt_change,
            patient_key=self.patient_key,
            prior_patient_key=self.prior_patient_key,
        )

    @property
    def is_cancelled_by_hand(self) -> bool:
        is_ours = self.is_superseded or self.reason_code == "nothing-to-do"
        return self.status is JobStatus.CANCELLED and not is_ours

    @property
    def patient_keys(self) -> set[str]:
        return {self.patient_key} | ({self.prior_patient_key} if self.prior_patient_key else set())

    def __str__(self) -> str:
        about = self.study_key or f"{self.adt_change} of {self.patient_key}"
        return f"job {self.job_id} ({self.job_type.value} of {about} at {self.site.destination.name})"


@dataclass
class HeldRow:
    """One placement at one archive."""

    is_stored: bool = False
    is_verified: bool = False
    note_id: int | None = None


@dataclass
class NoteRow:
    """A rejection note that was built."""

    note: Note
    study_key: str
    placement_ids: tuple[int, ...]
    copies: tuple[tuple[InstanceUids, frozenset[str]], ...]
    """What had to be stored before: each named instance with the keys of those that take its place."""
    is_taken: bool = False
    is_dropped: bool = False


@dataclass
class MessageRow:
    """A message that was built."""

    message: Message
    job: Job
    known_after: HeldPatient
    prior_patient_key: str | None
    is_in_doubt: bool = False
    is_told: bool = False
    is_refused: bool = False


@dataclass
class Site:
    """A destination, what the ledger keeps of it, and the archive itself."""

    destination: Destination
    archive: Archive
    held: dict[int, HeldRow] = field(default_factory=dict)
    patients: dict[str, HeldPatient] = field(default_factory=dict)
    retired: dict[tuple[str, str], str] = field(default_factory=dict)
    filed: dict[str, str] = field(default_factory=dict)
    archived: dict[str, datetime] = field(default_factory=dict)
    notes: dict[int, NoteRow] = field(default_factory=dict)
    messages: list[MessageRow] = field(default_factory=list)


class LedgerModel:
    """What the ledger keeps, and what planning reads of it and writes into it."""

    def __init__(self, platform: PlatformModel, sites: Sequence[Site], story: list[str]) -> None:
        self.platform = platform
        self.sites = list(sites)
        self.story = story
        self.now = NOON
        self.queue: set[str] = set()
        self.placements: list[Placed] = []
        self.jobs: list[Job] = []

    def tell(self, text: str) -> None:
        self.story.append(f"    {text}")

    # -- both sides of the comparison --------------------------------------------------------------------------------

    def burnt(self) -> set[int]:
        return {n for site in self.sites for n, row in site.held.items() if row.note_id is not None}

    def latest(self) -> dict[str, Placed]:
        burnt = self.burnt()
        last = {p.instance_key: p for p in self.placements}
        return {key: replace(p, is_burnt=p.placement_id in burnt) for key, p in last.items()}

    def read(self, study_key: str) -> Study | None:
        """A study of the platform, or what is known of one that is gone and held somewhere."""
        study = self.platform.read(study_key)
        if study is not None:
            return study
        placed = [p for p in self.placements if p.study_key == study_key]
        held = [p for p in placed if any(p.placement_id in site.held for site in self.sites)]
        if not held:
            return None
        patient = self.platform.patients[self.platform.survivor(held[-1].patient_key)]
        nowhere = Facility("", "", "")
        return Study(study_key, held[-1].uids.study_instance_uid, patient, nowhere, "", Priority.ROUTINE)

    def compare(self, study_key: str, site: Site) -> tuple[Desired, Held] | None:
        study = self.read(study_key)
        if study is None:
            return None
        survivors = self.platform.survivors()
        own = {i.instance_key for i in study.instances}
        replacements: dict[str, tuple[str, ...]] = {}
        related = {}
        others = {key: other for key in self.platform.studies if (other := self.platform.read(key)) is not None}
        for i in self.platform.instances.values():
            if i.replaces_instance_key is not None:
                replacements[i.replaces_instance_key] = (
                    *replacements.get(i.replaces_instance_key, ()),
                    i.instance_key,
                )
            if i.instance_key not in own:
                related[i.instance_key] = Related(others[i.study_key], i)
        desired = Desired(
            study,
            self.latest(),
            survivors,
            related,
            replacements,
            filed=self.filed(study_key),
            filed_elsewhere={key: self.filed(key) for key in others},
        )
        filed = {study.patient.patient_key} | {p.patient_key for p in self.placements if p.study_key == study_key}
        filed |= {key for key, survivor in survivors.items() if survivor == study.patient.patient_key}
        return desired, Held(
            archived_at=site.archived.get(study_key),
            instances=self.held_instances(site),
            jobs=self.known_jobs(site, study_key),
            patients={key: site.patients[key] for key in filed if key in site.patients},
            patient_jobs=tuple(
                j.known()
                for j in self.jobs
                if j.site is site
                and j.job_type is JobType.ADT
                and j.patient_key in filed
                and (not j.status.is_done or j.status is JobStatus.SUPPRESSED)
            ),
        )

    def held_instances(self, site: Site) -> dict[int, HeldInstance]:
        placed = {p.placement_id: p for p in self.placements}
        burnt = self.burnt()
        return {
            n: HeldInstance(
                replace(placed[n], is_burnt=n in burnt),
                row.is_stored,
                row.is_verified,
                row.note_id,
                row.note_id is not None and site.notes[row.note_id].is_taken,
            )
            for n, row in site.held.items()
        }

    def known_jobs(self, site: Site, study_key: str) -> tuple[KnownJob, ...]:
        """As the ledger's query: what is not done, what a rule suppressed, and the latest if somebody cancelled it."""
        mine = [j for j in self.jobs if j.site is site and j.study_key == study_key]
        latest = {j.job_type is JobType.KOS: j for j in mine if j.job_type is not JobType.IOCM}
        return tuple(
            j.known()
            for j in mine
            if not j.status.is_done
            or j.status is JobStatus.SUPPRESSED
            or (j.is_cancelled_by_hand and latest[j.job_type is JobType.KOS] is j)
        )

    # -- identifiers -------------------------------------------------------------------------------------------------

    def look(self, site: Site, *, looked_before: bool = True) -> Look:
        """As ``services/identifiers.py``: looks up who goes by an identifier at an archive."""

        def look(identifier: tuple[str, str]) -> Standing:
            survivors = self.platform.survivors()
            known = [p for p in site.patients.values() if p.identifier == identifier and p.merged_into is None]
            known = [p for p in known if p.is_introduced or self.has_open_offers(site, p.patient_key)]
            keys = {p.patient_key for p in known}
            stays = site.destination.adt_prior_identifier is PriorIdentifier.KEPT and identifier in site.retired
            return Standing(
                tuple(self.holder(site, p, survivors[p.patient_key]) for p in known),
                gave_up={survivors[gone]: self.follow(site, gone)}
                if stays and (gone := site.retired[identifier])
                else {},
                is_unsettled=bool(keys)
                and (
                    not looked_before
                    or any(p.study_key in self.queue for p in self.placements if p.patient_key in keys)
                ),
            )

        return look

    def holder(self, site: Site, known: HeldPatient, survivor: str) -> Holder:
        about = {known.patient_key, survivor}
        jobs = [j for j in self.jobs if j.site is site and not j.status.is_done and j.patient_keys & about]
        return Holder(
            known,
            survivor,
            self.platform.patients[survivor],
            tuple(j.known() for j in jobs if j.job_type in (*STORE, JobType.ADT)),
        )

    def has_open_offers(self, site: Site, patient_key: str) -> bool:
        theirs = {p.placement_id for p in self.placements if p.patient_key == patient_key}
        return any(n in theirs and not row.is_stored and row.note_id is None for n, row in site.held.items())

    # -- planning ----------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        self.queue |= self.platform.changed
        self.platform.changed.clear()

    def plan_queued(self) -> int:
        """Plan all queued studies in one transaction; gives the number of jobs made."""
        study_keys, self.queue = sorted(self.queue), set()
        planned = []
        for study_key in study_keys:
            for site in self.sites:
                compared = self.compare(study_key, site)
                if compared is not None:
                    planned.append((site, *compared, self.plan(*compared, site)))
                else:
                    self.close([j.job_id for j in self.jobs if j.study_key == study_key])
        before = len(self.jobs)
        seen = set()
        for site, _, _, outcome in planned:
            for work in outcome.adt:
                key = (site.destination.name, work.change, work.patient_key, work.prior_patient_key)
                if key not in seen:
                    seen.add(key)
                    self.insert_adt(site, work)
        for site, desired, held, outcome in planned:
            self.write_store(site, desired, held, outcome.store)
            if outcome.store.new_job is not None:
                self.queue |= self.former_studies(desired, held) - set(study_keys)
        here = set(study_keys)
        for site in self.sites:
            wanted = {
                key
                for at, _, _, outcome in planned
                if at is site and outcome.withdrawal.new_job
                for key in outcome.withdrawal.new_job.waits_for
            }
            for study_key in sorted(wanted - here):
                compared = self.compare(study_key, site)
                if compared is not None:
                    self.write_store(site, *compared, self.plan(*compared, site).store)
        for site, desired, _, outcome in planned:
            self.write_withdrawal(site, desired.study, outcome.withdrawal)
        return len(self.jobs) - before

    @staticmethod
    def former_studies(desired: Desired, held: Held) -> set[str]:
        """As ``services/planner.py``: where instances came from, and an archive still has them."""
        return {
            copy.placed.study_key
            for instance in desired.instances
            for copy in withdrawal.former_copies(instance, desired, held)
            if copy.rejected_by is None and copy.placed.study_key != desired.study.study_key
        }

    def plan(self, desired: Desired, held: Held, site: Site) -> planning.Plan:
        return plan(desired, held, site.destination, observed_at=self.now)

    def insert(self, job_type: JobType, site: Site, study: Study | None, work, **values) -> Job:
        job = Job(
            len(self.jobs) + 1,
            job_type,
            site,
            study.study_key if study else None,
            study.patient.patient_key if study else work.patient_key,
            content_digest=getattr(work, "content_digest", ""),
            created_at=self.now,
            not_before=getattr(work, "not_before", self.now),
        )
        for name, value in {"wait_reason": getattr(work, "wait_reason", None), **values}.items():
            setattr(job, name, value)
        self.jobs.append(job)
        self.tell(f"planned: {job}{f' {job.status.value}' if job.status.is_done else ''}")
        return job

    def insert_adt(self, site: Site, work: identity.AdtWork) -> None:
        job = self.insert(
            JobType.ADT,
            site,
            None,
            work,
            adt_change=work.change,
            prior_patient_key=work.prior_patient_key,
            status=JobStatus.SUPPRESSED if work.suppressed else JobStatus.WAITING,
        )
        self.supersede(work.supersedes, job)

    def write_store(self, site: Site, desired: Desired, held: Held, outcome: planning.StorePlan) -> None:
        study = desired.study
        busy = (JobStatus.RUNNING, JobStatus.RETRYING)
        if (
            outcome.rule is Rule.UP_TO_DATE
            and not held.is_archived
            and not any(j.status in busy for j in held.store_jobs)
            and not unverified_instances(desired, held, site.destination)
        ):
            site.archived.setdefault(study.study_key, self.now)
        self.close(outcome.closes)
        successor = None
        if outcome.new_job is not None:
            job_type, work = outcome.new_job
            if not self.queued_store(site, study.study_key):
                successor = self.insert(job_type, site, study, work, priority=work.priority)
        elif outcome.refresh is not None:
            successor = self.refresh(*outcome.refresh)
        if outcome.supersedes:
            last = max(j.job_id for j in held.store_jobs)
            self.supersede(outcome.supersedes, successor or self.job(last))

    def write_withdrawal(self, site: Site, study: Study, outcome: withdrawal.WithdrawalPlan) -> None:
        for rule, digest, _ in outcome.suppressed:
            job = self.insert(JobType.IOCM, site, study, None, status=JobStatus.SUPPRESSED, reason_code=rule.code)
            job.content_digest = digest
        self.close(outcome.closes)
        if outcome.refresh is not None:
            self.refresh(*outcome.refresh)
        if outcome.new_job is None:
            return
        work = outcome.new_job
        job = self.insert(
            JobType.KOS, site, study, work, priority=work.priority, prior_patient_key=work.prior_patient_key
        )
        job.depends_on = {
            j.job_id
            for j in self.jobs
            if j.site is site and j.study_key in work.waits_for and j.job_type in STORE and not j.status.is_done
        }
        self.supersede(outcome.supersedes, job)

    def queued_store(self, site: Site, study_key: str) -> list[Job]:
        return [
            j
            for j in self.jobs
            if j.site is site and j.study_key == study_key and j.job_type in STORE and j.status in QUEUED
        ]

    def heirs(self, job: Job) -> list[Job]:
        """The open jobs that do what a job was to do."""
        kinds = STORE if job.job_type in STORE else (job.job_type,)
        return [
            j
            for j in self.jobs
            if j.site is job.site
            and j.job_type in kinds
            and not j.status.is_done
            and (j.study_key, j.adt_change, j.patient_keys if j.study_key is None else None)
            == (job.study_key, job.adt_change, job.patient_keys if job.study_key is None else None)
        ]

    def job(self, job_id: int) -> Job:
        return self.jobs[job_id - 1]

    def refresh(self, job_id: int, work) -> Job:
        job = self.job(job_id)
        job.content_digest, job.priority = work.content_digest, work.priority
        job.not_before, job.wait_reason = work.not_before, work.wait_reason
        return job

    def close(self, job_ids: Iterable[int]) -> None:
        for job in map(self.job, job_ids):
            if job.status in (*QUEUED, JobStatus.FAILED):
                job.status, job.reason_code = JobStatus.CANCELLED, "nothing-to-do"
                self.tell(f"closed: {job}")

    def supersede(self, job_ids: Iterable[int], by: Job) -> None:
        for job in map(self.job, job_ids):
            if job.status is JobStatus.FAILED:
                job.status, job.is_superseded = JobStatus.CANCELLED, True
                self.tell(f"{by} takes over from job {job.job_id}")
