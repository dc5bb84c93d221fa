"""One attempt of an archive or dicom job, from the comparison to the ledger: the use case behind the operator.

    begin ─► compare platform and ledger ─► send what is missing ─► check at the archive ─► record the outcome

What to send is found when the job runs, so a second attempt sends only what the first did not get acknowledged. Every
acknowledged instance is committed to the ledger in small batches before anything else is concluded from it.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from archsync.core.destination import Destination, Verification
from archsync.core.job import Job, JobStatus, WaitReason
from archsync.core.planning import FAR_FUTURE, Held, gate, missing_instances, unverified_instances
from archsync.core.retry import After, decide
from archsync.core.study import Instance, Study
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome, StoreResult
from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    DestinationMisconfigured,
    LedgerUnavailable,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
)
from archsync.ledger import destinations, holdings, jobs
from archsync.ledger.database import Ledger
from archsync.net.dicom.echo import echo
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances
from archsync.platformdb.reader import Platform
from archsync.services import breaker
from archsync.services.attempt import Ended, Run, begin, look_again
from archsync.services.planner import held_at

#: Acknowledged instances are committed at this many, or after this long: what a killed attempt may send again.
COMMIT_INSTANCES = 50
COMMIT_SECONDS = 1.0
#: How often an attempt that is busy with one large instance says that it is alive, in seconds.
HEARTBEAT_S = 15.0
#: An archive may list what it stored a moment later: how long to wait before each further look, in seconds.
VERIFY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
#: Attempts after which a failure of unclear kind (0110, unknown codes) counts as permanent.
LIMITED_TRIES = 3


class _TakenAway(Exception):
    """The job was cancelled, or another attempt took over: stop, and write nothing more about it."""


@dataclass(slots=True)
class _Tally:
    """What came of the instances of one attempt."""

    stored: int = 0
    stored_bytes: int = 0
    unsent: list[StoreOutcome] = field(default_factory=list)


def run_store_job(
    ledger: Ledger, platform: Platform, job_id: int, run: Run, *, clock: Callable[[], datetime] | None = None
) -> Ended:
    """Run one attempt of an archive or dicom job and record how it ended.

    Safe to call again at any time: a job that is done is left alone, one that another attempt works on too.

    Raises:
        LedgerUnavailable: nothing could be recorded; Airflow's retry calls again.
    """
    now = clock or (lambda: datetime.now(UTC))
    try:
        begun = begin(ledger, job_id, run, now())
    except ArchsyncError:
        raise
    except Exception as exc:  # noqa: BLE001 - any fault must show on the job, or it would be started again and again
        fault = _internal_error(exc)
        jobs.move(ledger, job_id, JobStatus.FAILED, reason_code=fault.code, reason=fault.message)
        raise fault from None
    if isinstance(begun, Ended):
        return begun
    job, destination, attempt_id, is_probe = begun
    attempt = _Attempt(ledger, platform, job, destination, attempt_id, now)
    try:
        with attempt.heartbeat():
            return attempt.work(is_probe=is_probe)
    except _TakenAway:
        return attempt.conclude_taken_away()
    except LedgerUnavailable:
        raise
    except ArchsyncError as exc:
        return attempt.conclude_error(exc)
    except Exception as exc:  # noqa: BLE001 - any fault of ours must show on the job
        fault = _internal_error(exc)
        attempt.conclude_error(fault)
        raise fault from None


def _internal_error(exc: Exception) -> ArchsyncError:
    """A fault of ours by its kind and place: its text may quote a patient, and would end up in the run's log."""
    frames = traceback.extract_tb(exc.__traceback__)
    place = next((f for f in reversed(frames) if "archsync" in Path(f.filename).parts), frames[-1])
    return ArchsyncError(f"internal error ({type(exc).__name__} in {Path(place.filename).name}, line {place.lineno})")


class _Attempt:
    """One attempt in flight."""

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        job: Job,
        destination: Destination,
        attempt_id: int,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._job = job
        self._destination = destination
        self._attempt_id = attempt_id
        self._now = now
        self._tally = _Tally()
        self._taken_away = threading.Event()
        self._heard = False

    # -- the work ------------------------------------------------------------------------------------------------

    def work(self, *, is_probe: bool) -> Ended:
        """Compare, send, check, conclude."""
        endpoint = Endpoint.of(self._destination)
        if is_probe:
            self._reach(lambda: echo(endpoint), tells_health=False)
        study = self._fetch_study()
        if study is None or not study.present_instances:
            return self._conclude(
                JobStatus.CANCELLED, code="nothing-to-do", message="The platform no longer has anything of this study."
            )
        held = self._held(study)
        if (why := gate(study, held, self._destination)) is not None:
            message = "The study is on hold." if why is WaitReason.HOLD else f"The exam is {study.exam_status}."
            return self._conclude(JobStatus.WAITING, code=why.value, message=message, wait=why, not_before=FAR_FUTURE)
        missing = missing_instances(study, held)
        self._set_scope(study, missing)
        if missing:
            self._reach(lambda: self._send(endpoint, study, missing))
        self._raise_unsent()
        if self._destination.verification is Verification.C_FIND:
            self._reach(lambda: self._verify(endpoint, study))
        if is_probe:
            self._answered()
        self._record_archived(study)
        sent = self._tally.stored
        message = "The archive held every instance already."
        if sent:
            message = f"{sent} instances sent." if sent > 1 else "1 instance sent."
        return self._conclude(JobStatus.SUCCEEDED, code="", message=message)

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
            self._attempt_id,
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
                if self._taken_away.is_set():
                    raise _TakenAway
        finally:
            outcomes.close()
            if batch:
                self._commit(recorder, batch)

    def _commit(self, recorder: holdings.StoredRecorder, batch: Sequence[StoreOutcome]) -> None:
        stored = [o for o in batch if o.result.is_stored]
        unsent = [o for o in batch if not o.result.is_stored]
        size_bytes = sum(o.instance.size_bytes for o in stored)
        with self._ledger.transaction():
            if stored:
                recorder.record(stored)
            jobs.record_failures(self._ledger, self._job.job_id, unsent)
            still_ours = jobs.add_progress(
                self._ledger,
                self._job.job_id,
                self._attempt_id,
                instances=len(stored),
                size_bytes=size_bytes,
                failed=len(unsent),
            )
        self._tally.stored += len(stored)
        self._tally.stored_bytes += size_bytes
        self._tally.unsent.extend(unsent)
        if not still_ours:
            self._taken_away.set()

    def _raise_unsent(self) -> None:
        """Turn instances that were not stored into the error that says what happens next."""
        unsent = self._tally.unsent
        if not unsent:
            return
        lasting = [o for o in unsent if o.result is StoreResult.REFUSED or self._is_limited_out(o)]
        passing = [o for o in unsent if o not in lasting]
        first = (passing or lasting)[0]
        counts = f"{len(unsent)} of {len(unsent) + self._tally.stored} instances were not stored"
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
            self._taken_away.wait(pause_s)
            if self._taken_away.is_set():
                raise _TakenAway
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

    # -- the destination's health --------------------------------------------------------------------------------

    def _reach(self, talk: Callable[[], None], *, tells_health: bool = True) -> None:
        """Talk to the destination; whether it could be reached feeds its circuit breaker.

        A C-ECHO (``tells_health`` False) can only open it: an archive may answer that and refuse to store.
        """
        try:
            talk()
        except ConfigurationError as exc:
            # A setting of the destination is wrong: every job would meet the same.
            error = DestinationMisconfigured(exc.message, code=exc.code, next_step=exc.next_step)
            breaker.record_failure(self._ledger, self._destination, error, self._now())
            raise error from exc
        except ArchsyncError as exc:
            if breaker.concerns_connection(exc):
                breaker.record_failure(self._ledger, self._destination, exc, self._now())
            elif isinstance(exc, PeerUnavailable | OutcomeUnknown | PeerRefused):
                self._answered()
            raise
        if tells_health:
            self._answered()

    def _note_answer(self, outcome: StoreOutcome) -> None:
        if outcome.status is not None and outcome.result is not StoreResult.STOP:
            self._answered()

    def _answered(self) -> None:
        if not self._heard:
            breaker.record_answer(self._ledger, self._destination)
            self._heard = True

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Keep the lease while the block runs; notice when the job is taken away."""
        stop = threading.Event()

        def beat() -> None:
            with self._ledger.clone() as own:
                while not stop.wait(HEARTBEAT_S):
                    try:
                        if not jobs.renew_lease(own, self._job.job_id, self._attempt_id):
                            self._taken_away.set()
                    except LedgerUnavailable:
                        continue  # the sending thread meets it too, and concludes

        thread = threading.Thread(target=beat, name=f"lease-{self._job.job_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # -- the end -------------------------------------------------------------------------------------------------

    def conclude_taken_away(self) -> Ended:
        """Record the attempt's end, unless the one that took over has, and leave the job alone."""
        status = jobs.get(self._ledger, self._job.job_id).status
        message = "the job was taken away from this attempt"
        jobs.finish_attempt(
            self._ledger,
            self._attempt_id,
            outcome=status,
            reason_code="taken-away",
            reason=message,
            instances=self._tally.stored,
            size_bytes=self._tally.stored_bytes,
        )
        return Ended(self._job.job_id, status, message, did_run=False)

    def conclude_error(self, error: ArchsyncError) -> Ended:
        """Decide what follows an error and record it."""
        health = destinations.health(self._ledger)[self._job.destination_id].health
        decision = decide(
            error,
            self._destination,
            attempts=self._job.attempts,
            first_attempt_at=self._job.first_attempt_at,
            now=self._now(),
            is_destination_down=health.is_down,
            dice=random.random(),  # noqa: S311 - jitter, not a secret
        )
        status = {After.RETRY: JobStatus.RETRYING, After.FAIL: JobStatus.FAILED, After.WAIT: JobStatus.WAITING}
        return self._conclude(
            status[decision.after],
            code=error.code,
            message=error.message,
            counted=decision.counts,
            retry_delay_s=decision.delay_s,
            wait=WaitReason.DESTINATION_DOWN if decision.after is After.WAIT else None,
        )

    def _conclude(
        self,
        status: JobStatus,
        *,
        code: str,
        message: str,
        counted: bool = False,
        retry_delay_s: float | None = None,
        wait: WaitReason | None = None,
        not_before: datetime | None = None,
    ) -> Ended:
        next_attempt_at = None if retry_delay_s is None else self._now() + timedelta(seconds=retry_delay_s)
        with self._ledger.transaction():
            if status in (JobStatus.FAILED, JobStatus.CANCELLED) or not_before is FAR_FUTURE:
                # Before the job's row is locked: the planner takes its locks in this order too.
                look_again(self._ledger, self._job)
            jobs.finish_attempt(
                self._ledger,
                self._attempt_id,
                outcome=status,
                reason_code=code or None,
                reason=message,
                counted=counted,
                instances=self._tally.stored,
                size_bytes=self._tally.stored_bytes,
            )
            moved = jobs.move(
                self._ledger,
                self._job.job_id,
                status,
                attempt_id=self._attempt_id,
                reason_code=code or None,
                reason=message,
                wait_reason=wait,
                not_before=not_before,
                next_attempt_at=next_attempt_at,
                counted=counted,
                decided_by="archsync",
            )
        if not moved:
            status = jobs.get(self._ledger, self._job.job_id).status
            return Ended(self._job.job_id, status, "the job was taken away from this attempt", did_run=False)
        return Ended(self._job.job_id, status, message, code, retry_delay_s)


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
