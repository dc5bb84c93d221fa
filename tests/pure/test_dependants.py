"""What becomes of objects that point at withdrawn instances."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid as uids

from archsync.core.dependants import Dependence, Target, Verdict, dependence_of, judge
from archsync.core.placing import Decision

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
