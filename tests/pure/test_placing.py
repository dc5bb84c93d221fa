"""Placements: when an instance keeps its UIDs, when it needs new ones, and that none ever names two things."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.placing import (
    Bound,
    Decision,
    NewPlacement,
    Placed,
    first_filed,
    is_in_place,
    is_wanted,
    place,
    settled_study_uid,
)
from archsync.core.study import Facility, Instance, Patient, Study
from archsync.core.uid_map import InstanceUids

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
CITY = Facility("CITY", "City Hospital", "metro")
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
NOTHING = Bound({}, {}, ())


def make_patient(key: str) -> Patient:
    return Patient(key, f"MRN-{key}", None, "Doe^Jane")


def make_instance(number: int, **values) -> Instance:
    facts = {
        "instance_key": f"i{number}",
        "study_key": "s1",
        "series_instance_uid": "1.2.3",
        "series_number": 1,
        "modality": "CT",
        "sop_instance_uid": f"1.2.3.{number}",
        "sop_class_uid": CT,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "instance_number": number,
        "location": f"file:///images/{number}.dcm",
        "size_bytes": 1000,
    }
    return Instance(**{**facts, **values})


def make_study(*instances: Instance, key: str = "s1", uid: str = "1.2", patient: str = "p1") -> Study:
    return Study(key, uid, make_patient(patient), CITY, "Completed", instances=instances)


class Notebook:
    """Remembers placements as the ledger does, for every study of a platform."""

    def __init__(self) -> None:
        self.placed: list[Placed] = []

    def latest(self, burnt: frozenset[str] = frozenset()) -> dict[str, Placed]:
        return {p.instance_key: replace(p, is_burnt=p.uids.sop_instance_uid in burnt) for p in self.placed}

    def bound(self) -> Bound:
        firsts = list(reversed(self.placed))
        return Bound(
            patient_of_study={p.uids.study_instance_uid: p.patient_key for p in firsts},
            study_of_series={p.uids.series_instance_uid: p.uids.study_instance_uid for p in firsts},
            used_sop_uids=frozenset(p.uids.sop_instance_uid for p in firsts),
        )

    def study_uid(self, study: Study, survivors) -> str | None:
        return settled_study_uid(
            study, first_filed(p for p in self.placed if p.study_key == study.study_key), survivors
        )

    def offer(self, study: Study, burnt: frozenset[str] = frozenset(), survivors=None) -> dict[str, Placed]:
        """Place what of a study needs it; gives the placement of each of its instances."""
        survivors = survivors or {}
        latest = self.latest(burnt)
        uid = self.study_uid(study, survivors)
        unplaced = [
            i
            for i in study.present_instances
            if (last := latest.get(i.instance_key)) is None or not is_in_place(last, i, study, survivors, study_uid=uid)
        ]
        for new in place(study, unplaced, latest, self.bound(), survivors, study_uid=uid):
            self.placed.append(as_placed(new, study, len(self.placed) + 1))
        latest = self.latest(burnt)
        return {i.instance_key: latest[i.instance_key] for i in study.present_instances}


def as_placed(new: NewPlacement, study: Study, placement_id: int) -> Placed:
    return Placed(
        placement_id=placement_id,
        placement_no=new.placement_no,
        instance_key=new.instance.instance_key,
        content_version=new.instance.content_version,
        study_key=study.study_key,
        patient_key=study.patient.patient_key,
        uids=new.uids,
        source_series_instance_uid=new.instance.series_instance_uid,
        source_sop_instance_uid=new.instance.sop_instance_uid,
        sop_class_uid=new.instance.sop_class_uid,
        placed_at=NOON,
    )


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def test_an_instance_goes_out_first_with_the_uids_the_platform_gives(notebook):
    placed = notebook.offer(make_study(make_instance(1)))["i1"]

    assert placed.uids == InstanceUids("1.2", "1.2.3", "1.2.3.1")
    assert not placed.is_minted


def test_an_instance_that_stays_is_placed_once(notebook):
    study = make_study(make_instance(1))

    assert notebook.offer(study) == notebook.offer(study)
    assert len(notebook.placed) == 1


CHANGES = {
    "content": make_study(make_instance(1, content_version=2)),
    "series": make_study(make_instance(1, series_instance_uid="1.2.4")),
    "class": make_study(make_instance(1, sop_class_uid=MR)),
    "study": make_study(make_instance(1, study_key="s2"), key="s2", uid="1.9"),
    "patient": make_study(make_instance(1), patient="p2"),
    "study UID": make_study(make_instance(1), uid="1.7"),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
def test_an_instance_that_changed_needs_a_new_sop_instance_uid(notebook, changed):
    before = notebook.offer(make_study(make_instance(1)))["i1"]

    after = notebook.offer(changed)["i1"]

    assert after.is_minted
    assert after.uids.sop_instance_uid != before.uids.sop_instance_uid
    assert after.placement_no == 2


def test_an_instance_that_the_platform_gave_another_uid_goes_out_with_that(notebook):
    notebook.offer(make_study(make_instance(1)))

    assert notebook.offer(make_study(make_instance(1, sop_instance_uid="1.2.3.99")))["i1"].uids == InstanceUids(
        "1.2", "1.2.3", "1.2.3.99"
    )


def test_an_instance_that_comes_back_to_a_former_place_gets_a_third_uid(notebook):
    here, there = make_study(make_instance(1)), CHANGES["study"]

    uids = [notebook.offer(study)["i1"].uids.sop_instance_uid for study in (here, there, here)]

    assert len(set(uids)) == 3


def test_a_rejected_instance_that_is_shown_again_gets_a_new_uid_in_the_same_series(notebook):
    study = make_study(make_instance(1))
    notebook.offer(study)

    again = notebook.offer(study, burnt=frozenset({"1.2.3.1"}))["i1"]

    assert again.uids.sop_instance_uid != "1.2.3.1"
    assert (again.uids.study_instance_uid, again.uids.series_instance_uid) == ("1.2", "1.2.3")


def test_a_series_keeps_its_uid_only_in_the_study_it_was_first_sent_in(notebook):
    one, two = make_instance(1), make_instance(2)
    notebook.offer(make_study(one, two))

    split = notebook.offer(make_study(replace(two, study_key="s2"), key="s2", uid="1.9"))["i2"]
    rest = notebook.offer(make_study(one))["i1"]

    assert rest.uids.series_instance_uid == "1.2.3"
    assert split.uids.series_instance_uid != "1.2.3"


def test_instances_that_move_together_stay_in_one_series(notebook):
    one, two = make_instance(1), make_instance(2)
    notebook.offer(make_study(one, two))

    moved = notebook.offer(make_study(replace(one, study_key="s2"), replace(two, study_key="s2"), key="s2", uid="1.9"))

    assert len({p.uids.series_instance_uid for p in moved.values()}) == 1
    assert {p.uids.study_instance_uid for p in moved.values()} == {"1.9"}


def test_an_instance_that_moved_before_any_archive_had_it_keeps_its_uid(notebook):
    moved = notebook.offer(make_study(make_instance(1, study_key="s2"), key="s2", uid="1.9"))["i1"]

    assert moved.uids == InstanceUids("1.9", "1.2.3", "1.2.3.1")


def test_a_study_that_was_filed_to_the_wrong_patient_gets_a_new_study_uid(notebook):
    notebook.offer(make_study(make_instance(1)))

    moved = notebook.offer(make_study(make_instance(1), patient="p2"))["i1"]

    assert moved.uids.study_instance_uid != "1.2"
    assert moved.uids.series_instance_uid != "1.2.3"


def test_late_images_of_a_study_that_changed_patient_join_its_new_study_uid(notebook):
    notebook.offer(make_study(make_instance(1)))
    moved = notebook.offer(make_study(make_instance(1), patient="p2"))["i1"]

    late = notebook.offer(make_study(make_instance(1), make_instance(2), patient="p2"))["i2"]

    assert late.uids.study_instance_uid == moved.uids.study_instance_uid
    assert late.uids.series_instance_uid == moved.uids.series_instance_uid


def test_a_study_that_comes_back_to_its_first_patient_has_its_own_uid_again(notebook):
    notebook.offer(make_study(make_instance(1)))
    notebook.offer(make_study(make_instance(1), patient="p2"))

    back = notebook.offer(make_study(make_instance(1)))["i1"]

    assert back.uids.study_instance_uid == "1.2"
    assert back.is_minted


def test_a_merge_of_patients_moves_no_study_and_no_instance(notebook):
    before = notebook.offer(make_study(make_instance(1)))

    after = notebook.offer(make_study(make_instance(1), patient="p3"), survivors={"p1": "p3", "p2": "p3"})

    assert after == before


def test_late_images_after_a_merge_join_their_study(notebook):
    notebook.offer(make_study(make_instance(1)))

    late = notebook.offer(make_study(make_instance(1), make_instance(2), patient="p3"), survivors={"p1": "p3"})["i2"]

    assert late.uids == InstanceUids("1.2", "1.2.3", "1.2.3.2")


def test_a_study_whose_two_patients_turn_out_to_be_one_is_put_together_under_its_first_uid(notebook):
    notebook.offer(make_study(make_instance(1)))
    notebook.offer(make_study(make_instance(1), make_instance(2), patient="p2"))

    # Only instance 1 was ever sent under the first patient, p1, who is now p2.
    study = make_study(make_instance(1), make_instance(2), make_instance(3), patient="p2")
    together = notebook.offer(study, survivors={"p1": "p2"})

    assert {p.uids.study_instance_uid for p in together.values()} == {"1.2"}
    assert notebook.offer(study, survivors={"p1": "p2"}) == together


def test_late_images_of_a_moved_study_follow_it_through_a_merge_of_its_new_patient(notebook):
    notebook.offer(make_study(make_instance(1)))
    moved = notebook.offer(make_study(make_instance(1), patient="p2"))["i1"]

    merged = make_study(make_instance(1), make_instance(2), patient="p3")
    after = notebook.offer(merged, survivors={"p2": "p3"})

    assert after["i1"] == moved
    assert after["i2"].uids.study_instance_uid == moved.uids.study_instance_uid


def test_two_rows_that_claim_one_uid_go_out_with_two(notebook):
    twins = make_study(make_instance(1), make_instance(2, sop_instance_uid="1.2.3.1"))

    placed = notebook.offer(twins)

    assert placed["i1"].uids.sop_instance_uid == "1.2.3.1"
    assert placed["i2"].uids.sop_instance_uid != "1.2.3.1"


def test_a_row_made_anew_with_a_uid_that_is_in_use_goes_out_with_another(notebook):
    notebook.offer(make_study(make_instance(1)))

    anew = notebook.offer(make_study(make_instance(7, sop_instance_uid="1.2.3.1")))["i7"]

    assert anew.is_minted


def test_an_instance_that_points_at_withdrawn_ones_needs_a_new_copy(notebook):
    study = make_study(make_instance(1))
    placed = notebook.offer(study)["i1"]

    assert not is_in_place(replace(placed, decision=Decision.REPLACE), study.instances[0], study, {})
    assert is_in_place(replace(placed, decision=Decision.WITHDRAW), study.instances[0], study, {})


@pytest.mark.parametrize(
    ("instance", "decision", "expected"),
    [
        (make_instance(1), None, True),
        (make_instance(1, removed_at=NOON), None, False),
        (make_instance(1), Decision.REPLACE, True),
        (make_instance(1), Decision.WITHDRAW, False),
        (make_instance(1, content_version=2), Decision.WITHDRAW, True),
        (make_instance(1, study_key="s2"), Decision.WITHDRAW, True),
    ],
)
def test_archives_are_to_hold_what_is_shown_and_was_not_withdrawn_with_what_it_points_at(instance, decision, expected):
    study = make_study(make_instance(1))
    placed = as_placed(NewPlacement(study.instances[0], 1, InstanceUids("1.2", "1.2.3", "1.2.3.1")), study, 1)

    assert is_wanted(instance, replace(placed, decision=decision)) is expected


def test_an_instance_that_was_never_placed_is_wanted():
    assert is_wanted(make_instance(1), None)


# -- laws --------------------------------------------------------------------------------------------------------------

STUDIES = {"s1": "1.2", "s2": "1.9", "s3": "1.17"}


@st.composite
def histories(draw) -> list[tuple[Study, frozenset[str]]]:
    """States of a platform, one study at a time: instances move, change, and get rejected in any order."""
    states = []
    owner = dict.fromkeys(STUDIES, "p1")
    version = dict.fromkeys(range(1, 4), 1)
    where = dict.fromkeys(range(1, 4), ("s1", "1.2.3"))
    for _ in range(draw(st.integers(1, 8))):
        match draw(st.sampled_from(["move", "series", "change", "owner"])):
            case "move":
                where[draw(st.sampled_from(sorted(where)))] = (draw(st.sampled_from(sorted(STUDIES))), "1.2.3")
            case "series":
                n = draw(st.sampled_from(sorted(where)))
                where[n] = (where[n][0], draw(st.sampled_from(["1.2.3", "1.2.4"])))
            case "change":
                version[draw(st.sampled_from(sorted(version)))] += 1
            case "owner":
                owner[draw(st.sampled_from(sorted(owner)))] = draw(st.sampled_from(["p1", "p2"]))
        key = draw(st.sampled_from(sorted(STUDIES)))
        rows = [
            make_instance(n, study_key=key, content_version=version[n], series_instance_uid=series)
            for n, (study_key, series) in where.items()
            if study_key == key
        ]
        burnt = draw(st.sampled_from([frozenset(), frozenset({"1.2.3.1"}), frozenset({"1.2.3.1", "1.2.3.2"})]))
        states.append((make_study(*rows, key=key, uid=STUDIES[key], patient=owner[key]), burnt))
    return states


@given(histories())
def test_no_uid_ever_names_two_things(states):
    notebook, burnt = Notebook(), frozenset()
    for study, rejected in states:
        burnt |= rejected & {p.uids.sop_instance_uid for p in notebook.placed}
        placed = notebook.offer(study, burnt)
        assert not any(p.is_burnt for p in placed.values())
        assert all(is_in_place(placed[i.instance_key], i, study, {}) for i in study.instances)

    sop_uids = [p.uids.sop_instance_uid for p in notebook.placed]
    assert len(set(sop_uids)) == len(sop_uids)
    study_of_series = {(p.uids.series_instance_uid, p.uids.study_instance_uid) for p in notebook.placed}
    assert len({series for series, _ in study_of_series}) == len(study_of_series)
    patient_of_study = {(p.uids.study_instance_uid, p.patient_key) for p in notebook.placed}
    assert len({study for study, _ in patient_of_study}) == len(patient_of_study)


@given(histories())
def test_the_same_history_gives_the_same_uids(states):
    first, second = Notebook(), Notebook()
    for study, burnt in states:
        assert first.offer(study, burnt) == second.offer(study, burnt)
