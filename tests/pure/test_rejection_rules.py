"""Which title, which instances, how many notes: the decisions before a rejection note is built."""

from __future__ import annotations

import re
from datetime import date, time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from archsync.core.rejection import (
    DEFAULT_TITLES,
    AssigningAuthority,
    NoteIdentity,
    NoteSubject,
    RejectedInstance,
    RejectionTitle,
    TitleModifier,
    check_instances,
    parse_titles,
    rescope_note,
    scope_note,
    split_instances,
)
from archsync.core.study import Facility, Patient, RemovalReason, Study
from archsync.core.uids import derive_uid
from archsync.errors import ConfigurationError, InvalidInput

CT = "1.2.840.10008.5.1.4.1.1.2"


def instance(number: int, series: int = 1, study: str = "1.2.3") -> RejectedInstance:
    return RejectedInstance(study, f"{study}.{series}", f"{study}.{series}.{number}", CT)


def uids(instances) -> list[str]:
    return [i.sop_instance_uid for i in instances]


# -- titles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", RejectionTitle)
def test_titles_are_codes_of_cid_7010_with_their_exact_meaning(title: RejectionTitle) -> None:
    assert (title.value, title.meaning) in {(c.value, c.meaning) for c in codes.cid7010.concepts.values()}


def test_modifiers_are_all_codes_of_cid_7011_with_their_exact_meaning() -> None:
    known = {(c.value, c.meaning) for c in codes.cid7011.concepts.values()}
    assert {(m.value, m.meaning) for m in TitleModifier} == known


def test_every_reason_has_a_default_and_retention_sends_nothing() -> None:
    assert {reason: title and title.value for reason, title in DEFAULT_TITLES.items()} == {
        RemovalReason.QUALITY: "113001",
        RemovalReason.PATIENT_SAFETY: "113037",
        RemovalReason.WRONG_WORKLIST_ENTRY: "113038",
        RemovalReason.RETENTION_EXPIRED: None,
        RemovalReason.UNSPECIFIED: "113037",
    }
    assert set(DEFAULT_TITLES) == set(RemovalReason)
    assert parse_titles([]) == DEFAULT_TITLES


def test_a_destination_has_its_own_titles_and_keeps_the_other_defaults() -> None:
    titles = parse_titles(["unspecified=113001", " retention_expired = 113039", "quality=none"])
    assert titles[RemovalReason.UNSPECIFIED] is RejectionTitle.QUALITY
    assert titles[RemovalReason.RETENTION_EXPIRED] is RejectionTitle.RETENTION_EXPIRED
    assert titles[RemovalReason.QUALITY] is None
    assert titles[RemovalReason.PATIENT_SAFETY] is RejectionTitle.PATIENT_SAFETY


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["boredom=113001"], "'boredom=113001'"),
        (["quality=113010"], "'quality=113010'"),
        (["quality"], "'quality'"),
        (["quality="], "'quality='"),
        (["quality=113001", "quality=none"], "quality is given twice"),
        (["wrong_worklist_entry=113039"], "may come back"),
        (["unspecified=113038"], "corrected copies"),
        (["quality=113038"], "corrected copies"),
    ],
)
def test_a_title_that_is_unknown_or_does_not_suit_its_reason_is_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(named)) as caught:
        parse_titles(overrides)
    assert caught.value.code == "bad-setting"


def test_only_a_wrong_worklist_entry_requires_replacements_and_only_retention_may_come_back() -> None:
    assert [t for t in RejectionTitle if t.requires_replacements] == [RejectionTitle.WRONG_WORKLIST_ENTRY]
    assert [t for t in RejectionTitle if t.may_come_back] == [RejectionTitle.RETENTION_EXPIRED]
    assert [t for t in RejectionTitle if t.allows_modifier] == [RejectionTitle.QUALITY]


# -- UIDs ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_derived_uids_are_valid_under_2_25_and_always_the_same(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert uid == derive_uid(*parts)
    assert UID(uid).is_valid
    root, _, number = uid.rpartition(".")
    assert root == "2.25"
    assert len(number) <= 39
    assert int(number) < 2**128


def test_each_note_has_its_own_uid_and_the_notes_of_one_change_share_a_series() -> None:
    first = NoteIdentity("77", "vna1")
    others = [
        NoteIdentity("78", "vna1"),
        NoteIdentity("77", "vna2"),
        NoteIdentity("77", "vna1", scope=2),
        NoteIdentity("77", "vna1", part=2),
    ]
    assert len({note.sop_instance_uid for note in [first, *others]}) == 5
    assert first.series_instance_uid == NoteIdentity("77", "vna1", part=2).series_instance_uid
    assert len({note.series_instance_uid for note in [first, *others]}) == 4
    assert first.series_instance_uid != first.sop_instance_uid


# Bytes are kept and resent, but a note that was never sent is built again after an upgrade.
def test_the_uid_of_a_note_does_not_change_with_the_release() -> None:
    assert NoteIdentity("77", "vna1").sop_instance_uid == "2.25.176438982643068388254308781282787962913"
    assert NoteIdentity("77", "vna1").series_instance_uid == "2.25.220996094365221135510888601794456457164"


# -- which instances -------------------------------------------------------------------------------------------------


def test_a_note_names_what_is_held_and_not_rejected_and_says_what_it_leaves_out() -> None:
    wanted = [instance(n) for n in range(1, 6)]
    scope = scope_note(
        [*wanted, wanted[0]], held=[*uids(wanted[:4]), "9.9"], rejected=[wanted[1].sop_instance_uid, "8.8"]
    )
    assert scope.instances == (wanted[0], wanted[2], wanted[3])
    assert scope.already_rejected == (wanted[1].sop_instance_uid,)
    assert scope.not_held == (wanted[4].sop_instance_uid,)


numbers = st.frozensets(st.integers(1, 30))


@given(wanted=numbers, held=numbers, rejected=numbers)
def test_every_instance_asked_for_is_accounted_for_once(wanted, held, rejected) -> None:
    scope = scope_note(
        [instance(n) for n in wanted], held=uids(map(instance, held)), rejected=uids(map(instance, rejected))
    )
    everything = [*uids(scope.instances), *scope.not_held, *scope.already_rejected]
    assert sorted(everything) == sorted(uids(map(instance, wanted)))
    assert set(uids(scope.instances)) == set(uids(map(instance, (wanted & held) - rejected)))


def test_after_an_unknown_instance_only_what_the_archive_lists_is_left() -> None:
    wanted = [instance(n) for n in range(4)]
    scope = rescope_note(wanted, listed={wanted[0].sop_instance_uid, wanted[3].sop_instance_uid, "7.7"})
    assert scope.instances == (wanted[0], wanted[3])
    assert scope.not_held == tuple(uids(wanted[1:3]))
    assert rescope_note(wanted, listed=()).instances == ()


@given(st.sets(st.tuples(st.integers(1, 200), st.integers(1, 4)), max_size=80), st.integers(1, 30), st.randoms())
def test_split_notes_cover_all_once_whatever_the_order_and_none_is_too_long(members, size, random) -> None:
    instances = [instance(number, series) for number, series in members]
    parts = split_instances(instances, max_references=size)
    assert sorted(uids(i for part in parts for i in part)) == sorted(uids(instances))
    assert all(1 <= len(part) <= size for part in parts)
    assert len(parts) == -(-len(instances) // size)
    random.shuffle(instances)
    assert split_instances(instances, max_references=size) == parts


def test_a_note_has_room_for_five_thousand_unless_told_otherwise() -> None:
    parts = split_instances([instance(n) for n in range(5_001)])
    assert [len(part) for part in parts] == [5_000, 1]
    with pytest.raises(ValueError, match="at least one"):
        split_instances([], max_references=0)


SUBJECT = NoteSubject(study_instance_uid="1.2.3", patient_id="4711")


@pytest.mark.parametrize(
    ("instances", "code", "named"),
    [
        ([], "nothing-to-reject", "1.2.3"),
        ([instance(1), instance(2, study="1.2.4")], "note-inconsistent", "1.2.4.1.2 is of study 1.2.4"),
        ([instance(1), instance(1)], "note-inconsistent", "1.2.3.1.1 is named twice"),
    ],
)
def test_what_no_note_can_say_is_refused(instances, code: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as caught:
        check_instances(SUBJECT, instances)
    assert caught.value.code == code
    check_instances(SUBJECT, [instance(1), instance(2)])


# -- subject ---------------------------------------------------------------------------------------------------------


def study(**facility: str | None) -> Study:
    return Study(
        study_key="s1",
        study_instance_uid="1.2.3",
        patient=Patient("p1", "4711", "CITY", "Planted^Name", birth_date=date(1970, 1, 2), sex="F"),
        facility=Facility("CITY", "City Hospital", "north", **facility),
        exam_status="Completed",
        accession_number="ACC9",
        study_date=date(2026, 3, 1),
        study_time=time(8, 30),
        description="CT Abdomen",
        referring_physician="Planted^Doctor",
        study_id="42",
    )


def test_the_subject_is_the_platforms_study_with_its_patient() -> None:
    subject = NoteSubject.of(
        study(authority_namespace="CITY", authority_universal_id="1.2.276.0.76", authority_universal_id_type="ISO")
    )
    assert subject == NoteSubject(
        study_instance_uid="1.2.3",
        patient_id="4711",
        patient_name="Planted^Name",
        issuer_of_patient_id=AssigningAuthority("CITY", "1.2.276.0.76", "ISO"),
        birth_date=date(1970, 1, 2),
        sex="F",
        study_date=date(2026, 3, 1),
        study_time=time(8, 30),
        study_id="42",
        study_description="CT Abdomen",
        accession_number="ACC9",
        referring_physician="Planted^Doctor",
    )


def test_the_facilitys_universal_id_is_not_given_to_another_issuer() -> None:
    subject = NoteSubject.of(study(authority_namespace="NORTH", authority_universal_id="1.2.276.0.76"))
    assert subject.issuer_of_patient_id == AssigningAuthority("CITY")


def test_a_subject_shows_no_patient_data_in_a_log() -> None:
    shown = repr(NoteSubject.of(study()))
    assert not any(value in shown for value in ("Planted", "4711", "1970", "ACC9", "Abdomen"))
    assert "1.2.3" in shown
