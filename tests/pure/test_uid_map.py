"""UIDs of replacements: which are new, that they are valid and always the same, and maps from old to new."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.uid_map import InstanceUids, Placement, UidMap, series_uid_in, study_uid_under
from archsync.errors import InvalidInput

OLD = InstanceUids("1.2.1", "1.2.1.1", "1.2.1.1.1")
NEW = InstanceUids("1.2.2", "1.2.2.1", "1.2.2.1.1")

placements = st.builds(
    Placement,
    instance_key=st.text(min_size=1, max_size=20),
    content_version=st.integers(1, 10**6),
    generation=st.integers(1, 10**6),
)


def uids_for(number: int, *, study: str = "1.2.1", series: str = "1.2.1.1") -> InstanceUids:
    return InstanceUids(study, series, f"{series}.{number}")


# -- new UIDs --------------------------------------------------------------------------------------------------------


@given(placements)
def test_a_new_uid_is_a_valid_one_of_the_uuid_arc(placement: Placement) -> None:
    arc, _, number = placement.sop_instance_uid.rpartition(".")
    assert arc == "2.25"
    assert re.fullmatch(r"0|[1-9][0-9]{0,38}", number)
    assert int(number) < 2**128
    assert int(number) >> 76 & 0xF == 5  # a version 5 UUID


@given(placements, placements)
def test_placements_share_a_uid_only_if_they_are_the_same(one: Placement, other: Placement) -> None:
    assert (one.sop_instance_uid == other.sop_instance_uid) == (one == other)


def test_new_uids_never_change_between_versions_of_archsync() -> None:
    # What archives hold was named so; a change here would send everything anew.
    assert Placement("i-1", 1, 2).sop_instance_uid == "2.25.265265688844566490768210116286021097693"
    assert (
        study_uid_under("1.2.3", patient_key="p-2", bound_patient_key="p-1")
        == "2.25.280316298481267706680669106789240569895"
    )
    assert (
        series_uid_in("1.2.3.4", study_instance_uid="1.2.9", bound_study_instance_uid="1.2.3")
        == "2.25.173468061869319687562439760995328313905"
    )


@pytest.mark.parametrize(("key", "version", "generation"), [("", 1, 1), ("i", 0, 1), ("i", 1, 0)])
def test_a_placement_without_key_or_with_a_count_below_one_is_refused(key: str, version: int, generation: int) -> None:
    with pytest.raises(ValueError, match="not a placement"):
        Placement(key, version, generation)


@pytest.mark.parametrize("bound", [None, "p-1"])
def test_a_study_keeps_its_uid_under_the_patient_it_was_first_sent_under(bound: str | None) -> None:
    assert study_uid_under("1.2.3", patient_key="p-1", bound_patient_key=bound) == "1.2.3"


def test_a_study_that_goes_to_another_patient_gets_a_uid_of_its_own_with_each_patient() -> None:
    second = study_uid_under("1.2.3", patient_key="p-2", bound_patient_key="p-1")
    third = study_uid_under("1.2.3", patient_key="p-3", bound_patient_key="p-1")
    assert len({"1.2.3", second, third}) == 3


@pytest.mark.parametrize("bound", [None, "1.2.3"])
def test_a_series_keeps_its_uid_in_the_study_it_was_first_sent_in(bound: str | None) -> None:
    assert series_uid_in("1.2.3.4", study_instance_uid="1.2.3", bound_study_instance_uid=bound) == "1.2.3.4"


def test_instances_moved_at_different_times_from_one_series_to_one_study_meet_in_one_series() -> None:
    moved = [series_uid_in("1.2.3.4", study_instance_uid="1.2.9", bound_study_instance_uid="1.2.3") for _ in range(2)]
    assert moved[0] == moved[1] != "1.2.3.4"


def test_instances_with_other_attributes_of_the_series_level_get_another_series() -> None:
    versions = {
        series_uid_in("1.2.3.4", study_instance_uid="1.2.3", bound_study_instance_uid=None, attributes_version=version)
        for version in (1, 2, 3)
    }
    assert "1.2.3.4" in versions
    assert len(versions) == 3


def test_versions_of_a_series_count_from_one() -> None:
    with pytest.raises(ValueError, match="count from 1"):
        series_uid_in("1.2", study_instance_uid="1", bound_study_instance_uid=None, attributes_version=0)


# -- maps ------------------------------------------------------------------------------------------------------------


@st.composite
def maps(draw: st.DrawFn, prefix: str = "1.2.1") -> UidMap:
    """Maps of one study, some of whose instances move to a few series of other studies."""
    count = draw(st.integers(0, 8))
    pairs = []
    for number in range(count):
        old = uids_for(number, study=prefix, series=f"{prefix}.{number % 3}")
        target = draw(st.integers(0, 3))
        new = f"2.25.{prefix.replace('.', '')}{number}"
        pairs.append((old, old if target == 0 else InstanceUids(f"1.9.{target}", f"1.9.{target}.{number % 3}", new)))
    return UidMap.of(pairs)


@given(maps())
def test_inverse_of_inverse_is_the_map_itself(uid_map: UidMap) -> None:
    assert uid_map.inverse().inverse() == uid_map


@given(maps())
def test_the_inverse_leads_back(uid_map: UidMap) -> None:
    back = uid_map.inverse()
    for old, new in uid_map.pairs:
        assert uid_map.find_instance(old.sop_instance_uid) == new
        assert back.find_instance(new.sop_instance_uid) == old


@given(maps())
def test_no_replaced_uid_is_on_the_new_side(uid_map: UidMap) -> None:
    assert not uid_map.replaced & {new.sop_instance_uid for _, new in uid_map.pairs}


@given(maps(), maps("1.2.7"))
def test_merging_does_not_depend_on_the_order(one: UidMap, other: UidMap) -> None:
    assert one.merge(other) == other.merge(one)
    assert one.merge(other).merge(one) == one.merge(other)
    assert one.merge(UidMap()) == one


def test_a_series_that_was_split_has_no_new_uid_of_its_own() -> None:
    stays = uids_for(2)
    uid_map = UidMap.of([(OLD, NEW), (stays, stays)])
    assert uid_map.find_series(OLD.series_instance_uid) is None
    assert uid_map.find_study(OLD.study_instance_uid) is None
    assert OLD.study_instance_uid not in uid_map


def test_a_series_that_moved_as_a_whole_has_one() -> None:
    uid_map = UidMap.of([(OLD, NEW), (uids_for(2), InstanceUids("1.2.2", "1.2.2.1", "1.2.2.1.2"))])
    assert uid_map.find_series(OLD.series_instance_uid) == uid_map.find(OLD.series_instance_uid) == "1.2.2.1"
    assert uid_map.find_study(OLD.study_instance_uid) == uid_map.find(OLD.study_instance_uid) == "1.2.2"
    assert OLD.series_instance_uid in uid_map
    assert "1.2.3" not in uid_map


def test_instances_may_change_places_between_two_studies() -> None:
    other = InstanceUids("1.2.2", "1.2.2.1", "1.2.2.1.9")
    uid_map = UidMap.of(
        [(OLD, InstanceUids("1.2.2", "1.5.2", "1.5.1")), (other, InstanceUids("1.2.1", "1.5.4", "1.5.3"))]
    )
    assert (uid_map.find_study("1.2.1"), uid_map.find_study("1.2.2")) == ("1.2.2", "1.2.1")


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([(OLD, NEW), (OLD, uids_for(7, series="1.2.8"))], "on the old side twice"),
        ([(OLD, NEW), (uids_for(2), NEW)], "on the new side twice"),
        ([(OLD, uids_for(2)), (uids_for(2), uids_for(3))], "would get the UID of another"),
        ([(OLD, NEW), (uids_for(2), InstanceUids("1.2.5", NEW.series_instance_uid, "1.2.5.5"))], "would lie in two"),
        ([(InstanceUids("1.2.1", "1.2.1.1", "1.2.840.10008.5.1.4.1.1.2"), NEW)], "belongs to the standard"),
    ],
)
def test_a_map_that_contradicts_itself_is_refused(pairs: list[tuple[InstanceUids, InstanceUids]], problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as refusal:
        UidMap.of(pairs)
    assert refusal.value.code == "uid-map-inconsistent"


def test_an_instance_that_moved_before_it_was_sent_keeps_its_uid_and_still_concerns_what_names_it() -> None:
    stays = uids_for(2)
    moved = InstanceUids("1.2.9", "1.2.9.1", OLD.sop_instance_uid)
    uid_map = UidMap.of([(OLD, moved), (stays, stays)])
    assert uid_map.find_instance(OLD.sop_instance_uid) == moved
    assert uid_map.replaced == frozenset()
    assert OLD.sop_instance_uid not in uid_map
    assert uid_map.concerns(OLD.sop_instance_uid)
    assert not uid_map.concerns(stays.sop_instance_uid)


def test_files_may_disagree_on_the_study_that_their_series_lies_in() -> None:
    elsewhere = InstanceUids("1.2.5", OLD.series_instance_uid, "1.2.5.5")
    uid_map = UidMap.of([(OLD, NEW), (elsewhere, InstanceUids("1.2.2", "1.2.2.1", "1.2.2.1.5"))])
    assert uid_map.find_series(OLD.series_instance_uid) == NEW.series_instance_uid


def test_several_former_instances_may_lead_to_one_that_is_sent() -> None:
    gone, before = uids_for(2), uids_for(3)
    uid_map = UidMap.of([(OLD, NEW)], former=[(gone, NEW), (before, NEW)])

    assert {uid_map.find_instance(old.sop_instance_uid) for old in (OLD, gone, before)} == {NEW}
    assert uid_map.find_series(OLD.series_instance_uid) == NEW.series_instance_uid
    assert uid_map.replaced == {OLD.sop_instance_uid, gone.sop_instance_uid, before.sop_instance_uid}
    assert uid_map.merge(UidMap.of([], former=[(uids_for(4), NEW)])).find(uids_for(4).sop_instance_uid)
    assert uid_map.inverse() == UidMap.of([(NEW, OLD)])


@pytest.mark.parametrize(
    ("former", "problem"),
    [
        ([(OLD, uids_for(7))], "on the old side twice"),
        ([(uids_for(2), uids_for(3)), (uids_for(3), uids_for(4))], "would get the UID of another"),
        ([(NEW, uids_for(3))], "would get the UID of another"),
        ([(uids_for(2), InstanceUids("1.2.5", NEW.series_instance_uid, "1.2.5.5"))], "would lie in two"),
    ],
)
def test_former_instances_that_contradict_the_others_are_refused(
    former: list[tuple[InstanceUids, InstanceUids]], problem: str
) -> None:
    with pytest.raises(InvalidInput, match=problem):
        UidMap.of([(OLD, NEW)], former=former)


def test_maps_that_contradict_each_other_do_not_merge() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        UidMap.of([(OLD, NEW)]).merge(UidMap.of([(OLD, uids_for(9))]))
