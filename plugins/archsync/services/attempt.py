"""The frame around one attempt of a job, the same for images, rejection notes and ADT messages.

    begin ─► work, under a lease that is renewed ─► conclude

The frame decides whether the run may have the job now, keeps the lease, tells the circuit breaker what the peer's
silence or answer means, and turns every error into the job's next status. What is done meanwhile is the ``work``.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from archsync.core.job import FAR_FUTURE, JobStatus, JobType, WaitReason
from archsync.core.naming import dag_kind
from archsync.core.retry import After, decide
from archsync.core.transfer import Share
from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    DestinationMisconfigured,
    LedgerUnavailable,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
)
from archsync.ledger import jobs
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import Neighbours
from archsync.net.dicom.pace import Pace
from archsync.services import breaker
from archsync.services.taking import Ended, Run, Taken, look_again, take

__all__ = ["Attempt", "Ended", "Run", "TakenAway", "run_attempt"]

#: How often an attempt that is busy with one large instance says that it is alive, in seconds.
HEARTBEAT_S = 15.0
#: The same where others wait for it to learn of them: it sends at a limited rate, or over several associations.
SHARING_HEARTBEAT_S = 1.5
#: How long an attempt waits for others to give up associations that it has a share in, and between two looks, in s.
ROOM_WAIT_S, ROOM_PAUSE_S = 30.0, 0.5
#: Attempts after which a failure of unclear kind (0110, unknown codes) counts as permanent.
LIMITED_TRIES = 3

Answer = TypeVar("Answer")


class TakenAway(Exception):
    """The job was cancelled, or another attempt took over: stop, and write nothing more about it."""


class StudyHeld(Exception):
    """An administrator holds the study back since the attempt began: stop where it can go on later."""


class Attempt:
    """One attempt in flight: what its work knows, and what it may ask of the frame."""

    def __init__(self, ledger: Ledger, taken: Taken, clock: Callable[[], datetime]) -> None:
        self.ledger = ledger
        self.job = taken.job
        self.destination = taken.destination
        self.attempt_id = taken.attempt_id
        self.is_probe = taken.is_probe
        self.now = clock
        self.pace = Pace(Share.of(taken.destination, running_jobs=1))
        """What the attempt may take of the destination; follows how many others run there."""
        self.instances = 0
        """Instances acknowledged so far; what each attempt of the job is listed with."""
        self.status_code: str | None = None
        """What the peer last answered (or what it answered where it failed), for whoever looks at the attempt."""
        self._size_bytes = 0
        self._kind = dag_kind(taken.job.job_type)
        self._taken_away = threading.Event()
        self._held_back = threading.Event()
        self._heard = False
        self._reported_at = time.monotonic()

    # -- the peer ------------------------------------------------------------------------------------------------

    def reach(self, talk: Callable[[], Answer], *, tells_health: bool = True) -> Answer:
        """Talk to the destination; whether it could be reached feeds its circuit breaker.

        A C-ECHO (``tells_health`` False) can only open it: an archive may answer that and refuse to store.
        """
        try:
            answer = talk()
        except ConfigurationError as exc:
            # A setting of the destination is wrong: every job would meet the same.
            error = DestinationMisconfigured(exc.message, code=exc.code, next_step=exc.next_step)
            breaker.record_failure(self.ledger, self.destination, self._kind, error, self.now())
            raise error from exc
        except ArchsyncError as exc:
            if breaker.concerns_connection(exc):
                breaker.record_failure(self.ledger, self.destination, self._kind, exc, self.now())
            elif isinstance(exc, PeerUnavailable | OutcomeUnknown | PeerRefused):
                self.answered()
            raise
        if tells_health:
            self.answered()
        return answer

    def answered(self) -> None:
        """The peer did what it is there for, or refused to: it is up."""
        if not self._heard:
            breaker.record_answer(self.ledger, self.destination, self._kind)
            self._heard = True

    # -- the job -------------------------------------------------------------------------------------------------

    def add_progress(self, *, instances: int, size_bytes: int = 0, failed: int = 0) -> None:
        """Count what came of instances, in the caller's transaction; a job that was taken away shows at the next check.

        What was acknowledged is recorded even then: it is true whoever has the job.
        """
        self._report(self.ledger, instances=instances, size_bytes=size_bytes, failed=failed)
        self.instances += instances
        self._size_bytes += size_bytes

    def _report(self, ledger: Ledger, **counts: int) -> Neighbours | None:
        """Tell the ledger how it goes, and go by what it answers; for any thread, with a ledger of its own."""
        neighbours = jobs.report(
            ledger,
            self.job.job_id,
            self.attempt_id,
            bytes_per_s=self.pace.bytes_per_s(),
            associations=self.pace.associations,
            **counts,
        )
        self._reported_at = time.monotonic()
        if neighbours is None:
            self._taken_away.set()
        else:
            self.pace.share = Share.of(self.destination, running_jobs=neighbours.jobs + 1)
            if neighbours.is_on_hold:
                self._held_back.set()
        return neighbours

    def wait_for_room(self) -> None:
        """Take a share of the destination, and wait, if others still have more associations than theirs.

        Not for ever: the archive itself says how many are too many. Raises as :meth:`check_is_ours`.
        """
        deadline = time.monotonic() + ROOM_WAIT_S
        while True:
            neighbours = self._report(self.ledger)
            self.check_is_ours()
            assert neighbours is not None, "the job is ours"
            if neighbours.associations < self.destination.concurrency or time.monotonic() >= deadline:
                return
            self.pause(ROOM_PAUSE_S)

    def check_is_ours(self) -> None:
        """Stop the attempt here if the job was taken away, or its study put on hold.

        Raises:
            TakenAway: it was taken away.
            StudyHeld: an administrator holds the study back.
        """
        if self._taken_away.is_set():
            raise TakenAway
        if self._held_back.is_set():
            raise StudyHeld

    def confirm_is_ours(self) -> None:
        """As :meth:`check_is_ours`, but ask the ledger: before what can't be taken back."""
        self._report(self.ledger)
        self.check_is_ours()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than the job is ours; raises as :meth:`check_is_ours`."""
        self._taken_away.wait(seconds)
        self.check_is_ours()

    @property
    def _heartbeat_s(self) -> float:
        is_sharing = self.destination.max_bytes_per_s is not None or self.pace.associations > 1
        return min(HEARTBEAT_S, SHARING_HEARTBEAT_S) if is_sharing else HEARTBEAT_S

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Keep the lease while the block runs; notice when the job is taken away."""
        stop = threading.Event()

        def beat() -> None:
            with self.ledger.clone() as own:
                while not stop.wait(min(HEARTBEAT_S, SHARING_HEARTBEAT_S)):
                    if time.monotonic() - self._reported_at < self._heartbeat_s:
                        continue
                    try:
                        self._report(own)
                    except LedgerUnavailable:
                        continue  # the working thread meets it too, and concludes

        thread = threading.Thread(target=beat, name=f"lease-{self.job.job_id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    # -- the end -------------------------------------------------------------------------------------------------

    def conclude(
        self,
        status: JobStatus,
        *,
        code: str = "",
        message: str,
        counted: bool = False,
        retry_delay_s: float | None = None,
        wait: WaitReason | None = None,
        not_before: datetime | None = None,
    ) -> Ended:
        """Record how the attempt ended and what becomes of the job; the last thing its work does.

        A study whose job ends, or waits for something the planner has to see, is planned again: what changed since the
        job looked seemed to be covered by it.
        """
        next_attempt_at = None if retry_delay_s is None else self.now() + timedelta(seconds=retry_delay_s)
        with self.ledger.transaction():
            if status is JobStatus.FAILED or status.is_done or not_before is not None:
                # Before the job's row is locked: the planner takes its locks in this order too.
                look_again(self.ledger, self.job)
            jobs.finish_attempt(
                self.ledger,
                self.attempt_id,
                outcome=status,
                reason_code=code or None,
                reason=message,
                counted=counted,
                instances=self.instances,
                size_bytes=self._size_bytes,
                status_code=self.status_code,
            )
            moved = jobs.move(
                self.ledger,
                self.job.job_id,
                status,
                attempt_id=self.attempt_id,
                reason_code=code or None,
                reason=message,
                wait_reason=wait,
                not_before=not_before,
                next_attempt_at=next_attempt_at,
                counted=counted,
                decided_by="archsync",
            )
        if not moved:
            status = jobs.get(self.ledger, self.job.job_id).status
            return Ended(self.job.job_id, status, "the job was taken away from this attempt", did_run=False)
        return Ended(self.job.job_id, status, message, code, retry_delay_s)

    def conclude_on_hold(self) -> Ended:
        """Have the job wait until its study is released."""
        return self.conclude(
            JobStatus.WAITING,
            code=WaitReason.HOLD.value,
            message="The study is on hold.",
            wait=WaitReason.HOLD,
            not_before=FAR_FUTURE,
        )

    def _conclude_error(self, error: ArchsyncError) -> Ended:
        """Decide what follows an error and record it."""
        health = breaker.health(self.ledger, self.destination, self._kind)
        decision = decide(
            error,
            self.destination,
            attempts=self.job.attempts,
            first_attempt_at=self.job.first_attempt_at,
            now=self.now(),
            is_destination_down=health.is_down,
            dice=random.random(),  # noqa: S311 - jitter, not a secret
        )
        status = {After.RETRY: JobStatus.RETRYING, After.FAIL: JobStatus.FAILED, After.WAIT: JobStatus.WAITING}
        return self.conclude(
            status[decision.after],
            code=error.code,
            message=error.message,
            counted=decision.counts,
            retry_delay_s=decision.delay_s,
            wait=WaitReason.DESTINATION_DOWN if decision.after is After.WAIT else None,
        )

    def _conclude_taken_away(self) -> Ended:
        """Record the attempt's end, unless the one that took over has, and leave the job alone."""
        status = jobs.get(self.ledger, self.job.job_id).status
        message = "the job was taken away from this attempt"
        jobs.finish_attempt(
            self.ledger,
            self.attempt_id,
            outcome=status,
            reason_code="taken-away",
            reason=message,
            instances=self.instances,
            size_bytes=self._size_bytes,
            status_code=self.status_code,
        )
        return Ended(self.job.job_id, status, message, did_run=False)


def run_attempt(
    ledger: Ledger,
    job_id: int,
    run: Run,
    *,
    job_types: Collection[JobType],
    work: Callable[[Attempt], Ended],
    clock: Callable[[], datetime] | None = None,
) -> Ended:
    """Run one attempt of a job of one of ``job_types`` and record how it ended.

    ``work`` ends with :meth:`Attempt.conclude`, or raises. Safe to call again at any time: a job that is done is left
    alone, one that another attempt works on too.

    Raises:
        LedgerUnavailable: nothing could be recorded; Airflow's retry calls again.
        InvalidInput: there is no such job, or it is of another type.
        ArchsyncError: a fault of ours, recorded with the job.
    """
    now = clock or (lambda: datetime.now(UTC))
    try:
        taken = take(ledger, job_id, run, job_types, now())
    except ArchsyncError:
        raise
    except Exception as exc:  # noqa: BLE001 - any fault must show on the job, or it would be started again and again
        fault = _internal_error(exc)
        jobs.move(ledger, job_id, JobStatus.FAILED, reason_code=fault.code, reason=fault.message)
        raise fault from None
    if isinstance(taken, Ended):
        return taken
    attempt = Attempt(ledger, taken, now)
    try:
        with attempt._heartbeat():
            return work(attempt)
    except TakenAway:
        return attempt._conclude_taken_away()
    except StudyHeld:
        return attempt.conclude_on_hold()
    except LedgerUnavailable:
        raise
    except ArchsyncError as exc:
        return attempt._conclude_error(exc)
    except Exception as exc:  # noqa: BLE001 - any fault of ours must show on the job
        fault = _internal_error(exc)
        attempt._conclude_error(fault)
        raise fault from None


def _internal_error(exc: Exception) -> ArchsyncError:
    """A fault of ours by its kind and place: its text may quote a patient, and would end up in the run's log."""
    frames = traceback.extract_tb(exc.__traceback__)
    place = next((f for f in reversed(frames) if "archsync" in Path(f.filename).parts), frames[-1])
    return ArchsyncError(f"internal error ({type(exc).__name__} in {Path(place.filename).name}, line {place.lineno})")
