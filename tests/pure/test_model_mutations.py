"""The model test finds out what is broken on purpose: a rule, or a runner that does not keep to one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archsync.core import comparison, identifiers, identity, placing, planning, uid_map, withdrawal
from archsync.core.identity import HeldPatient
from archsync.core.job import JobType
from archsync.core.placing import Placed
from model.archive import Note
from model.ledger import Job, NoteRow, Site
from model.runner import Runner
from model.search import make_events, try_history


class NoLanes(Runner):
    """Jobs don't wait for earlier ones."""

    def holds_back(self, earlier: Job, job: Job) -> bool:
        return False

    def check_lane(self, job: Job) -> None:
        """Let its consequences tell."""


class NoAdtLane(Runner):
    """Images don't wait for messages about their patient, nor messages for each other."""

    def holds_back(self, earlier: Job, job: Job) -> bool:
        return JobType.ADT not in (earlier.job_type, job.job_type) and super().holds_back(earlier, job)

    def check_lane(self, job: Job) -> None:
        """Let its consequences tell."""


class RebuiltNotes(Runner):
    """A note whose answer was lost is built anew instead of being kept."""

    def send_note(self, site: Site, row: NoteRow) -> None:
        if row.note.uid in {n.uid for n in self.sent_notes}:
            row.note = row.note._replace(built_at=self.now)
        self.sent_notes.append(row.note)
        super().send_note(site, row)

    @property
    def sent_notes(self) -> list[Note]:
        return self.__dict__.setdefault("_sent_notes", [])


class OfferedIsStored(Runner):
    """What was offered counts as stored as soon as one answer is lost."""

    def answer_lost(self, site: Site, placement: Placed) -> None:
        for row in site.held.values():
            row.is_stored = True


class NothingOffered(Runner):
    """What was sent and not acknowledged is forgotten."""

    def answer_lost(self, site: Site, placement: Placed) -> None:
        del site.held[placement.placement_id]


class EventDriven(Runner):
    """What a job did not see is not looked at again when it ended."""

    def look_again(self, job: Job) -> None:
        """Trust that some event will come."""


def _burnt_uids_come_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison, "is_in_place", lambda placed, *args, **values: _in_place(placed, *args, **values))


def _in_place(placed: Placed, *args, **values) -> bool:
    return placing.is_in_place(replace(placed, is_burnt=False), *args, **values)


def _minted_uids_do_not_tell_placements_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placing, "Placement", lambda key, version, number: uid_map.Placement(key, 1, 1))


def _copies_keep_their_uids(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(comparison, "is_in_place", lambda placed, *args, **values: not placed.is_burnt)


def _notes_before_replacements(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(withdrawal.Leftover, "may_go", property(lambda item: item.title is not None))


def _moved_instances_stay_where_they_were(patch: pytest.MonkeyPatch) -> None:
    whole = withdrawal.find_leftovers

    def find_only_removed(*args):
        return tuple(item for item in whole(*args) if not item.successors)

    patch.setattr(withdrawal, "find_leftovers", find_only_removed)


def _images_overtake_their_identifier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identity, "known_as", lambda *args: None)
    patch.setattr(Runner, "follow", lambda self, site, key: HeldPatient.of(self.platform.patients[key]))


def _images_go_out_under_anybodys_identifier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identifiers, "job_before_images", lambda *args: None)


def _messages_take_anybodys_identifier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(identifiers, "job_before_message", lambda *args: None)


def _identifiers_that_gave_way_are_free(patch: pytest.MonkeyPatch) -> None:
    whole = Runner.look

    def look(self, site, **values):
        see = whole(self, site, **values)
        return lambda identifier: replace(see(identifier), gave_up={})

    patch.setattr(Runner, "look", look)


def _note_first_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "waits_for_note", lambda *args: False)


def _planning_repeats_itself(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planning, "is_current", lambda job, work: False)
    patch.setattr(withdrawal, "_covers", lambda job, digest: False)


def _series_lie_in_two_studies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placing, "series_uid_in", lambda uid, **values: uid)


BROKEN_RUNNERS = [NoLanes, NoAdtLane, RebuiltNotes, OfferedIsStored, NothingOffered, EventDriven]
BROKEN_RULES = [
    _burnt_uids_come_back,
    _minted_uids_do_not_tell_placements_apart,
    _copies_keep_their_uids,
    _notes_before_replacements,
    _moved_instances_stay_where_they_were,
    _images_overtake_their_identifier,
    _images_go_out_under_anybodys_identifier,
    _messages_take_anybodys_identifier,
    _identifiers_that_gave_way_are_free,
    _note_first_is_forgotten,
    _planning_repeats_itself,
    _series_lie_in_two_studies,
]
#: Histories within which a broken variant has to be found out.
ENOUGH = 1500


def is_caught(seed: int, runner: type[Runner]) -> bool:
    return try_history(seed, make_events(seed), runner)[0] is not None


@pytest.mark.parametrize("runner", BROKEN_RUNNERS)
def test_a_broken_runner_is_caught(runner):
    assert any(is_caught(seed, runner) for seed in range(ENOUGH)), runner.__doc__


@pytest.mark.parametrize("break_it", BROKEN_RULES)
def test_a_broken_rule_is_caught(break_it, monkeypatch):
    break_it(monkeypatch)
    assert any(is_caught(seed, Runner) for seed in range(ENOUGH))
