"""One attempt of an archive or dicom job, from the comparison to the ledger: the use case behind the operator.

    begin ─► compare platform and ledger ─► send what is missing ─► check at the archive ─► record the outcome

What to send is found when the job runs, so a second attempt sends only what the first did not get acknowledged. Every
acknowledged instance is committed to the ledger in small batches before anything else is concluded from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from archsync.core.destination import Verification
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.planning import FAR_FUTURE, Held, gate, missing_instances, unverified_instances
from archsync.core.study import Instance, Study
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome, StoreResult
from archsync.errors import DestinationMisconfigured, OutcomeUnknown, PeerRefused, PeerUnavailable
from archsync.ledger import holdings, jobs
from archsync.ledger.database import Ledger
from archsync.net.dicom.echo import echo
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances
from archsync.platformdb.reader import Platform
from archsync.services.attempt import Attempt, Ended, Run, run_attempt
from archsync.services.planner import held_at

#: Acknowledged instances are committed at this many, or after this long: what a killed attempt may send again.
COMMIT_INSTANCES = 50
COMMIT_SECONDS = 1.0
#: An archive may list what it stored a moment later: how long to wait before each further look, in seconds.
VERIFY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
#: Attempts after which a failure of unclear kind (0110, unknown codes) counts as permanent.
LIMITED_TRIES = 3
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

    def work(self) -> Ended:
        """Compare, send, check, conclude."""
        endpoint = Endpoint.of(self._destination)
        if self._attempt.is_probe:
            self._attempt.reach(lambda: echo(endpoint), tells_health=False)
        study = self._fetch_study()
        if study is None or not study.present_instances:
            return self._attempt.conclude(
                JobStatus.CANCELLED, code="nothing-to-do", message="The platform no longer has anything of this study."
            )
        held = self._held(study)
        if (why := gate(study, held, self._destination)) is not None:
            message = "The study is on hold." if why is WaitReason.HOLD else f"The exam is {study.exam_status}."
            return self._attempt.conclude(
                JobStatus.WAITING, code=why.value, message=message, wait=why, not_before=FAR_FUTURE
            )
        missing = missing_instances(study, held)
        self._set_scope(study, missing)
        if missing:
            self._attempt.reach(lambda: self._send(endpoint, study, missing))
        self._raise_unsent()
        if self._destination.verification is Verification.C_FIND:
            self._attempt.reach(lambda: self._verify(endpoint, study))
        if self._attempt.is_probe:
            self._attempt.answered()
        self._record_archived(study)
        sent = self._attempt.instances
        message = "The archive held every instance already."
        if sent:
            message = f"{sent} instances sent." if sent > 1 else "1 instance sent."
        return self._attempt.conclude(JobStatus.SUCCEEDED, message=message)

    def _fetch_study(self) -> Study | None:
        assert self._job.study_key is not None, "archive and dicom jobs are about a study"
        batch = self._platform.fetch_studies([self._job.study_key])
        for error in batch.rejected.values():
            raise error
        return batch.studies[0] if batch.studies else None

    def _held(self, study: Study) -> Held:
        return held_at(self._ledger, self._destination, [study.study_key])[study.study_key]

    def _set_scope(self, study: Study, missing: Sequence[Instance]) -> None:
        present = study.present_instances
        total_bytes = sum(i.size_bytes for i in present)
        missing_bytes = sum(i.size_bytes for i in missing)
        jobs.set_scope(
            self._ledger,
            self._job.job_id,
            self._attempt.attempt_id,
            content_digest=study.content_digest(),
            totals=(len(present), total_bytes),
            done=(len(present) - len(missing), total_bytes - missing_bytes),
        )

    def _send(self, endpoint: Endpoint, study: Study, missing: Sequence[Instance]) -> None:
        """Send what is missing, committing what is acknowledged in small batches."""
        recorder = holdings.StoredRecorder(self._ledger, self._job.destination_id, study)
        batch: list[StoreOutcome] = []
        committed_at = time.monotonic()
        outcomes = store_instances(endpoint, [_outgoing(i, study) for i in missing])
        try:
            for outcome in outcomes:
                self._note_answer(outcome)
                batch.append(outcome)
                if len(batch) >= COMMIT_INSTANCES or time.monotonic() - committed_at >= COMMIT_SECONDS:
                    self._commit(recorder, batch)
                    batch = []
                    committed_at = time.monotonic()
                self._attempt.check_is_ours()
        finally:
            outcomes.close()
            if batch:
                self._commit(recorder, batch)

    def _commit(self, recorder: holdings.StoredRecorder, batch: Sequence[StoreOutcome]) -> None:
        stored = [o for o in batch if o.result.is_stored]
        unsent = [o for o in batch if not o.result.is_stored]
        with self._ledger.transaction():
            if stored:
                recorder.record(stored)
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
        counts = f"{len(unsent)} of {len(unsent) + self._attempt.instances} instances were not stored"
        sample = f"the first is {first.instance.sop_instance_uid}: {first.message}"
        if passing:
            raise PeerUnavailable(f"{counts}; {sample}", reached_peer=True, code=first.code)
        raise PeerRefused(f"{counts}; {sample}", code=first.code)

    def _is_limited_out(self, outcome: StoreOutcome) -> bool:
        return outcome.result is StoreResult.LIMITED and self._job.attempts + 1 >= LIMITED_TRIES

    def _verify(self, endpoint: Endpoint, study: Study) -> None:
        """Ask the archive, series by series, and record what it lists; what it does not list is missing again."""
        waiting = unverified_instances(study, self._held(study), self._destination)
        for pause_s in (0.0, *VERIFY_PAUSES_S):
            if not waiting:
                return
            self._attempt.pause(pause_s)
            series = sorted({i.series_instance_uid for i in waiting})
            listed = self._list(endpoint, study, series)
            seen = [i.instance_key for i in waiting if i.sop_instance_uid in listed]
            holdings.mark_verified(self._ledger, self._job.destination_id, seen)
            waiting = tuple(i for i in waiting if i.sop_instance_uid not in listed)
        holdings.forget(self._ledger, self._job.destination_id, [i.instance_key for i in waiting])
        raise OutcomeUnknown(
            f"the archive answered success for {len(waiting)} instances but does not list them;"
            f" the first is {waiting[0].sop_instance_uid}",
            code="stored-but-not-listed",
        )

    @staticmethod
    def _list(endpoint: Endpoint, study: Study, series: Sequence[str]) -> set[str]:
        try:
            return find_instances(endpoint, study.study_instance_uid, series)
        except PeerRefused as exc:
            if exc.code != "find-not-supported":
                raise
            # The destination is set to be verified, and can't be: every job would end the same.
            raise DestinationMisconfigured(exc.message, code=exc.code, next_step=exc.next_step) from exc

    def _record_archived(self, study: Study) -> None:
        holdings.set_archived(self._ledger, self._job.destination_id, study.study_key)

    def _note_answer(self, outcome: StoreOutcome) -> None:
        if outcome.status is not None and outcome.result is not StoreResult.STOP:
            self._attempt.answered()


def _outgoing(instance: Instance, study: Study) -> OutgoingInstance:
    return OutgoingInstance(
        instance_key=instance.instance_key,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        location=instance.location,
        size_bytes=instance.size_bytes,
        study_instance_uid=study.study_instance_uid,
        series_instance_uid=instance.series_instance_uid,
    )
