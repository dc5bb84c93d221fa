"""One attempt of an adt job: telling an archive's HL7 receiver what changed about a patient.

    begin ─► resend what may have arrived ─► see what is to be said now ─► build, check, store ─► send ─► record

A message is stored before it is first sent. While it may have been applied (sent, and no valid answer), it is sent
again byte for byte, whatever has changed since. One that certainly was not applied is sent again as it is too, unless
it no longer says what is so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from archsync.core.adt import AdtEndpoint
from archsync.core.adt_statement import Statement, find_statement
from archsync.core.identifiers import WAIT_FOR_IDENTIFIERS, check_ends_alone, job_before_message
from archsync.core.identity import HeldPatient
from archsync.core.job import AdtChange, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.study import Facility, Patient
from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    DestinationMisconfigured,
    InvalidInput,
    PeerRefused,
    PeerUnavailable,
)
from archsync.ledger import adt_messages, jobs, patients, plan_queue, planned_jobs
from archsync.ledger.adt_messages import AdtMessage
from archsync.ledger.database import Ledger
from archsync.messages.adt import build_a08, build_a40, control_id, validate
from archsync.net.mllp import MllpClient
from archsync.platformdb.reader import Platform
from archsync.services.attempt import Attempt, Ended, Run, run_attempt
from archsync.services.identifiers import reader

#: The changes that concern who the patient is; they go before the others.
_OF_IDENTITY = (AdtChange.IDENTIFIER, AdtChange.MERGE)


def run_adt_job(
    ledger: Ledger, platform: Platform, job_id: int, run: Run, *, clock: Callable[[], datetime] | None = None
) -> Ended:
    """Run one attempt of an adt job and record how it ended, as ``run_attempt`` says."""

    def work(attempt: Attempt) -> Ended:
        return _AdtJob(attempt, platform).work()

    return run_attempt(ledger, job_id, run, job_types=(JobType.ADT,), work=work, clock=clock)


class _AdtJob:
    """The work of one attempt."""

    def __init__(self, attempt: Attempt, platform: Platform) -> None:
        assert attempt.job.adt_change is not None, "every adt job has a change"
        self._attempt = attempt
        self._ledger = attempt.ledger
        self._platform = platform
        self._job = attempt.job
        self._change = attempt.job.adt_change
        self._destination_id = attempt.job.destination_id
        self._keys = [key for key in (attempt.job.patient_key, attempt.job.prior_patient_key) if key is not None]

    def work(self) -> Ended:
        """Resend, see what is to be said, say it, conclude."""
        endpoint = self._attempt.destination.adt
        if endpoint is None:
            raise not_configured(self._attempt.destination.name)
        while (doubtful := self._in_doubt()) is not None:
            if doubtful.job_id == self._job.job_id:
                return self._conclude_told(doubtful, self._send(endpoint, doubtful))
            self._settle(endpoint, doubtful)
        patient = self._patient()
        if patient is None:
            with self._ledger.transaction():
                self._look_at_all()
                why = "The patient was merged into another, or is no longer on the platform."
                return self._nothing(endpoint, why)
        if self._change is AdtChange.DEMOGRAPHICS and (first := self._identity_job()) is not None:
            # It was made later and would wait for this one. The other way round it is right; planning sees to it.
            return self._nothing(endpoint, f"Job {first.job_id} has to tell of the patient's identifier first.")
        statement = self._statement(patient)
        if statement is None:
            return self._nothing(endpoint, "The archive knows it already.")
        look = reader(self._ledger, self._platform, self._attempt.destination)
        if statement.brings_identifier and (waits_for := job_before_message(patient, look)) is not None:
            return self._wait_for(waits_for)
        if statement.prior is not None:
            check_ends_alone(statement.prior, patient, look)
        message = self._prepare(endpoint, statement)
        if message is None:
            return self._conclude_same(endpoint, statement)
        return self._conclude_told(message, self._send(endpoint, message))

    # -- what to say ---------------------------------------------------------------------------------------------

    def _in_doubt(self) -> AdtMessage | None:
        return adt_messages.in_doubt(
            self._ledger, self._job.job_id, destination_id=self._destination_id, patient_keys=self._keys
        )

    def _patient(self) -> Patient | None:
        """The patient as the platform has them now; None: gone, or merged into another."""
        key = self._job.patient_key
        survivors = self._platform.resolve_survivors([key])
        if (problem := survivors.rejected.get(key)) is not None:
            raise problem
        if survivors.get(key) != key:
            return None
        found = self._platform.fetch_patients([key])
        if (problem := found.rejected.get(key)) is not None:
            raise problem
        return found.get(key)

    def _look_at_all(self) -> None:
        """Have all studies planned of whoever the patient is by now: there may be more to tell of them.

        None of them need have been filed under the patients that this job names, nor sent anywhere.
        """
        survivors = set(self._platform.resolve_survivors([self._job.patient_key]).values())
        keys = sorted({*survivors, *self._platform.find_merged(survivors)})
        plan_queue.queue_patients(self._ledger, keys)
        plan_queue.queue(self._ledger, self._platform.find_studies_of(keys))

    def _statement(self, patient: Patient) -> Statement | None:
        held = patients.held(self._ledger, [self._destination_id], self._keys)[self._destination_id]
        return find_statement(
            self._change,
            patient,
            held,
            self._platform.resolve_survivors(self._keys),
            prior_patient_key=self._job.prior_patient_key,
        )

    def _identity_job(self) -> KnownJob | None:
        """Another job that is to tell of the patient's identifier, and is not done."""
        known = planned_jobs.known_patient_jobs(self._ledger, [self._destination_id], [self._job.patient_key])
        return next(
            (
                job
                for job in known.get(self._destination_id, ())
                if job.adt_change in _OF_IDENTITY and not job.status.is_done and job.job_id != self._job.job_id
            ),
            None,
        )

    # -- the message ---------------------------------------------------------------------------------------------

    def _prepare(self, endpoint: AdtEndpoint, statement: Statement) -> AdtMessage | None:
        """The message that says it, stored: the last one of this job if it still does, or else a new one.

        None: in HL7 the old and the new identifier are the same, so there is nothing to say.
        """
        facility = self._facility(self._job.facility_id or self._last_facility(self._job.patient_key))
        prior_facility = self._prior_facility(statement, facility)
        last = adt_messages.unsaid(self._ledger, self._job.job_id)
        try:
            if last is not None:
                again = _build(
                    endpoint, statement, facility, prior_facility, self._change_id(last.built_at), last.built_at
                )
                if again == last.encoded:
                    return last
            built_at = self._attempt.now().astimezone(UTC)
            change_id = self._change_id(built_at)
            encoded = _build(endpoint, statement, facility, prior_facility, change_id, built_at)
        except InvalidInput as exc:
            if exc.code == "adt-same-identifier":
                return None
            raise
        validate(encoded)
        settings = endpoint.settings
        trigger = settings.update_trigger if statement.prior is None else settings.merge_trigger
        with self._ledger.transaction():
            if last is not None:
                adt_messages.discard(self._ledger, last.message_id)
            return adt_messages.insert(
                self._ledger,
                self._job.job_id,
                encoded,
                trigger_event=trigger.value,
                control_id=control_id(change_id),
                known_after=statement.known_after,
                prior_patient_key=self._job.prior_patient_key,
                prior=statement.prior,
                built_at=built_at,
            )

    def _change_id(self, built_at: datetime) -> str:
        """What names one message to one receiver: also where a ledger that was made anew counts its jobs from one."""
        return f"{self._destination_id}/{self._job.job_id}/{built_at.astimezone(UTC).isoformat()}"

    def _facility(self, facility_id: str | None) -> Facility:
        found = {f.facility_id: f for f in self._platform.fetch_facilities()}
        if facility_id not in found:
            raise InvalidInput(
                f"facility {facility_id} is no longer on the platform: the patient's identifier has no authority",
                code="adt-no-facility",
                next_step="Put the facility back on the platform, then retry.",
            )
        return found[facility_id]

    def _last_facility(self, patient_key: str) -> str | None:
        return adt_messages.facility_id(self._ledger, self._destination_id, patient_key)

    def _prior_facility(self, statement: Statement, facility: Facility) -> Facility:
        """Where the identifier that ends comes from: in a merge that may be another facility."""
        if statement.prior is None or self._job.prior_patient_key is None:
            return facility
        known = self._last_facility(self._job.prior_patient_key)
        return facility if known in (None, facility.facility_id) else self._facility(known)

    # -- the receiver --------------------------------------------------------------------------------------------

    def _client(self, endpoint: AdtEndpoint) -> MllpClient:
        return MllpClient(
            endpoint.host,
            endpoint.port,
            tls=endpoint.tls,
            connect_timeout_s=endpoint.connect_timeout_s,
            ack_timeout_s=endpoint.settings.ack_timeout_s,
            idle_close_s=endpoint.idle_close_s,
            ack_overrides=endpoint.settings.ack_overrides,
        )

    def _send(self, endpoint: AdtEndpoint, message: AdtMessage) -> str:
        """Send a message and give the acknowledgement code; what a failure tells of the outcome is recorded."""
        self._attempt.confirm_is_ours()
        encoded = message.encoded
        assert encoded is not None, "only acknowledged messages are purged"

        def talk() -> str:
            with self._client(endpoint) as client:
                client.connect()
                adt_messages.mark_sending(self._ledger, message.message_id)
                try:
                    ack = client.send(
                        encoded,
                        was_unanswered=message.unanswered > 0,
                        repeats_are_refused=not self._is_retired(message.known_after),
                        merge_is_pending=self._identity_job() is not None,
                    )
                except ArchsyncError as exc:
                    self._record_failure(message, exc)
                    raise
                return ack.code

        return self._attempt.reach(talk)

    def _is_retired(self, patient: HeldPatient) -> bool:
        """Tell whether the identifier gave way to another there before."""
        return bool(patients.gave_up(self._ledger, self._destination_id, *patient.identifier))

    def _record_failure(self, message: AdtMessage, error: ArchsyncError) -> None:
        if error.code == "adt-merge-first" or (
            isinstance(error, PeerRefused) and not error.code.startswith("tls-")  # before it read anything
        ):
            adt_messages.mark_refused(self._ledger, message.message_id)
        elif isinstance(error, PeerUnavailable | DestinationMisconfigured):
            adt_messages.mark_busy(self._ledger, message.message_id)

    def _settle(self, endpoint: AdtEndpoint, message: AdtMessage) -> None:
        """Find out about a message of a job whose intent this one took over, before anything newer is said."""
        try:
            code = self._send(endpoint, message)
        except DestinationMisconfigured:
            raise
        except PeerRefused:
            return  # it never was applied; what is to be said now counts
        with self._ledger.transaction():
            self._record_told(message, code)

    # -- the end -------------------------------------------------------------------------------------------------

    def _record_told(self, message: AdtMessage, ack_code: str) -> None:
        """What the archive knows now, in the caller's transaction."""
        known = message.known_after
        patients.tell(self._ledger, self._destination_id, known, prior_patient_key=message.prior_patient_key)
        if message.retires is not None:
            patients.retire(self._ledger, self._destination_id, message.retires)
        if message.prior_patient_id is not None:
            # Somebody else may have waited for this identifier, in vain so far.
            for job_id in jobs.failed_with(self._ledger, self._destination_id, WAIT_FOR_IDENTIFIERS):
                jobs.move(self._ledger, job_id, JobStatus.WAITING, wait_reason=WaitReason.QUEUE, reset_attempts=True)
        self._unite(known.patient_id, known.issuer_of_patient_id)
        adt_messages.acknowledge(self._ledger, message.message_id, ack_code=ack_code)

    def _unite(self, patient_id: str, issuer: str | None) -> None:
        """Others who gave way to the patient and have the same identifier there are one with them by that."""
        key = self._job.patient_key
        others = patients.holders(self._ledger, self._destination_id, patient_id, issuer) - {key}
        for other, survivor in (self._platform.resolve_survivors(others) if others else {}).items():
            if survivor == key:
                patients.merge(self._ledger, self._destination_id, other, into=key)

    def _conclude_told(self, message: AdtMessage, ack_code: str) -> Ended:
        with self._ledger.transaction():
            self._look_at_all()  # for what changed meanwhile, and what is to be told next
            self._record_told(message, ack_code)
            self._attempt.status_code = ack_code
            told = f"The receiver took ADT^{message.trigger_event} {message.control_id} ({ack_code})."
            return self._attempt.conclude(JobStatus.SUCCEEDED, message=told)

    def _conclude_same(self, endpoint: AdtEndpoint, statement: Statement) -> Ended:
        """Record that the receiver knows the patient by the new identifier, which to it is the old one."""
        patients.tell(
            self._ledger,
            self._destination_id,
            statement.known_after,
            prior_patient_key=self._job.prior_patient_key,
        )
        return self._nothing(endpoint, "To the receiver the old and the new identifier are the same.")

    def _nothing(self, endpoint: AdtEndpoint, why: str) -> Ended:
        if self._attempt.is_probe:

            def connect() -> None:
                with self._client(endpoint) as client:
                    client.connect()

            self._attempt.reach(connect)
        return self._attempt.conclude(JobStatus.CANCELLED, code="nothing-to-do", message=why)

    def _wait_for(self, job_id: int) -> Ended:
        """Wait for an earlier job; behind a later one, which may wait for this one, it is planned anew."""
        if job_id > self._job.job_id:
            with self._ledger.transaction():
                self._look_at_all()
                return self._attempt.conclude(
                    JobStatus.CANCELLED,
                    code="nothing-to-do",
                    message=f"The new identifier is another patient's there until job {job_id} is done."
                    " It is told by a job behind that.",
                )
        planned_jobs.depend(self._ledger, self._job.job_id, [job_id])
        return self._attempt.conclude(
            JobStatus.WAITING,
            code=WaitReason.LANE.value,
            message=f"The new identifier is another patient's there until job {job_id} is done.",
            wait=WaitReason.LANE,
        )


def not_configured(destination: str) -> ConfigurationError:
    """The error of a destination that takes no ADT messages."""
    return ConfigurationError(
        f"destination {destination} has no ADT receiver",
        code="adt-not-configured",
        next_step=f"`archsync destination set {destination} adt_host HOST` names one; then retry.",
    )


def _build(
    endpoint: AdtEndpoint,
    statement: Statement,
    facility: Facility,
    prior_facility: Facility,
    change_id: str,
    built_at: datetime,
) -> bytes:
    # The platform does not say when a patient changed: when it was noticed is as near as can be.
    moments = {"occurred_at": built_at.astimezone(UTC), "recorded_at": built_at.astimezone(UTC)}
    if statement.prior is None:
        return build_a08(
            statement.patient,
            facility,
            endpoint.settings,
            change_id=change_id,
            clear_birth_date=statement.clears_birth_date,
            **moments,
        )
    return build_a40(
        statement.patient,
        facility,
        statement.prior,
        endpoint.settings,
        change_id=change_id,
        prior_facility=prior_facility,
        **moments,
    )
