"""Plans in sentences for administrators: the same on the command line and on the pages.

Studies are named by UID, and patients by their study: no sentence says who somebody is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from archsync.core.comparison import Desired, Held, Related
from archsync.core.destination import Destination
from archsync.core.identity import HeldPatient, Suppressed, differences
from archsync.core.identity import rule_against as rule_against_message
from archsync.core.job import AdtChange, JobStatus, KnownJob, WaitReason
from archsync.core.naming import DagKind
from archsync.core.placing import Decision, Placed, root
from archsync.core.planning import Plan, Work
from archsync.core.rejection import RejectionTitle
from archsync.core.study import Patient, RemovalReason
from archsync.core.withdrawal import Leftover, NoteWork, find_under_way, former_copies, rule_against

Gates = Mapping[DagKind, WaitReason | None]
"""Why a destination takes no jobs of a kind at the moment; None: it does."""


def count(number: int, what: str, plural: str | None = None) -> str:
    """``1 study``, ``2 studies``."""
    return f"{number} {what if number == 1 else plural or what + 's'}"


def size(size_bytes: int) -> str:
    """A size in the largest unit that fits."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def moment(value: datetime | None) -> str:
    """A moment to the second, in UTC."""
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# The whole


def say_plan(plan: Plan, desired: Desired, held: Held, destination: Destination, gates: Gates) -> list[str]:
    """All that is planned for a study at a destination: what it is told, what is stored there, what is withdrawn."""
    return [
        *say_messages(explain_messages(plan, desired, held, destination)),
        say_store(plan, desired, held, gates),
        *say_withdrawals(plan, desired, held, destination, gates),
    ]


def why_it_waits(work: Work | NoteWork | None, kind: DagKind, gates: Gates) -> WaitReason | None:
    """Why a planned job would not go to work at once, or None."""
    return None if work is None else work.wait_reason or gates[kind]


def _waits(work: Work | NoteWork | None, kind: DagKind, gates: Gates) -> str:
    reason = why_it_waits(work, kind, gates)
    if work is None or reason is None:
        return ""
    until = f" until {moment(work.not_before)}" if reason is WaitReason.SETTLING else ""
    return f", waits ({reason.value.replace('_', ' ')}){until}"


# What is stored


def say_store(plan: Plan, desired: Desired, held: Held, gates: Gates) -> str:
    """What becomes of the study's store job, with the rule that says so."""
    outcome = plan.store
    work: Work | None = None
    if outcome.new_job is not None:
        job_type, work = outcome.new_job
        said = f"send {job_type.value} job: {_say_work(work, desired, held)}"
    elif outcome.refresh is not None:
        job_id, work = outcome.refresh
        said = f"update job {job_id}: {_say_work(work, desired, held)}"
    else:
        said = f"close {_jobs(outcome.closes)}" if outcome.closes else "nothing to store"
    return f"{said}{_waits(work, DagKind.ARCHIVE, gates)} ({outcome.rule.value}: {outcome.why})"


def _say_work(work: Work, desired: Desired, held: Held) -> str:
    replacements = sum(any(former_copies(i, desired, held)) for i in work.instances)
    said = [count(len(work.instances), "image")]
    if replacements:
        said.append("a replacement" if len(work.instances) == 1 else f"{replacements} of them replacements")
    return ", ".join([*said, size(work.bytes_total), work.priority.name])


def _jobs(job_ids: Collection[int]) -> str:
    return f"job{'s' if len(job_ids) > 1 else ''} {', '.join(map(str, job_ids))}"


# What is withdrawn


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Instances that leave a destination for the same cause, by notes with the same title.

    ``study_instance_uid`` is the study that the archive has them in, ``moved_to`` those in which they are now.
    ``unacknowledged`` of them the archive may not have at all. ``to_store`` replacements it does not have yet, and
    ``to_check`` were not seen there yet. ``rule``: nothing is sent about them. ``by_hand``: it takes no notes, and
    somebody has to see to it.
    """

    destination: str
    study_instance_uid: str
    instances: int
    unacknowledged: int
    reason: RemovalReason
    title: RejectionTitle | None
    because: str
    moved_to: tuple[str, ...]
    note_first: bool
    to_store: int
    to_check: int
    rule: Suppressed | None
    by_hand: bool

    @property
    def sentence(self) -> str:
        """What is done and why, and what before or after it."""
        what = f"{count(self.instances, 'instance')} of study {self.study_instance_uid}"
        if self.unacknowledged:
            unsure = "" if self.unacknowledged == self.instances else f"{self.unacknowledged} of "
            what += f" ({unsure}which the archive may not have)"
        if self.rule is not None:
            return f"leave {what} at {self.destination}, though {self.because}: {self.rule.why} [{self.rule.code}]"
        if self.by_hand:
            said = f"have an operator withdraw {what} at {self.destination} by hand, because {self.because}"
        else:
            said = f"reject {what} as {self.title} at {self.destination}, because {self.because}"
        return f"{said}{self._replacements()}"

    def _replacements(self) -> str:
        said = [
            f"{verb} {count(number, 'replacement')}"
            for verb, number in (("store", self.to_store), ("check", self.to_check))
            if number
        ]
        if not said:
            return ""
        return f"; {'only then' if self.note_first else 'first'} {' and '.join(said)}"


def explain_withdrawals(plan: Plan, desired: Desired, held: Held, destination: Destination) -> tuple[Withdrawal, ...]:
    """What is to leave a destination and why, and what a rule keeps there."""
    groups: dict[tuple[object, ...], list[Leftover]] = {}
    for leftover in plan.withdrawal.leftovers:
        key = (
            leftover.held.placed.uids.study_instance_uid,
            leftover.title,
            leftover.note_first,
            rule_against(leftover, destination),
            _cause(leftover, desired),
        )
        groups.setdefault(key, []).append(leftover)
    return tuple(_withdrawal(group, desired, held, destination) for group in groups.values())


def _withdrawal(group: Sequence[Leftover], desired: Desired, held: Held, destination: Destination) -> Withdrawal:
    first = group[0]
    missing = {s.instance.instance_key: s for item in group for s in item.missing}.values()
    to_check = sum(held.holds(desired.placement_of(s.instance, s.study)) is not None for s in missing)
    return Withdrawal(
        destination=destination.name,
        study_instance_uid=first.held.placed.uids.study_instance_uid,
        instances=len(group),
        unacknowledged=sum(not item.held.is_stored for item in group),
        reason=first.reason,
        title=first.title,
        because=_cause(first, desired).format_map(_ONE if len(group) == 1 else _SEVERAL),
        moved_to=_study_uids(_moved(first)),
        note_first=first.note_first,
        to_store=len(missing) - to_check,
        to_check=to_check,
        rule=rule_against(first, destination),
        by_hand=not destination.iocm.supports_iocm,
    )


def say_withdrawals(plan: Plan, desired: Desired, held: Held, destination: Destination, gates: Gates) -> list[str]:
    """What is withdrawn and why, what a rule keeps, which notes are still to be delivered, which jobs are closed."""
    outcome = plan.withdrawal
    found = explain_withdrawals(plan, desired, held, destination)
    if outcome.new_job is not None:
        state = _waits(outcome.new_job, DagKind.IOCM, gates)
    elif outcome.refresh is not None:
        job_id, work = outcome.refresh
        state = f"{_waits(work, DagKind.IOCM, gates)} (job {job_id} is brought up to date)"
    else:
        state = f" ({outcome.why})"
    said = [w.sentence if w.rule else f"{w.sentence}{state}" for w in found]
    study_uid = desired.study.study_instance_uid
    if under_way := find_under_way(desired, held):
        named = count(len(under_way), "instance")
        said.append(f"deliver the rejection notes that name {named} of study {study_uid}{state}")
    said += [
        f"say nothing of {count(number, 'instance')} of study {study_uid}: {rule.why} [{rule.code}]"
        for rule, _, number in outcome.suppressed
        if all(w.rule != rule for w in found)
    ]
    if outcome.closes:
        said.append(f"close {_jobs(outcome.closes)}: {outcome.why}")
    return said


_SEVERAL = {"they": "they", "them": "them", "their": "their", "were": "were", "point": "point"}
_ONE = {"they": "it", "them": "it", "their": "its", "were": "was", "point": "points"}


def _cause(leftover: Leftover, desired: Desired) -> str:
    """Why an instance leaves, to be filled in for one or for several of them."""
    placed = leftover.held.placed
    if moved := _moved(leftover):
        is_same_row = any(s.instance.instance_key == placed.instance_key for s in moved)
        to = f"study {', '.join(_study_uids(moved))}{_of_another_patient(placed, moved, desired)}"
        return f"{{they}} moved to {to}" if is_same_row else f"the platform replaced {{them}} in {to}"
    if leftover.successors:
        successor = leftover.successors[0]
        if successor.instance.instance_key != placed.instance_key:
            return "the platform replaced {them}"
        return _difference(placed, successor, desired)
    return _loss(placed, desired)


def _moved(leftover: Leftover) -> list[Related]:
    """What takes the place of a leftover in other studies."""
    return [s for s in leftover.successors if s.study.study_key != leftover.held.placed.study_key]


def _study_uids(related: Iterable[Related]) -> tuple[str, ...]:
    return tuple(sorted({s.study.study_instance_uid for s in related}))


def _of_another_patient(placed: Placed, moved: Collection[Related], desired: Desired) -> str:
    own = root(placed.patient_key, desired.survivors)
    is_other = any(root(s.study.patient.patient_key, desired.survivors) != own for s in moved)
    return " of another patient" if is_other else ""


def _difference(placed: Placed, successor: Related, desired: Desired) -> str:
    """Why an instance that is still in its study needs a new copy; the gravest difference."""
    row = successor.instance
    patient_keys = (placed.patient_key, successor.study.patient.patient_key)
    if len({root(key, desired.survivors) for key in patient_keys}) > 1:
        return "the study is another patient's now"
    if row.content_version != placed.content_version:
        return "{their} content changed"
    if row.series_instance_uid != placed.source_series_instance_uid:
        return "{they} moved to another series"
    if placed.decision is Decision.REPLACE:
        return "{they} {point} at instances that were replaced"
    if placed.is_burnt:
        return "{they} {were} withdrawn at an archive, and shown again under other UIDs"
    return "{their} UIDs changed"


def _loss(placed: Placed, desired: Desired) -> str:
    """Why an instance leaves that nothing takes the place of, at this destination."""
    row = desired.find(placed.instance_key)
    if row is None:
        return "the platform no longer has {them}"
    if row.instance.removed_at is not None:
        said = row.instance.removal_reason
        why = f" ({said.value.replace('_', ' ')})" if said not in (None, RemovalReason.UNSPECIFIED) else ""
        return f"{{they}} {{were}} removed on the platform{why}"
    if row.study.study_key != placed.study_key:
        return f"{{they}} moved to study {row.study.study_instance_uid}, which does not go there"
    if placed.decision is Decision.WITHDRAW:
        return "all that {they} {point} at is withdrawn"
    return "{they} changed, and the study no longer goes there"


# What is said of patients


@dataclass(frozen=True, slots=True)
class Message:
    """A message about the patient of a study. ``rule``: it is not sent. ``job_id``: the job for it, so far."""

    destination: str
    study_instance_uid: str
    change: AdtChange
    trigger_event: str
    predicate: str
    rule: Suppressed | None
    job_id: int | None
    job_status: JobStatus | None


def explain_messages(plan: Plan, desired: Desired, held: Held, destination: Destination) -> tuple[Message, ...]:
    """What a destination does not know yet of a study's patient, in the order it is told."""
    patient = desired.study.patient
    new = {(work.change, work.prior_patient_key) for work in plan.adt}
    found = []
    for change, old in differences(patient, held.patients, desired.survivors):
        prior_key = old.patient_key if change is AdtChange.MERGE else None
        job = None if (change, prior_key) in new else _latest_job(held.patient_jobs, change, prior_key)
        found.append(
            Message(
                destination=destination.name,
                study_instance_uid=desired.study.study_instance_uid,
                change=change,
                trigger_event=_trigger_event(change, destination),
                predicate=_predicate(change, old, patient),
                rule=rule_against_message(destination),
                job_id=job.job_id if job else None,
                job_status=job.status if job else None,
            )
        )
    return tuple(found)


def say_messages(messages: Sequence[Message]) -> list[str]:
    """One sentence for all that a destination is told of a patient, and one for each message that a rule keeps back."""
    said = []
    told = [m for m in messages if m.rule is None]
    if told:
        first = told[0]
        what = ", then that the patient ".join(f"{m.predicate} ({m.trigger_event}{_job(m)})" for m in told)
        said.append(f"tell {first.destination} that the patient of study {first.study_instance_uid} {what}")
    said += [
        f"do not tell {m.destination} that the patient of study {m.study_instance_uid} {m.predicate}:"
        f" {m.rule.why} [{m.rule.code}]"
        for m in messages
        if m.rule is not None
    ]
    return said


def _latest_job(known: Iterable[KnownJob], change: AdtChange, prior_patient_key: str | None) -> KnownJob | None:
    same = [j for j in known if j.adt_change is change and j.prior_patient_key == prior_patient_key]
    return max(same, key=lambda j: j.job_id, default=None)


def _job(message: Message) -> str:
    return f", job {message.job_id} {message.job_status}" if message.job_id else ""


def _trigger_event(change: AdtChange, destination: Destination) -> str:
    is_update = change is AdtChange.DEMOGRAPHICS
    return destination.adt_update_trigger.value if is_update else destination.adt_merge_trigger.value


def _predicate(change: AdtChange, old: HeldPatient, patient: Patient) -> str:
    """What is so of the patient, without a value."""
    if change is AdtChange.IDENTIFIER:
        return "has another identifier"
    if change is AdtChange.MERGE:
        return "was merged with another record"
    names = ("name", "birth date", "sex")
    before, now = old.demographics, HeldPatient.of(patient).demographics
    changed = [name for name, a, b in zip(names, before, now, strict=True) if a != b]
    return f"has another {' and '.join([', '.join(changed[:-1]), changed[-1]] if changed[1:] else changed)}"
