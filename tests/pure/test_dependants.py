"""What becomes of objects that point at withdrawn instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid as uids

from archsync.core.comparison import Desired, Related
from archsync.core.dependants import Dependence, Target, Verdict, dependence_of, judge, stand_in
from archsync.core.fitting import map_uids
from archsync.core.placing import Decision, Placed
from archsync.core.study import Facility, Instance, Patient, Study
from archsync.core.uid_map import InstanceUids

K, R, W, L = Target.KEPT, Target.REPLACED, Target.WITHDRAWN, Target.LOST


@pytest.mark.parametrize(
    ("targets", "verdict"),
    [
        ([], Verdict()),
        ([K], Verdict()),
        ([W], Verdict(Decision.WITHDRAW)),
        ([W, W], Verdict(Decision.WITHDRAW)),
        ([R], Verdict(Decision.REPLACE)),
        ([R, K], Verdict(Decision.REPLACE)),
        ([R, W], Verdict(Decision.REPLACE, is_left_dangling=True)),
        ([R, L], Verdict(Decision.REPLACE, is_left_dangling=True)),
        ([W, K], Verdict(is_left_dangling=True)),
        ([W, L], Verdict(is_left_dangling=True)),
        ([L], Verdict(is_left_dangling=True)),
    ],
)
def test_an_object_follows_what_it_points_at(targets, verdict):
    assert judge(Dependence.DERIVED, targets) == verdict


@given(st.sets(st.sampled_from(Target)))
def test_a_report_is_only_ever_named(targets):
    assert judge(Dependence.REPORT, targets) == Verdict(is_left_dangling=bool(targets - {K}))


@given(st.sampled_from(Dependence), st.lists(st.sampled_from(Target)))
def test_the_decision_depends_on_what_is_pointed_at_not_on_order_or_number(dependence, targets):
    assert judge(dependence, targets) == judge(dependence, [*reversed(targets), *targets])


@given(st.sets(st.sampled_from(Target), min_size=1))
def test_nothing_is_withdrawn_that_points_at_something_still_shown(targets):
    if judge(Dependence.DERIVED, targets).decision is Decision.WITHDRAW:
        assert targets == {W}


@pytest.mark.parametrize(
    ("sop_class", "dependence"),
    [
        (uids.KeyObjectSelectionDocumentStorage, Dependence.DERIVED),
        (uids.GrayscaleSoftcopyPresentationStateStorage, Dependence.DERIVED),
        (uids.ColorSoftcopyPresentationStateStorage, Dependence.DERIVED),
        (uids.SegmentationStorage, Dependence.DERIVED),
        (uids.ParametricMapStorage, Dependence.DERIVED),
        (uids.RTStructureSetStorage, Dependence.DERIVED),
        (uids.RTDoseStorage, Dependence.DERIVED),
        (uids.MammographyCADSRStorage, Dependence.DERIVED),
        (uids.BasicTextSRStorage, Dependence.REPORT),
        (uids.EnhancedSRStorage, Dependence.REPORT),
        (uids.ComprehensiveSRStorage, Dependence.REPORT),
        (uids.Comprehensive3DSRStorage, Dependence.REPORT),
        (uids.XRayRadiationDoseSRStorage, Dependence.REPORT),
        (uids.EncapsulatedPDFStorage, Dependence.REPORT),
        (uids.CTImageStorage, None),
        (uids.EnhancedMRImageStorage, None),
        (uids.TwelveLeadECGWaveformStorage, None),
        (uids.RTImageStorage, None),
    ],
)
def test_the_sop_class_says_how_an_object_depends_on_others(sop_class, dependence):
    assert dependence_of(sop_class) is dependence


# -- what references are led to ----------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
JANE = Patient("p1", "MRN1", None, "Doe^Jane")
CT, MR = str(uids.CTImageStorage), str(uids.MRImageStorage)


def row(key: str, *, replaces: str | None = None, is_shown: bool = True, study_key: str = "s1", **values) -> Instance:
    facts = {
        "series_instance_uid": f"1.{study_key[1:]}.1",
        "series_number": 1,
        "modality": "CT",
        "sop_instance_uid": f"1.{study_key[1:]}.1.{ord(key)}",
        "sop_class_uid": CT,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "instance_number": 1,
        "location": "file:///image.dcm",
        "size_bytes": 1000,
        "removed_at": None if is_shown else NOON,
        "replaces_instance_key": replaces,
    }
    return Instance(key, study_key, **{**facts, **values})


def study_of(*rows: Instance) -> Study:
    (study_key,) = {r.study_key for r in rows}
    uid = f"1.{study_key[1:]}"
    return Study(study_key, uid, JANE, Facility("CITY", "City", "metro"), "Completed", instances=rows)


def uids_of(instance: Instance) -> InstanceUids:
    return InstanceUids(f"1.{instance.study_key[1:]}", instance.series_instance_uid, instance.sop_instance_uid)


def place(instance: Instance, number: int = 1, sop_instance_uid: str | None = None) -> Placed:
    own = uids_of(instance)
    return Placed(
        placement_id=ord(instance.instance_key) * 10 + number,
        placement_no=number,
        instance_key=instance.instance_key,
        content_version=1,
        study_key=instance.study_key,
        patient_key="p1",
        uids=InstanceUids(own.study_instance_uid, own.series_instance_uid, sop_instance_uid or own.sop_instance_uid),
        source_series_instance_uid=own.series_instance_uid,
        source_sop_instance_uid=own.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        placed_at=NOON,
    )


def desire(
    *rows: Instance,
    elsewhere: Iterable[Instance] = (),
    replacements: Mapping[str, tuple[str, ...]],
    placed: Iterable[Placed] | None = None,
) -> Desired:
    """What the platform says of the study of ``rows``; every one was placed unless ``placed`` are given."""
    others = [(r, study_of(r)) for r in elsewhere]
    placed = [place(r) for r in (*rows, *(r for r, _ in others))] if placed is None else list(placed)
    return Desired(
        study_of(*rows),
        latest={p.instance_key: p for p in placed},
        related={r.instance_key: Related(s, r) for r, s in others},
        replacements=replacements,
    )


A = row("a", is_shown=False)
B = row("b", replaces="a")
C = row("c")


def test_references_to_what_the_platform_replaced_lead_to_its_own_row():
    desired = desire(A, B, C, replacements={"a": ("b",)})

    assert stand_in("a", desired).instance == B
    uid_map = map_uids(desired, {})
    assert uid_map.find_instance(A.sop_instance_uid) == uids_of(B)
    assert uid_map.find_instance(B.sop_instance_uid) == uids_of(B)
    assert A.sop_instance_uid in uid_map
    assert not uid_map.concerns(B.sop_instance_uid)
    assert not uid_map.concerns(C.sop_instance_uid)


def test_they_lead_to_the_uid_with_which_that_row_goes_out():
    moved = place(B, 2, "2.25.2")
    desired = desire(A, B, replacements={"a": ("b",)}, placed=[place(A), moved])

    uid_map = map_uids(desired, {})

    assert uid_map.find(A.sop_instance_uid) == uid_map.find(B.sop_instance_uid) == "2.25.2"


def test_a_chain_of_replacements_leads_to_its_end_from_every_link():
    between, last = row("b", replaces="a", is_shown=False), row("d", replaces="b")
    desired = desire(A, between, last, C, replacements={"a": ("d",), "b": ("d",)})

    uid_map = map_uids(desired, {})

    assert {uid_map.find(x.sop_instance_uid) for x in (A, between, last)} == {last.sop_instance_uid}
    assert uid_map.find_series(A.series_instance_uid) == A.series_instance_uid


def test_a_replacement_in_another_study_takes_references_there():
    there = row("b", replaces="a", study_key="s2")
    desired = desire(A, C, elsewhere=[there], replacements={"a": ("b",)})

    uid_map = map_uids(desired, {})

    assert uid_map.find_instance(A.sop_instance_uid) == uids_of(there)
    assert uid_map.find_series(A.series_instance_uid) is None, "the rest of its series stayed"


def test_from_the_other_study_references_to_the_old_image_lead_to_the_new_one_too():
    there = row("b", replaces="a", study_key="s2")
    desired = desire(there, elsewhere=[A], replacements={"a": ("b",)})

    assert map_uids(desired, {}).find_instance(A.sop_instance_uid) == uids_of(there)


def test_what_was_never_placed_is_known_by_its_row_and_what_has_no_row_by_its_first_placement():
    by_row = desire(A, B, replacements={"a": ("b",)}, placed=[place(B)])
    without_row = Desired(
        study_of(B), latest={"a": place(A), "b": place(B)}, replacements={"a": ("b",)}, origins={"a": uids_of(A)}
    )

    for desired in (by_row, without_row):
        assert map_uids(desired, {}).find(A.sop_instance_uid) == B.sop_instance_uid


def test_an_image_that_is_shown_again_is_what_references_to_it_mean():
    again = row("a")
    desired = desire(again, B, replacements={"a": ("b",)})

    assert stand_in("a", desired).instance == again
    assert map_uids(desired, {}).former == ()


@pytest.mark.parametrize(
    "rows",
    [
        (A, B, row("d", replaces="a")),
        (A, row("b", replaces="a", sop_class_uid=MR)),
        (A, C),
    ],
    ids=["several rows", "another class", "nothing"],
)
def test_nowhere_else_are_references_led(rows):
    found = tuple(r.instance_key for r in rows if r.replaces_instance_key == "a")
    desired = desire(*rows, replacements={"a": found} if found else {})

    assert stand_in("a", desired) is None
    assert map_uids(desired, {}).find(A.sop_instance_uid) is None


def test_a_new_row_under_the_old_uid_is_led_by_its_own_placement():
    same = row("b", replaces="a", sop_instance_uid=A.sop_instance_uid)
    desired = desire(A, same, replacements={"a": ("b",)}, placed=[place(A), place(same, 1, "2.25.9")])

    uid_map = map_uids(desired, {})

    assert uid_map.find(A.sop_instance_uid) == "2.25.9"
    assert uid_map.former == ()
