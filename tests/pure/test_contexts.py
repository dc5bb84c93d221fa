"""Presentation contexts: every instance can travel as it is or uncompressed, within the limit of 128."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.contexts import FALLBACK_SYNTAXES, MAX_CONTEXTS, ProposedContext, plan_associations

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT = FALLBACK_SYNTAXES
J2K, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"


def test_each_pair_has_a_context_of_its_own_and_each_class_one_to_fall_back_to():
    (plan,) = plan_associations([(CT, J2K), (MR, RLE), (CT, J2K), (CT, RLE)])
    assert plan.contexts == (
        ProposedContext(CT, (J2K,)),
        ProposedContext(CT, (RLE,)),
        ProposedContext(CT, (EXPLICIT, IMPLICIT)),
        ProposedContext(MR, (RLE,)),
        ProposedContext(MR, (EXPLICIT, IMPLICIT)),
    )
    assert plan.positions == (0, 1, 2, 3)


def test_the_fallback_leaves_out_what_is_proposed_alone():
    (plan,) = plan_associations([(CT, EXPLICIT), (MR, IMPLICIT), (MR, EXPLICIT)])
    assert plan.contexts == (
        ProposedContext(CT, (EXPLICIT,)),
        ProposedContext(CT, (IMPLICIT,)),
        ProposedContext(MR, (IMPLICIT,)),
        ProposedContext(MR, (EXPLICIT,)),
    )


def test_nothing_to_send_needs_no_association():
    assert plan_associations([]) == []


def test_more_classes_than_fit_go_on_more_associations():
    pairs = [(f"1.2.3.{number}", J2K) for number in range(130)]
    plans = plan_associations(pairs)
    assert [len(plan.contexts) for plan in plans] == [128, 128, 4]


def test_an_association_needs_room_for_the_fallback():
    with pytest.raises(ValueError, match="fallback"):
        plan_associations([(CT, J2K)], max_contexts=1)


classes = st.integers(1, 90).map(lambda number: f"1.2.3.{number}")
syntaxes = st.sampled_from([EXPLICIT, IMPLICIT, J2K, RLE, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"])


@given(st.lists(st.tuples(classes, syntaxes), max_size=300), st.integers(2, MAX_CONTEXTS))
def test_every_instance_travels_once_with_its_exact_context_and_a_fallback(pairs, max_contexts):
    plans = plan_associations(pairs, max_contexts=max_contexts)
    assert sorted(position for plan in plans for position in plan.positions) == list(range(len(pairs)))
    for plan in plans:
        assert 0 < len(plan.contexts) <= max_contexts
        assert list(plan.positions) == sorted(plan.positions)
        assert len(set(plan.contexts)) == len(plan.contexts)
        for position in plan.positions:
            sop_class, syntax = pairs[position]
            assert ProposedContext(sop_class, (syntax,)) in plan.contexts
            offered = {s for c in plan.contexts if c.sop_class_uid == sop_class for s in c.transfer_syntax_uids}
            assert offered >= set(FALLBACK_SYNTAXES)
    assert plans == plan_associations(pairs, max_contexts=max_contexts)
