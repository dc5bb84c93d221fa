"""What an archive holds and should not: which rejection notes withdraw it, under which title, and when.

The order is IHE IOCM's safe one: replacements are stored and confirmed first, then the note names what they replace; so
a crash leaves duplicates and never a hole. Where the harm is in being seen, the note goes first (``note_order``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from archsync.core.comparison import Desired, Held, HeldInstance, Related
from archsync.core.destination import Destination, Verification
from archsync.core.destination_iocm import NoteOrder, WithoutIocm
from archsync.core.identity import Suppressed
from archsync.core.job import FAR_FUTURE, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.placing import Decision, is_wanted, root
from archsync.core.rejection import RejectionTitle
from archsync.core.study import Instance, Priority, RemovalReason


@dataclass(frozen=True, slots=True)
class Leftover:
    """A placement that an archive holds and should not, and what is to be done about it.

    ``successors`` take its place (empty: it was simply removed); ``missing`` are those the archive has still to get and
    confirm. ``title`` None: this destination sends no note for the reason.
    """

    held: HeldInstance
    reason: RemovalReason
    title: RejectionTitle | None
    successors: tuple[Related, ...]
    missing: tuple[Related, ...]
    note_first: bool

    @property
    def may_go(self) -> bool:
        """True when a note may name it now."""
        return self.title is not None and (self.note_first or not self.missing)


def find_leftovers(desired: Desired, held: Held, destination: Destination) -> tuple[Leftover, ...]:
    """What a destination holds under a study, or may hold, that no note withdraws and the platform no longer shows."""
    return tuple(_leftover(h, desired, held, destination) for h in _unwanted(desired, held) if h.rejected_by is None)


def find_under_way(desired: Desired, held: Held) -> list[HeldInstance]:
    """What notes name that were built and that the archive has not taken yet."""
    return [
        h
        for _, h in sorted(held.instances.items())
        if h.placed.study_key == desired.study.study_key and h.rejected_by is not None and not h.is_hidden
    ]


def find_withdrawn(desired: Desired, held: Held, destination: Destination) -> tuple[Leftover, ...]:
    """What rejection notes withdraw, or have withdrawn, from a destination under a study."""
    return tuple(
        _leftover(h, desired, held, destination) for h in _unwanted(desired, held) if h.rejected_by is not None
    )


def _unwanted(desired: Desired, held: Held) -> Iterator[HeldInstance]:
    """What an archive holds, or may hold, under a study and should not."""
    wanted = {p.placement_id for i in desired.instances if (p := desired.placement_of(i)) is not None}
    for _, h in sorted(held.instances.items()):
        if h.placed.study_key == desired.study.study_key and h.placed.placement_id not in wanted:
            yield h


def former_copies(instance: Instance, desired: Desired, held: Held) -> tuple[HeldInstance, ...]:
    """The other placements at an archive that an instance takes the place of: its own, and of the rows it replaces."""
    current = desired.placement_of(instance)
    return tuple(h for key in lineage(instance, desired) for h in held.copies_of(key) if h.placed != current)


def lineage(instance: Instance, desired: Desired) -> list[str]:
    """The keys of an instance, of the one that it replaces, of the one which that replaced, as far as known."""
    keys = [instance.instance_key]
    replaced = instance.replaces_instance_key
    while replaced is not None and replaced not in keys:
        keys.append(replaced)
        row = desired.find(replaced)
        replaced = None if row is None else row.instance.replaces_instance_key
    return keys


def waits_for_note(instance: Instance, desired: Desired, held: Held, destination: Destination) -> bool:
    """Tell whether an instance has to wait until its former copy is hidden."""
    return any(
        not h.is_hidden and not _is_wanted(h, desired) and _leftover(h, desired, held, destination).note_first
        for h in former_copies(instance, desired, held)
    )


def holds_back_note(unchecked: Iterable[HeldInstance], desired: Desired, held: Held) -> bool:
    """Tell whether a former copy of any of these is still shown: its note waits until they were seen at the archive."""
    rows = (desired.find(h.placed.instance_key) for h in unchecked)
    return any(
        not former.is_hidden and not _is_wanted(former, desired)
        for row in rows
        if row is not None
        for former in former_copies(row.instance, desired, held)
    )


def _is_wanted(h: HeldInstance, desired: Desired) -> bool:
    """Tell whether a placement is where its instance belongs, say because a replaced one is shown again."""
    row = desired.find(h.placed.instance_key)
    return (
        row is not None
        and is_wanted(row.instance, desired.latest.get(h.placed.instance_key))
        and desired.placement_of(row.instance, row.study) == h.placed
    )


def _leftover(h: HeldInstance, desired: Desired, held: Held, destination: Destination) -> Leftover:
    row = desired.find(h.placed.instance_key)
    successors = tuple(s for s in successors_of(h.placed.instance_key, desired) if destination.covers(s.study.facility))
    reason = _reason_of_targets(desired, held) if _goes_along(h, row) else _reason(row, successors)
    title = destination.iocm.titles[reason]
    return Leftover(
        held=h,
        reason=reason,
        title=title,
        successors=successors,
        missing=tuple(s for s in successors if not _is_confirmed(s, desired, held, destination)),
        note_first=(
            title is not None
            and destination.iocm.supports_iocm
            and _is_note_first(destination.iocm.note_order, reason, h, successors, desired)
        ),
    )


def _reason(row: Related | None, successors: tuple[Related, ...]) -> RemovalReason:
    """Why an instance left: as the platform says; where it does not, a correction if something took its place."""
    said = row.instance.removal_reason if row is not None and row.instance.removed_at is not None else None
    if said in (None, RemovalReason.UNSPECIFIED):
        # A row that shows elsewhere counts too where this destination does not get it (out of scope).
        is_correction = bool(successors) or (row is not None and row.instance.removed_at is None)
        return RemovalReason.WRONG_WORKLIST_ENTRY if is_correction else RemovalReason.UNSPECIFIED
    return said


def _goes_along(h: HeldInstance, row: Related | None) -> bool:
    """Tell whether the platform shows an instance, and it is withdrawn because all that it points at is."""
    return h.placed.decision is Decision.WITHDRAW and row is not None and row.instance.removed_at is None


#: Of several reasons in one study, the one that an object goes for which points at what was removed.
_GRAVEST = (
    RemovalReason.PATIENT_SAFETY,
    RemovalReason.UNSPECIFIED,
    RemovalReason.QUALITY,
    RemovalReason.RETENTION_EXPIRED,
)


def _reason_of_targets(desired: Desired, held: Held) -> RemovalReason:
    """Why instances of a study went that nothing took the place of: their titles are that of what goes along."""
    reasons = set()
    for h in _unwanted(desired, held):
        row = desired.find(h.placed.instance_key)
        if not _goes_along(h, row) and not any(successors_of(h.placed.instance_key, desired)):
            reasons.add(_reason(row, ()))
    return next((reason for reason in _GRAVEST if reason in reasons), RemovalReason.UNSPECIFIED)


def _is_note_first(
    order: NoteOrder, reason: RemovalReason, h: HeldInstance, successors: Iterable[Related], desired: Desired
) -> bool:
    filed_under = root(h.placed.patient_key, desired.survivors)
    is_wrong_patient = any(root(s.study.patient.patient_key, desired.survivors) != filed_under for s in successors)
    return order.puts_note_first(reason, is_wrong_patient=is_wrong_patient)


def successors_of(instance_key: str, desired: Desired) -> Iterator[Related]:
    """The instances that take the place of one: its own row, moved or changed, or the platform's new rows."""
    keys, seen = [instance_key], set[str]()
    while keys:
        key = keys.pop()
        if key in seen:
            continue
        seen.add(key)
        row = desired.find(key)
        if row is not None and is_wanted(row.instance, desired.latest.get(key)):
            yield row
        else:
            keys.extend(desired.replacements.get(key, ()))
        if key == instance_key:
            keys.extend(desired.replacements.get(key, ()))


def _is_confirmed(successor: Related, desired: Desired, held: Held, destination: Destination) -> bool:
    there = held.holds(desired.placement_of(successor.instance, successor.study))
    return there is not None and (there.is_verified or destination.verification is Verification.NONE)


# The plan


@dataclass(frozen=True, slots=True)
class NoteWork:
    """A kos job to make: ``waits_for`` are the studies whose replacements have to be stored first."""

    priority: Priority
    content_digest: str
    instances: int
    not_before: datetime
    wait_reason: WaitReason | None
    waits_for: frozenset[str] = frozenset()
    prior_patient_key: str | None = None


@dataclass(frozen=True, slots=True)
class WithdrawalPlan:
    """What to withdraw of one study at one destination.

    ``suppressed``: what is not withdrawn by a rule of this destination, with the digest that tells it from others.
    ``closes``: open jobs with nothing left to do; ``refresh``: a queued one whose gate changed.
    """

    why: str
    leftovers: tuple[Leftover, ...] = ()
    new_job: NoteWork | None = None
    refresh: tuple[int, NoteWork] | None = None
    suppressed: tuple[tuple[Suppressed, str, int], ...] = ()
    supersedes: tuple[int, ...] = ()
    closes: tuple[int, ...] = ()

    @property
    def changes_nothing(self) -> bool:
        """True when there is nothing to write to the ledger."""
        return not (self.new_job or self.refresh or self.suppressed or self.supersedes or self.closes)


def plan_withdrawal(desired: Desired, held: Held, destination: Destination, *, observed_at: datetime) -> WithdrawalPlan:
    """Name the kos job that withdraws what is left over, and the rules that keep notes back."""
    leftovers = find_leftovers(desired, held, destination)
    rules: dict[Suppressed, list[Leftover]] = {}
    to_send: list[Leftover] = []
    for leftover in leftovers:
        rule = rule_against(leftover, destination)
        if rule is None:
            to_send.append(leftover)
        else:
            rules.setdefault(rule, []).append(leftover)
    suppressed = [
        (rule, _hash([rule.code, *_ids(item.held for item in found)]), len(found)) for rule, found in rules.items()
    ]
    if unsent := _removed_unsent(desired, held):
        suppressed.append(unsent)
    known = {j.content_digest for j in held.jobs if j.job_type is JobType.IOCM}
    new_suppressed = tuple(s for s in suppressed if s[1] not in known)

    jobs = held.note_jobs
    under_way = find_under_way(desired, held)
    if not to_send and not under_way:
        at_rest = tuple(j.job_id for j in jobs if j.status in _AT_REST)
        return WithdrawalPlan("nothing is to be withdrawn", leftovers, suppressed=new_suppressed, closes=at_rest)
    work = _note_work(to_send, under_way, desired, destination, observed_at)
    queued = next((j for j in reversed(jobs) if not j.status.is_done and j.status is not JobStatus.FAILED), None)
    if queued is not None:
        return WithdrawalPlan(
            f"job {queued.job_id} ({queued.status.value}) covers it",
            leftovers,
            refresh=None if queued.status not in _QUEUED or _same_gate(queued, work) else (queued.job_id, work),
            suppressed=new_suppressed,
        )
    for job in jobs:
        if _covers(job, work.content_digest):
            why = f"job {job.job_id} ({job.status.value}) covers it"
            if job.status is JobStatus.CANCELLED:
                why = f"job {job.job_id} was cancelled; retry it to withdraw after all"
            return WithdrawalPlan(why, leftovers, suppressed=new_suppressed)
    return WithdrawalPlan(
        f"{work.instances} instances are to be withdrawn",
        leftovers,
        new_job=work,
        suppressed=new_suppressed,
        supersedes=tuple(j.job_id for j in jobs if j.status is JobStatus.FAILED),
    )


_QUEUED = frozenset({JobStatus.WAITING, JobStatus.READY})
_AT_REST = _QUEUED | {JobStatus.FAILED}


def rule_against(leftover: Leftover, destination: Destination) -> Suppressed | None:
    """The rule of the destination under which nothing is sent about a leftover, or None."""
    if leftover.title is None:
        if leftover.reason is RemovalReason.RETENTION_EXPIRED:
            return Suppressed(
                "iocm-retention-disabled",
                f"Destination {destination.name} is not told of images removed because their retention expired"
                " (rejection_titles has no title for retention_expired).",
            )
        return Suppressed(
            "iocm-title-disabled",
            f"Destination {destination.name} is not told of images removed for {leftover.reason.value}"
            " (its title is switched off in rejection_titles).",
        )
    if not destination.iocm.supports_iocm and destination.iocm.without_iocm is WithoutIocm.SUPPRESS:
        return Suppressed(
            "iocm-not-supported",
            f"Destination {destination.name} takes no rejection notes (supports_iocm): it goes on showing them.",
        )
    return None


def _removed_unsent(desired: Desired, held: Held) -> tuple[Suppressed, str, int] | None:
    """Images that were removed after the study was archived, and never went there."""
    if held.archived_at is None:
        return None
    offered = {h.placed.instance_key for h in held.instances.values()}
    removed = [
        i.instance_key
        for i in desired.study.instances
        if i.removed_at is not None and i.removed_at > held.archived_at and i.instance_key not in offered
    ]
    if not removed:
        return None
    rule = Suppressed(
        "iocm-never-archived", "They were removed before they were sent there: nothing is to be withdrawn."
    )
    return rule, _hash([rule.code, *sorted(removed)]), len(removed)


def _note_work(
    to_send: list[Leftover], under_way: list[HeldInstance], desired: Desired, destination: Destination, now: datetime
) -> NoteWork:
    """The job that withdraws what is left over, and delivers the notes that were built and have not arrived."""
    study = desired.study
    is_urgent = any(item.note_first for item in to_send)
    waits_for = frozenset(s.study.study_key for item in to_send for s in item.missing if not item.note_first)
    wrong = sorted(
        {root(item.held.placed.patient_key, desired.survivors) for item in to_send}
        - {root(study.patient.patient_key, desired.survivors)}
    )
    if study.on_hold:
        not_before, reason = FAR_FUTURE, WaitReason.HOLD
    elif is_urgent or study.priority is Priority.STAT or destination.settle_s == 0:
        not_before, reason = now, None
    else:
        # Somebody who removes images one by one, or takes a removal back, causes one note, or none.
        not_before, reason = now + timedelta(seconds=destination.settle_s), WaitReason.SETTLING
    return NoteWork(
        priority=study.priority,
        content_digest=note_digest(to_send, under_way),
        instances=len(to_send) + len(under_way),
        not_before=not_before,
        wait_reason=reason,
        # What goes first is not kept back by what goes later.
        waits_for=frozenset() if is_urgent else waits_for,
        prior_patient_key=wrong[0] if wrong else None,
    )


def _same_gate(job: KnownJob, work: NoteWork) -> bool:
    return (job.not_before == FAR_FUTURE) == (work.not_before == FAR_FUTURE)


def note_digest(to_send: Iterable[Leftover], under_way: Iterable[HeldInstance]) -> str:
    """Tells apart what a kos job is to withdraw and, behind the dash, what that still waits for."""
    to_send = tuple(to_send)
    missing = (f"{item.held.placed.placement_id}:{len(item.missing)}" for item in to_send if item.missing)
    things = _hash(["note", *_ids([*(item.held for item in to_send), *under_way])])
    return f"{things}-{_hash(sorted(missing))}"


def _covers(job: KnownJob, digest: str) -> bool:
    """Tell whether an earlier job was about the same; for one that was cancelled, whatever it waited for then."""
    known = job.content_digest or ""
    if job.status in (JobStatus.CANCELLED, JobStatus.SUPPRESSED):
        return known.partition("-")[0] == digest.partition("-")[0]
    return known == digest


def _ids(held: Iterable[HeldInstance]) -> list[str]:
    return sorted(str(h.placed.placement_id) for h in held)


def _hash(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=12).hexdigest()
