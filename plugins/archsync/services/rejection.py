"""One attempt of a kos job: withdraws from an archive what a study no longer has there, by rejection notes.

    begin ─► deliver notes that are open ─► compare ─► build, keep ─► deliver ─► check at the archive ─► record

What to withdraw is found when the job runs. A note is kept before it is first sent, tied to what it names; until the
archive took it, each attempt sends the same bytes again. So a crash between any two steps loses and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime

from archsync.core.comparison import HeldInstance
from archsync.core.destination import Verification
from archsync.core.destination_iocm import WithoutIocm
from archsync.core.job import JobStatus, JobType
from archsync.core.profiles import NoteAnswer
from archsync.core.rejection import RejectionTitle, rescope_note
from archsync.core.transfer import Endpoint
from archsync.core.withdrawal import (
    Leftover,
    find_leftovers,
    find_under_way,
    find_withdrawn,
    note_digest,
    rule_against,
)
from archsync.core.wording import count
from archsync.errors import ArchsyncError, PeerRefused, PeerUnavailable
from archsync.ledger import holdings, jobs, patients, plan_queue, planned_jobs, rejection_notes
from archsync.ledger.database import Ledger
from archsync.ledger.rejection_notes import Note
from archsync.messages.note_status import NOT_ACCEPTED, NoteVerdict, explain_note_status
from archsync.net.dicom.echo import echo
from archsync.platformdb.reader import Platform
from archsync.services.asking import VERIFY_PAUSES_S, list_for_check, list_instances
from archsync.services.attempt import LIMITED_TRIES, Attempt, Ended, Run, run_attempt
from archsync.services.comparison import Compared, compare_one
from archsync.services.dependants import Dependants, decide_dependants, decide_elsewhere
from archsync.services.note_building import NoteBuilder, rejected
from archsync.services.note_sending import send_note

#: How often one attempt builds notes: again after the archive did not know an instance, or more came to be withdrawn.
MAX_BUILDS = 5


def run_note_job(
    ledger: Ledger, platform: Platform, job_id: int, run: Run, *, clock: Callable[[], datetime] | None = None
) -> Ended:
    """Run one attempt of a kos job and record how it ended, as ``run_attempt`` says."""

    def work(attempt: Attempt) -> Ended:
        return _NoteJob(attempt, platform).work()

    return run_attempt(ledger, job_id, run, job_types={JobType.KOS}, work=work, clock=clock)


class _Concluded(Exception):
    """The archive's answer ends the job, and not as an error does."""

    def __init__(self, ended: Ended) -> None:
        super().__init__()
        self.ended = ended


class _NoteJob:
    """The work of one attempt."""

    def __init__(self, attempt: Attempt, platform: Platform) -> None:
        self._attempt = attempt
        self._ledger = attempt.ledger
        self._platform = platform
        self._job = attempt.job
        self._destination = attempt.destination
        self._endpoint = Endpoint.of(attempt.destination)
        self._builder = NoteBuilder(attempt.ledger, platform, attempt.job, attempt.destination)
        self._taken: list[Note] = []
        self._was_unknown = False
        self._remarks: list[str] = []

    def work(self) -> Ended:
        """Deliver, compare, build and deliver again, check, conclude."""
        if self._attempt.is_probe:
            self._attempt.reach(lambda: echo(self._endpoint), tells_health=False)
        compared = self._compare()
        if compared is None:
            return self._nothing_left()
        if compared.desired.study.on_hold:
            return self._attempt.conclude_on_hold()
        try:
            waiting = self._withdraw(compared)
        except _Concluded as exc:
            return exc.ended
        self._check()
        return self._conclude(waiting)

    def _compare(self) -> Compared | None:
        return compare_one(self._platform, self._ledger, self._study_key, self._destination)

    @property
    def _study_key(self) -> str:
        assert self._job.study_key is not None, "kos jobs are about a study"
        return self._job.study_key

    def _withdraw(self, compared: Compared) -> list[Leftover]:
        """Deliver open notes, build what else is to go and deliver that; gives what has to wait for replacements."""
        for builds in range(MAX_BUILDS):
            self._set_scope(compared)
            compared = self._deliver_open(compared, are_old=builds == 0)
            to_send, waiting = self._leftovers(compared)
            if not to_send:
                return waiting
            if not self._destination.iocm.supports_iocm:
                raise self._by_hand(len(to_send))
            self._attempt.confirm_is_ours()
            self._builder.build(compared, to_send, issued_at=self._attempt.now())
            compared = self._compare() or compared
        raise PeerUnavailable(
            "notes were built and refused several times in a row", reached_peer=True, code="note-names-unknown-instance"
        )

    # -- what to withdraw ----------------------------------------------------------------------------------------

    def _leftovers(self, compared: Compared) -> tuple[list[Leftover], list[Leftover]]:
        """What may go now, and what has to wait for its replacements."""
        found = self._find(compared)
        if any(not item.held.is_stored for item in found) and self._destination.iocm.supports_iocm:
            self._settle_unanswered([item for item in found if not item.held.is_stored])
            again = self._compare()
            if again is None:
                return [], []  # the platform has nothing of the study any more, and the archive never had
            compared = again
            found = self._find(compared)
        leaving = [item for item in found if item.may_go]
        if leaving and self._destination.iocm.supports_iocm:
            withdrawn = find_withdrawn(compared.desired, compared.held, self._destination)
            dependants = decide_dependants(self._ledger, compared, [*leaving, *withdrawn])
            self._remark(dependants + decide_elsewhere(self._ledger, self._platform, compared, leaving))
            if dependants.decided:
                compared = self._compare() or compared
                found = self._find(compared)
        self._set_scope(compared)
        return [item for item in found if item.may_go], [item for item in found if not item.may_go]

    def _find(self, compared: Compared) -> list[Leftover]:
        found = find_leftovers(compared.desired, compared.held, self._destination)
        return [item for item in found if rule_against(item, self._destination) is None]

    def _settle_unanswered(self, found: Sequence[Leftover]) -> None:
        """Ask the archive about instances that were sent and not acknowledged: it has them, or they are forgotten."""
        unanswered = [item.held for item in found]
        try:
            listed = self._attempt.reach(lambda: list_instances(self._endpoint, [h.placed.uids for h in unanswered]))
        except PeerRefused:
            return  # they are named as if it had them; if not, it says so (A772)
        has = [h.placed.placement_id for h in unanswered if h.placed.uids.sop_instance_uid in listed]
        lacking = [item for item in found if item.held.placed.uids.sop_instance_uid not in listed]
        with self._ledger.transaction():
            # What takes their place may have waited for a note, and none comes.
            plan_queue.queue(self._ledger, sorted({s.study.study_key for item in lacking for s in item.successors}))
            holdings.mark_verified(self._ledger, self._job.destination_id, has)
            if has:
                uids = {h.placed.uids.study_instance_uid for h in unanswered}
                patients.introduce(self._ledger, self._job.destination_id, uids)
            holdings.forget(self._ledger, self._job.destination_id, [item.held.placed.placement_id for item in lacking])
        self._was_unknown |= bool(lacking)

    def _set_scope(self, compared: Compared) -> None:
        """Say what the job is about now: what planning would make a job for."""
        found = self._find(compared)
        under_way = find_under_way(compared.desired, compared.held)
        done = self._job.instances_done + self._attempt.instances
        jobs.set_scope(
            self._ledger,
            self._job.job_id,
            self._attempt.attempt_id,
            content_digest=note_digest(found, under_way),
            totals=(done + len(under_way) + sum(item.may_go for item in found), 0),
            done=(done, 0),
        )

    def _remark(self, dependants: Dependants) -> None:
        if (said := str(dependants)) and said not in self._remarks:
            self._remarks.append(said)

    # -- notes ---------------------------------------------------------------------------------------------------

    def _deliver_open(self, compared: Compared, *, are_old: bool) -> Compared:
        """Deliver the notes about the study that the archive has not taken; gives the comparison afterwards.

        ``are_old``: they were built by an earlier attempt.
        """
        notes = rejection_notes.open_notes(self._ledger, self._job.destination_id, self._study_key)
        for note in notes:
            self._attempt.wait_for_room()
            self._deliver(note, compared, is_old=are_old)
        return (self._compare() or compared) if notes else compared

    def _deliver(self, note: Note, compared: Compared, *, is_old: bool) -> None:
        """Send a note, or send it again, and act on the answer."""
        named = _named(compared, [note])
        encoded = rejection_notes.encoded(self._ledger, note.note_id)
        rejection_notes.mark_sent(self._ledger, note.note_id)
        outcome = self._attempt.reach(lambda: send_note(self._endpoint, note, encoded, self._attempt.pace))
        self._attempt.status_code = None if outcome.status is None else f"{outcome.status:04X}"
        verdict = explain_note_status(outcome.status, self._destination.profile)
        if outcome.status is None:
            # It never left: the archive takes no such document, or our file of it can't be read.
            if outcome.code != "sop-class-not-accepted":
                raise PeerRefused(outcome.message, code=outcome.code)
            verdict = NOT_ACCEPTED
        match verdict.answer:
            case NoteAnswer.STORED:
                self._record_taken(note, compared, outcome.status, hides=len(named))
            case NoteAnswer.NAMES_UNKNOWN:
                self._drop_unknown(note, named, verdict, outcome.status)
            case NoteAnswer.ALREADY_REJECTED_OTHER_TITLE:
                self._settle_other_title(note, named, compared, verdict, outcome.status)
            case NoteAnswer.PATIENT_MISMATCH:
                self._give_up(note, named, outcome.status)
                self._follow_adt(compared, verdict, may_be_late=is_old)
            case NoteAnswer.INSTANCE_REJECTED:
                # A retry needs a note with another UID.
                self._give_up(note, named, outcome.status)
                raise _refused(verdict)
            case NoteAnswer.NOT_ACCEPTED:
                self._without_notes(note, named, verdict, outcome.status)
            case NoteAnswer.BUSY | NoteAnswer.BEING_DELETED:
                raise _passing(verdict)
            case NoteAnswer.LIMITED if self._job.attempts + 1 < LIMITED_TRIES:
                raise _passing(verdict)
            case _:
                raise _refused(verdict)

    # -- answers -------------------------------------------------------------------------------------------------

    def _record_taken(self, note: Note, compared: Compared, status: int | None, *, hides: int) -> None:
        """The archive took a note: what waited for that, in this study and others, is looked at again."""
        others = {r.study.study_key for r in compared.desired.related.values()}
        with self._ledger.transaction():
            # Before the job's row is locked: the planner takes its locks in this order too.
            plan_queue.queue(self._ledger, sorted({self._study_key, *others}))
            rejection_notes.mark_stored(self._ledger, note.note_id, store_status=status or 0)
            self._attempt.add_progress(instances=hides)
        self._taken.append(note)

    def _give_up(
        self, note: Note, named: Iterable[HeldInstance], status: int | None, *, lacks: Collection[int] = ()
    ) -> None:
        """Send a note no more; what it names is free for another, but for what the archive does not have."""
        with self._ledger.transaction():
            rejection_notes.abandon(self._ledger, note.note_id, store_status=status)
            placement_ids = [h.placed.placement_id for h in named]
            holdings.release(self._ledger, self._job.destination_id, note.note_id, placement_ids)
            holdings.forget(self._ledger, self._job.destination_id, lacks)
        if compared := self._compare():
            self._set_scope(compared)

    def _drop_unknown(
        self, note: Note, named: Sequence[HeldInstance], verdict: NoteVerdict, status: int | None
    ) -> None:
        """The archive lacks something that a note names: leave that out, in another note."""
        try:
            listed = self._attempt.reach(lambda: list_instances(self._endpoint, [h.placed.uids for h in named]))
        except PeerRefused as exc:
            # It can't be asked. What it never acknowledged is the likely cause.
            listed = {h.placed.uids.sop_instance_uid for h in named if h.is_stored}
            if len(listed) == len(named):
                raise _refused(verdict) from exc
        scope = rescope_note([rejected(h.placed) for h in named], listed=listed)
        if not scope.not_held:
            raise _refused(verdict)
        lacks = [h.placed.placement_id for h in named if h.placed.uids.sop_instance_uid in set(scope.not_held)]
        self._give_up(note, named, status, lacks=lacks)
        self._was_unknown = True

    def _settle_other_title(
        self, note: Note, named: Sequence[HeldInstance], compared: Compared, verdict: NoteVerdict, status: int | None
    ) -> None:
        """Something is rejected at the archive under another title already: what is hidden needs no note."""
        try:
            listed = self._attempt.reach(lambda: list_instances(self._endpoint, [h.placed.uids for h in named]))
        except PeerRefused as exc:
            raise _refused(verdict) from exc
        shown = [h for h in named if h.placed.uids.sop_instance_uid in listed]
        if len(shown) == len(named):
            raise _refused(verdict)
        if shown:
            # Another note for them: this one stands for what is hidden.
            holdings.release(
                self._ledger, self._job.destination_id, note.note_id, [h.placed.placement_id for h in shown]
            )
        self._record_taken(note, compared, status, hides=len(named) - len(shown))

    def _follow_adt(self, compared: Compared, verdict: NoteVerdict, *, may_be_late: bool) -> None:
        """The archive knows the patient otherwise: if a message about them is on its way, a later job follows it.

        ``may_be_late``: the archive may have taken such a message since the note was built, which is built anew then.
        """
        pending = [j.job_id for j in compared.held.patient_jobs if not j.status.is_done]
        if not pending and may_be_late:
            return
        if not pending:
            raise _refused(verdict)
        # Not this job: the message may be behind it in the lane, and each would wait for the other.
        raise _Concluded(
            self._attempt.conclude(
                JobStatus.CANCELLED,
                code="nothing-to-do",
                message=f"{verdict.message} ADT job {pending[0]} is to tell it; another job withdraws them after that.",
            )
        )

    def _without_notes(
        self, note: Note, named: Sequence[HeldInstance], verdict: NoteVerdict, status: int | None
    ) -> None:
        """The archive takes no Key Object Selections."""
        if self._destination.iocm.without_iocm is WithoutIocm.OPERATOR:
            raise _refused(verdict)
        self._give_up(note, named, status)
        raise _Concluded(
            self._attempt.conclude(
                JobStatus.SUPPRESSED, code="iocm-not-supported", message=f"{verdict.message} It goes on showing them."
            )
        )

    def _by_hand(self, instances: int) -> ArchsyncError:
        return PeerRefused(
            f"Destination {self._destination.name} takes no rejection notes (supports_iocm): withdraw"
            f" {count(instances, 'instance')} of study {self._job.study_instance_uid} there by hand, then"
            f" `archsync jobs cancel {self._job.job_id}`",
            code="withdraw-by-hand",
        )

    # -- the check -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Ask the archive whether it still lists what the notes name that it took from this job."""
        if self._destination.verification is not Verification.C_FIND or (compared := self._compare()) is None:
            return
        note_ids = {h.rejected_by for h in compared.held.instances.values() if h.rejected_by is not None}
        earlier = rejection_notes.stored_by(self._ledger, self._job.job_id, note_ids)
        notes = {note.note_id: note for note in [*earlier, *self._taken]}
        if notes:
            self._attempt.reach(lambda: self._check_notes(compared, list(notes.values())))

    def _check_notes(self, compared: Compared, notes: Sequence[Note]) -> None:
        may_show = {n.note_id for n in notes if n.title is RejectionTitle.QUALITY}
        shown = _named(compared, notes)
        for pause_s in (0.0, *VERIFY_PAUSES_S):
            self._attempt.pause(pause_s)
            listed = list_for_check(self._endpoint, [h.placed.uids for h in shown])
            shown = [h for h in shown if h.placed.uids.sop_instance_uid in listed]
            if all(h.rejected_by in may_show for h in shown):
                break
        wrong = [h for h in shown if h.rejected_by not in may_show]
        if not wrong:
            if shown:
                self._remarks.append(f"The archive goes on showing {len(shown)} of them, as it may under title 113001.")
            return
        broken = {h.rejected_by for h in wrong}
        undone = sum(h.rejected_by in broken for h in _named(compared, notes))
        with self._ledger.transaction():
            for note in notes:
                if note.note_id in broken:
                    rejection_notes.reopen(self._ledger, note.note_id)
            self._attempt.add_progress(instances=-undone)
        self._set_scope(self._compare() or compared)
        self._attempt.add_progress(instances=0, failed=undone)
        raise PeerRefused(
            f"the archive took the rejection note and still lists {len(wrong)} of the instances that it names;"
            f" the first is {wrong[0].placed.uids.sop_instance_uid}",
            code="note-not-honoured",
        )

    # -- the end -------------------------------------------------------------------------------------------------

    def _conclude(self, waiting: Sequence[Leftover]) -> Ended:
        done = self._job.instances_done + self._attempt.instances
        if waiting and not done:
            return self._wait_for_replacements(waiting)
        if not done and not self._was_unknown:
            return self._nothing_left()
        code = ""
        said = [f"{count(done, 'instance')} withdrawn."]
        if not done:
            code, said = "nothing-to-reject", ["The archive does not have what was to be withdrawn."]
        if waiting:
            said.append(
                "1 more waits for its replacement."
                if len(waiting) == 1
                else f"{len(waiting)} more wait for their replacements."
            )
        # While it ran, planning took for granted that this job sees to everything. What takes the place of the
        # withdrawn may have moved since it looked.
        compared = self._compare()
        others = set() if compared is None else {r.study.study_key for r in compared.desired.related.values()}
        plan_queue.queue(self._ledger, sorted({self._study_key, *others}))
        return self._attempt.conclude(JobStatus.SUCCEEDED, code=code, message=" ".join([*said, *self._remarks]))

    def _wait_for_replacements(self, waiting: Sequence[Leftover]) -> Ended:
        """Nothing may go: another job comes after the one that brings the replacements, if there is one."""
        studies = {s.study.study_key: s.study.study_instance_uid for item in waiting for s in item.missing}
        stores = planned_jobs.undone_store_jobs(self._ledger, self._job.destination_id, studies.keys())
        if not stores:
            uids = ", ".join(sorted(studies.values())[:3])
            raise PeerRefused(
                f"{count(len(waiting), 'instance')} can't be withdrawn: the archive lacks what replaces them, and"
                f" no job brings it; it belongs to study {uids}",
                code="replacement-missing",
            )
        first = min(job_id for found in stores.values() for job_id in found)
        return self._attempt.conclude(
            JobStatus.CANCELLED,
            code="nothing-to-do",
            message=f"Nothing may be withdrawn before its replacements are there; another job follows job {first}.",
        )

    def _nothing_left(self) -> Ended:
        return self._attempt.conclude(
            JobStatus.CANCELLED, code="nothing-to-do", message="Nothing is left to be withdrawn there."
        )


def _named(compared: Compared, notes: Iterable[Note]) -> list[HeldInstance]:
    """What notes name."""
    note_ids = {note.note_id for note in notes}
    return [h for h in compared.held.instances.values() if h.rejected_by in note_ids]


def _refused(verdict: NoteVerdict) -> PeerRefused:
    return PeerRefused(verdict.message, code=verdict.code, next_step=verdict.next_step)


def _passing(verdict: NoteVerdict) -> PeerUnavailable:
    return PeerUnavailable(verdict.message, reached_peer=True, code=verdict.code, next_step=verdict.next_step)
