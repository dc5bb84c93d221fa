"""Finds what points at withdrawn instances, by the platform's files, and writes down what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from archsync.core.comparison import Desired
from archsync.core.dependants import Target, dependence_of, judge
from archsync.core.placing import Decision, Placed, is_wanted
from archsync.core.withdrawal import Leftover
from archsync.errors import InvalidInput
from archsync.ledger import holdings
from archsync.ledger.database import Ledger
from archsync.net.dicom.referring import read_references
from archsync.services.comparison import Compared


@dataclass(frozen=True, slots=True)
class Dependants:
    """What was found: how many were decided on, and the SOP Instance UIDs, as sent, of those that stay as they are.

    ``dangling`` go on pointing at something hidden; of ``unread`` nobody knows, for their files can't be read.
    """

    decided: int = 0
    dangling: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

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

    Deciding again changes nothing more: an object that points at replacements already is left alone.
    """
    desired, held = compared.desired, compared.held
    gone: dict[str, list[Leftover]] = {}
    for leftover in leaving:
        for uid in {leftover.held.placed.source_sop_instance_uid, leftover.held.placed.uids.sop_instance_uid}:
            gone.setdefault(uid, []).append(leftover)
    here = {i.sop_instance_uid for i in desired.instances}
    decisions: dict[Decision, list[int]] = {}
    dangling, unread = [], []
    for instance in desired.instances if gone else ():
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
        if not targets:
            continue
        if references & here - gone.keys() or _are_known(ledger, references - here - gone.keys()):
            targets.append(Target.KEPT)
        verdict = judge(dependence, targets)
        if verdict.decision is not None:
            decisions.setdefault(verdict.decision, []).append(placed.placement_id)
        if verdict.is_left_dangling:
            dangling.append(placed.uids.sop_instance_uid)
    for decision, placement_ids in decisions.items():
        holdings.decide_dependants(ledger, placement_ids, decision)
    return Dependants(sum(map(len, decisions.values())), tuple(dangling), tuple(unread))


def revive_dependants(ledger: Ledger, desired: Desired) -> int:
    """Have objects come back that went because all they pointed at went, where some of that is shown again.

    They come as copies under new UIDs, which point at the new UIDs of what came back; returns how many.
    """
    withdrawn = [
        (i, placed)
        for i in desired.study.present_instances
        if (placed := desired.latest.get(i.instance_key)) is not None and not is_wanted(i, placed)
    ]
    if not withdrawn:
        return 0
    here = {i.sop_instance_uid for i in desired.instances}
    coming = []
    for instance, placed in withdrawn:
        try:
            references = read_references(instance.location, sop_instance_uid=instance.sop_instance_uid)
        except InvalidInput:
            continue  # it stays away, as it was decided; what can't be read can't be sent either
        if references & here:
            coming.append(placed.placement_id)
    holdings.decide_dependants(ledger, coming, Decision.REPLACE)
    return len(coming)


def _target(leftovers: Sequence[Leftover], pointing: Placed, desired: Desired) -> Target:
    """What became of an instance, by the last of its placements that is withdrawn."""
    last = max(leftovers, key=lambda item: item.held.placed.placement_no)
    if not last.successors:
        return Target.WITHDRAWN
    own = next((s for s in last.successors if s.instance.instance_key == last.held.placed.instance_key), None)
    if own is None:
        return Target.LOST
    now = desired.placement_of(own.instance, own.study)
    if now is None:
        # Not sent yet, since the note goes first. Only in its own study it gets its UIDs together with the copy.
        return Target.REPLACED if own.study.study_key == desired.study.study_key else Target.LOST
    return Target.REPLACED if now.placed_at > pointing.placed_at else Target.KEPT


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
