"""One attempt of an archive or dicom job, from the comparison to the ledger: the use case behind the operator.

    begin ─► compare platform and ledger ─► send what is missing ─► check at the archive ─► record the outcome

What to send is found when the job runs, so a second attempt sends only what the first did not get acknowledged. Every
acknowledged instance is committed to the ledger, once a second, before anything else is concluded from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from archsync.core.comparison import Desired, Held, HeldInstance
from archsync.core.destination import Verification
from archsync.core.job import FAR_FUTURE, JobStatus, JobType, WaitReason
from archsync.core.placing import Placed
from archsync.core.planning import Work, gate, missing_instances, unverified_instances
from archsync.core.study import Instance, Patient
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome, StoreResult
from archsync.errors import InvalidInput, OutcomeUnknown, PeerRefused, PeerUnavailable
from archsync.ledger import holdings, jobs, patients, plan_queue, planned_jobs
from archsync.ledger.database import Ledger
from archsync.net.dicom.echo import echo
from archsync.net.dicom.store import store_instances
from archsync.platformdb.reader import Platform
from archsync.services.asking import VERIFY_PAUSES_S, list_for_check
from archsync.services.attempt import LIMITED_TRIES, Attempt, Ended, Run, run_attempt
from archsync.services.comparison import Compared, compare_one
from archsync.services.dependants import follow_replacements, revive_dependants
from archsync.services.placing import IdentifierInUse, MovedMeanwhile, offer, outgoing

#: How often acknowledged instances are committed, and progress told, in seconds: what a killed attempt may send again.
COMMIT_S = 1.0
#: Until whoever has an identifier at an archive was planned again.
IDENTIFIER_PAUSE = timedelta(seconds=15)
#: The archive has other bytes under this SOP Instance UID (core/archive_answers.py).
_OTHER_BYTES = 0xA770
#: The types of job that store instances.
STORE_JOBS = frozenset({JobType.ARCHIVE, JobType.DICOM})


def run_store_job(
    ledger: Ledger, platform: Platform, job_id: int, run: Run, *, clock: Callable[[], datetime] | None = None
) -> Ended:
    """Run one attempt of an archive or dicom job and record how it ended, as ``run_attempt`` says."""

    def work(attempt: Attempt) -> Ended:
        return _StoreJob(attempt, platform).work()

    return run_attempt(ledger, job_id, run, job_types=STORE_JOBS, work=work, clock=clock)


class _StoreJob:
    """The work of one attempt: storing what the archive lacks of a study."""

    def __init__(self, attempt: Attempt, platform: Platform) -> None:
        self._attempt = attempt
        self._ledger = attempt.ledger
        self._platform = platform
        self._job = attempt.job
        self._destination = attempt.destination
        self._unsent: list[StoreOutcome] = []
        self._offered_before: set[str] = set()
        self._introduced: set[str] = set()

    def work(self) -> Ended:
        """Compare, send, check, conclude."""
        endpoint = Endpoint.of(self._destination)
        if self._attempt.is_probe:
            self._attempt.reach(lambda: echo(endpoint), tells_health=False)
        while True:
            try:
                return self._store(endpoint)
            except MovedMeanwhile:
                self._attempt.confirm_is_ours()

    def _store(self, endpoint: Endpoint) -> Ended:
        compared = self._compare()
        if compared is None or not compared.desired.instances:
            return self._attempt.conclude(
                JobStatus.CANCELLED, code="nothing-to-do", message="The platform no longer has anything of this study."
            )
        desired, held, study = compared.desired, compared.held, compared.desired.study
        if (why := gate(desired, held, self._destination)) is not None:
            if why is WaitReason.HOLD:
                return self._attempt.conclude_on_hold()
            message = f"The exam is {study.exam_status}."
            return self._attempt.conclude(
                JobStatus.WAITING, code=why.value, message=message, wait=why, not_before=FAR_FUTURE
            )
        missing = missing_instances(desired, held, self._destination)
        self._set_scope(desired, missing)
        placed: Mapping[str, Placed] = {}
        if missing:
            try:
                placed, patient = self._offer(compared, missing)
            except IdentifierInUse as exc:
                return self._wait_for_identifier(exc, desired, missing)
            to_send = outgoing(desired, missing, placed, patient)
            placement_ids = {key: p.placement_id for key, p in placed.items()}
            self._offered_before = {h.placed.instance_key for h in held.instances.values() if not h.is_stored}
            self._attempt.wait_for_room()
            self._attempt.reach(lambda: self._send(endpoint, to_send, placement_ids))
        self._raise_unsent()
        if self._destination.verification is Verification.C_FIND:
            unverified = self._unverified(compared, placed)
            self._attempt.reach(lambda: self._verify(endpoint, unverified))
        if self._attempt.is_probe:
            self._attempt.answered()
        holdings.set_archived(self._ledger, self._job.destination_id, study.study_key)
        self._follow(compared, has_sent=bool(missing))
        sent = self._attempt.instances
        message = "The archive held every instance already."
        if sent:
            message = f"{sent} instances sent." if sent > 1 else "1 instance sent."
        return self._attempt.conclude(JobStatus.SUCCEEDED, message=message)

    def _compare(self) -> Compared | None:
        assert self._job.study_key is not None, "archive and dicom jobs are about a study"
        return compare_one(self._platform, self._ledger, self._job.study_key, self._destination)

    def _follow(self, compared: Compared, *, has_sent: bool) -> None:
        """Have key images and the like come back, or follow, that point at what the archive holds anew."""
        revive_dependants(self._ledger, compared.desired)
        if not (has_sent and self._destination.iocm.supports_iocm and _may_replace(compared)):
            return
        if (now := self._compare()) is not None:
            follow_replacements(self._ledger, self._platform, now)

    def _offer(self, compared: Compared, missing: Sequence[Instance]) -> tuple[dict[str, Placed], Patient]:
        looked_before = self._job.reason_code == WaitReason.IDENTIFIER.value
        try:
            return offer(self._ledger, self._platform, compared, missing, looked_before=looked_before)
        except InvalidInput:
            # Failed for this very identifier: with another one it is worth another job.
            self._set_scope(compared.desired, missing, with_identifier=True)
            raise

    def _wait_for_identifier(self, found: IdentifierInUse, desired: Desired, missing: Sequence[Instance]) -> Ended:
        """Wait for the job that gives the other patient another identifier; or look again when they were planned."""
        why = "The archive knows another patient by this one's identifier, and has not learnt their new one."
        if found.job_id is None:
            plan_queue.queue_patients(self._ledger, found.patient_keys)
            return self._attempt.conclude(
                JobStatus.WAITING,
                code=WaitReason.IDENTIFIER.value,
                message=why,
                wait=WaitReason.IDENTIFIER,
                not_before=self._attempt.now() + IDENTIFIER_PAUSE,
            )
        with self._ledger.transaction():
            if found.job_id < self._job.job_id:
                planned_jobs.depend(self._ledger, self._job.job_id, [found.job_id])
                return self._attempt.conclude(
                    JobStatus.WAITING, code=WaitReason.IDENTIFIER.value, message=why, wait=WaitReason.LANE
                )
            # A job waits for earlier ones only, or two might wait for each other: the later one may be in this one's
            # lane, where the study was moved out of it.
            work = Work(self._job.priority, desired.study.content_digest(), tuple(missing), self._attempt.now(), None)
            planned_jobs.insert_store(
                self._ledger,
                self._job.job_type,
                self._job.destination_id,
                desired.study,
                work,
                requested_by=self._job.requested_by,
            )
            return self._attempt.conclude(
                JobStatus.CANCELLED, code="nothing-to-do", message=f"{why} It goes on behind job {found.job_id}."
            )

    def _set_scope(self, desired: Desired, missing: Sequence[Instance], *, with_identifier: bool = False) -> None:
        total_bytes = sum(i.size_bytes for i in desired.instances)
        missing_bytes = sum(i.size_bytes for i in missing)
        jobs.set_scope(
            self._ledger,
            self._job.job_id,
            self._attempt.attempt_id,
            content_digest=desired.study.content_digest(with_identifier=with_identifier),
            totals=(len(desired.instances), total_bytes),
            done=(len(desired.instances) - len(missing), total_bytes - missing_bytes),
        )

    def _send(self, endpoint: Endpoint, to_send: Sequence[OutgoingInstance], placement_ids: Mapping[str, int]) -> None:
        """Send what is missing, committing what is acknowledged once a second."""
        batch: list[StoreOutcome] = []
        committed_at = time.monotonic()
        outcomes = store_instances(endpoint, to_send, self._attempt.pace)
        try:
            for outcome in outcomes:
                self._note_answer(outcome)
                batch.append(self._settled(outcome))
                if time.monotonic() - committed_at >= COMMIT_S:
                    self._commit(batch, placement_ids)
                    batch = []
                    committed_at = time.monotonic()
                self._attempt.check_is_ours()
        finally:
            outcomes.close()
            if batch:
                self._commit(batch, placement_ids)

    def _settled(self, outcome: StoreOutcome) -> StoreOutcome:
        """The outcome, where the archive holds what an earlier attempt sent and never heard of: that one was stored.

        Such a resend may differ from what was sent first, in the study's attributes. The archive says so and keeps it.
        """
        is_there = outcome.status == _OTHER_BYTES and outcome.instance.instance_key in self._offered_before
        return replace(outcome, result=StoreResult.WARNING) if is_there else outcome

    def _commit(self, batch: Sequence[StoreOutcome], placement_ids: Mapping[str, int]) -> None:
        stored = [o for o in batch if o.result.is_stored]
        unsent = [o for o in batch if not o.result.is_stored]
        acknowledged = [(placement_ids[o.instance.instance_key], o.status or 0) for o in stored]
        with self._ledger.transaction():
            if stored:
                holdings.record_stored(self._ledger, self._job.destination_id, acknowledged)
                study_uids = {str(o.instance.study_instance_uid) for o in stored}
                patients.introduce(self._ledger, self._job.destination_id, study_uids - self._introduced)
                self._introduced |= study_uids
            jobs.record_failures(self._ledger, self._job.job_id, unsent)
            self._attempt.add_progress(
                instances=len(stored), size_bytes=sum(o.instance.size_bytes for o in stored), failed=len(unsent)
            )
        self._unsent.extend(unsent)

    def _raise_unsent(self) -> None:
        """Turn instances that were not stored into the error that says what happens next."""
        unsent = self._unsent
        if not unsent:
            return
        lasting = [o for o in unsent if o.result is StoreResult.REFUSED or self._is_limited_out(o)]
        passing = [o for o in unsent if o not in lasting]
        first = (passing or lasting)[0]
        self._attempt.status_code = None if first.status is None else f"{first.status:04X}"
        counts = f"{len(unsent)} of {len(unsent) + self._attempt.instances} instances were not stored"
        sample = f"the first is {first.instance.sop_instance_uid}: {first.message}"
        if passing:
            raise PeerUnavailable(f"{counts}; {sample}", reached_peer=True, code=first.code)
        raise PeerRefused(f"{counts}; {sample}", code=first.code)

    def _is_limited_out(self, outcome: StoreOutcome) -> bool:
        return outcome.result is StoreResult.LIMITED and self._job.attempts + 1 >= LIMITED_TRIES

    def _unverified(self, compared: Compared, placed: Mapping[str, Placed]) -> Sequence[HeldInstance]:
        """What the archive acknowledged, now or before, and was not yet seen there. ``placed``: what was just sent."""
        desired = replace(compared.desired, latest={**compared.desired.latest, **placed})
        placements = {p.placement_id: p for p in desired.latest.values()}
        held = holdings.held(self._ledger, [self._job.destination_id], placements)[self._job.destination_id]
        return unverified_instances(desired, Held(instances=held), self._destination)

    def _verify(self, endpoint: Endpoint, waiting: Sequence[HeldInstance]) -> None:
        """Ask the archive, series by series, and record what it lists; what it does not list is missing again."""
        for pause_s in (0.0, *VERIFY_PAUSES_S):
            if not waiting:
                return
            self._attempt.pause(pause_s)
            listed = list_for_check(endpoint, [h.placed.uids for h in waiting])
            seen = [h.placed.placement_id for h in waiting if h.placed.uids.sop_instance_uid in listed]
            holdings.mark_verified(self._ledger, self._job.destination_id, seen)
            waiting = [h for h in waiting if h.placed.uids.sop_instance_uid not in listed]
        holdings.forget(self._ledger, self._job.destination_id, [h.placed.placement_id for h in waiting])
        raise OutcomeUnknown(
            f"the archive answered success for {len(waiting)} instances but does not list them;"
            f" the first is {waiting[0].placed.uids.sop_instance_uid}",
            code="stored-but-not-listed",
        )

    def _note_answer(self, outcome: StoreOutcome) -> None:
        if outcome.status is not None:
            self._attempt.status_code = f"{outcome.status:04X}"
            if outcome.result is not StoreResult.STOP:
                self._attempt.answered()


def _may_replace(compared: Compared) -> bool:
    """Tell whether anything of a study may take the place of something that the archive has, or may have had."""
    is_known = bool(compared.held.instances or compared.desired.replacements)
    return is_known or any(i.replaces_instance_key is not None for i in compared.desired.study.instances)
