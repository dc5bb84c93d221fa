"""Finds what points at withdrawn instances, by the platform's files, and writes down what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from archsync.core.comparison import Desired, Related
from archsync.core.dependants import Target, Verdict, dependence_of, former_rows, judge, stand_in
from archsync.core.placing import Decision, Placed, is_wanted
from archsync.core.withdrawal import Leftover, find_withdrawn, former_copies, lineage
from archsync.errors import InvalidInput
from archsync.ledger import holdings, plan_queue
from archsync.ledger.database import Ledger
from archsync.net.dicom.referring import read_references
from archsync.platformdb.reader import Platform
from archsync.services.comparison import Compared, compare_one


@dataclass(frozen=True, slots=True)
class Dependants:
    """What was found: how many were decided on, and the SOP Instance UIDs, as sent, of those that stay as they are.

    ``dangling`` go on pointing at something hidden; of ``unread`` nobody knows, for their files can't be read.
    """

    decided: int = 0
    dangling: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def __add__(self, other: Dependants) -> Dependants:
        return Dependants(self.decided + other.decided, self.dangling + other.dangling, self.unread + other.unread)

    def __str__(self) -> str:
        """Sentences for an administrator, or nothing."""
        said = []
        if self.dangling:
            said.append(f"{_count(self.dangling)} still points at withdrawn instances: {_some(self.dangling)}.")
        if self.unread:
            said.append(f"{_count(self.unread)} that may point at them can't be read: {_some(self.unread)}.")
        return " ".join(said)


def decide_dependants(ledger: Ledger, compared: Compared, leaving: Iterable[Leftover]) -> Dependants:
    """Decide about what the archive holds of the study that points at ``leaving``: withdrawn, or about to be.

    Deciding again changes nothing more: an object that points at replacements already is left alone, and so is one that
    the platform itself replaced.
    """
    desired, held = compared.desired, compared.held
    gone: dict[str, list[Leftover]] = {}
    for leftover in leaving:
        for uid in {leftover.held.placed.source_sop_instance_uid, leftover.held.placed.uids.sop_instance_uid}:
            gone.setdefault(uid, []).append(leftover)
    here = {i.sop_instance_uid for i in desired.instances}
    # The archive may never have had what the platform replaced, and yet have got what points at it.
    led = {
        old.sop_instance_uid: now
        for old, now in former_rows(desired)
        if old.sop_instance_uid not in gone and compared.destination.covers(now.study.facility)
    }
    corrected = _corrected(desired)
    decisions: dict[Decision, list[int]] = {}
    dangling, unread = [], []
    for instance in desired.instances if gone or led else ():
        placed = desired.placement_of(instance)
        dependence = dependence_of(instance.sop_class_uid)
        if dependence is None or placed is None or held.holds(placed) is None:
            continue
        try:
            references = read_references(instance.location, sop_instance_uid=instance.sop_instance_uid)
        except InvalidInput:
            unread.append(placed.uids.sop_instance_uid)
            continue
        targets = [_target(gone[uid], placed, desired) for uid in references if uid in gone]
        targets += [_follow(led[uid], placed, desired) for uid in references if uid in led]
        if not targets:
            continue
        if references & here - gone.keys() or _are_known(ledger, references - here - gone.keys() - led.keys()):
            targets.append(Target.KEPT)
        verdict = judge(dependence, targets)
        if verdict.decision is not None and instance.instance_key in corrected:
            verdict = Verdict(is_left_dangling=True)  # as it is on the platform, which shows both
        if verdict.decision is not None:
            decisions.setdefault(verdict.decision, []).append(placed.placement_id)
        if verdict.is_left_dangling:
            dangling.append(placed.uids.sop_instance_uid)
    for decision, placement_ids in decisions.items():
        holdings.decide_dependants(ledger, placement_ids, decision)
    return Dependants(sum(map(len, decisions.values())), tuple(dangling), tuple(unread))


def revive_dependants(ledger: Ledger, desired: Desired) -> int:
    """Have objects come back that went because all they pointed at went, where some of that is shown again.

    They come as copies under new UIDs, which point at the new UIDs of what came back, or at what the platform made to
    stand for it; returns how many.
    """
    withdrawn = [
        (i, placed)
        for i in desired.study.present_instances
        if (placed := desired.latest.get(i.instance_key)) is not None and not is_wanted(i, placed)
    ]
    if not withdrawn:
        return 0
    corrected = _corrected(desired)
    here = {i.sop_instance_uid for i in desired.instances} | {old.sop_instance_uid for old, _ in former_rows(desired)}
    coming = []
    for instance, placed in withdrawn:
        try:
            references = read_references(instance.location, sop_instance_uid=instance.sop_instance_uid)
        except InvalidInput:
            continue  # it stays away, as it was decided; what can't be read can't be sent either
        if references & here and instance.instance_key not in corrected:
            coming.append(placed.placement_id)
    holdings.decide_dependants(ledger, coming, Decision.REPLACE)
    return len(coming)


def follow_replacements(ledger: Ledger, platform: Platform, compared: Compared) -> None:
    """Have objects follow what an archive just got in place of something that was withdrawn, wherever they lie.

    Most were decided on when the note was built; what was hidden first, or got its replacement late, could not be led
    anywhere then.
    """
    desired, held = compared.desired, compared.held
    study_keys = {desired.study.study_key}
    for instance in desired.instances:
        study_keys |= {copy.placed.study_key for copy in former_copies(instance, desired, held)}
        study_keys |= {row.study.study_key for key in lineage(instance, desired) if (row := desired.find(key))}
    for study_key in sorted(study_keys):
        _decide_again(ledger, platform, study_key, compared)


def decide_elsewhere(ledger: Ledger, platform: Platform, compared: Compared, leaving: Iterable[Leftover]) -> Dependants:
    """Decide about what points at ``leaving`` from the studies where it, or what it stands for, was before.

    Objects that were led to where it went have their place there.
    """
    desired, held = compared.desired, compared.held
    keys = set()
    for leftover in leaving:
        row = desired.find(leftover.held.placed.instance_key)
        keys |= {leftover.held.placed.instance_key} if row is None else {*lineage(row.instance, desired)}
    study_keys = {h.placed.study_key for key in keys for h in held.copies_of(key)} - {desired.study.study_key}
    found = Dependants()
    for study_key in sorted(study_keys):
        found += _decide_again(ledger, platform, study_key, compared)
    return found


def _decide_again(ledger: Ledger, platform: Platform, study_key: str, compared: Compared) -> Dependants:
    """Decide about the objects of a study that point at what was withdrawn from it, and have it planned."""
    there = compare_one(platform, ledger, study_key, compared.destination)
    if there is None:
        return Dependants()
    found = decide_dependants(ledger, there, find_withdrawn(there.desired, there.held, there.destination))
    if revive_dependants(ledger, there.desired) or found.decided:
        plan_queue.queue(ledger, [study_key])
    return found


def _corrected(desired: Desired) -> set[str]:
    """Instances that the platform replaced itself, by instances that it shows in the study."""
    return {i.replaces_instance_key for i in desired.study.present_instances if i.replaces_instance_key is not None}


def _target(leftovers: Sequence[Leftover], pointing: Placed, desired: Desired) -> Target:
    """What became of an instance, by the last of its placements that is withdrawn."""
    last = max(leftovers, key=lambda item: item.held.placed.placement_no)
    if not last.successors:
        return Target.WITHDRAWN
    now_at = stand_in(last.held.placed.instance_key, desired)
    if now_at is None or now_at not in last.successors:
        return Target.LOST
    now = desired.placement_of(now_at.instance, now_at.study)
    if now is None:
        # Not sent yet, since the note goes first. Only in this study it gets its UIDs together with the copy.
        return Target.REPLACED if now_at.study.study_key == desired.study.study_key else Target.LOST
    return Target.REPLACED if now.placed_at > pointing.placed_at else Target.KEPT


def _follow(now_at: Related, pointing: Placed, desired: Desired) -> Target:
    """What became of an instance for which another stands: to a copy made before that was placed it is new."""
    now = desired.placement_of(now_at.instance, now_at.study)
    return Target.REPLACED if now is not None and now.placed_at > pointing.placed_at else Target.KEPT


def _are_known(ledger: Ledger, sop_uids: Iterable[str]) -> bool:
    """Tell whether any was ever given to an archive; what was not, no copy there can point at."""
    wanted = list(sop_uids)
    if not wanted:
        return False
    return bool(holdings.bound(ledger, study_uids=[], series_uids=[], sop_uids=wanted).used_sop_uids)


def _count(uids: Sequence[str]) -> str:
    return "1 object" if len(uids) == 1 else f"{len(uids)} objects"


def _some(uids: Sequence[str]) -> str:
    return ", ".join(uids[:3]) + (", …" if len(uids) > 3 else "")
