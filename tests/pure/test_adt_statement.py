"""What one ADT message says, and how a message is shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

from hypothesis import given
from hypothesis import strategies as st

from archsync.core.adt import AdtSettings, CharacterSet
from archsync.core.adt_statement import find_statement
from archsync.core.identity import HeldPatient
from archsync.core.job import AdtChange
from archsync.core.study import Facility, Patient
from archsync.messages.adt import build_a40
from archsync.messages.hl7_masking import mask_patient, show_patient

B = Patient("b", "B2", "HOSP", "Doe^Jane", date(1970, 1, 1), "F")
FACILITY = Facility("f", "North", "NORTH", "HOSP", "1.2.3", "ISO", "SITE")
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)
HELD_A = HeldPatient("a", "A1", "HOSP", "Do^Jane", date(1970, 1, 1), "F")
HELD_B = HeldPatient("b", "B1", "HOSP", "Doe^J", date(1970, 1, 1), "F")
MERGED = {"a": "b", "b": "b"}


def test_a_merge_names_the_survivor_as_the_archive_knows_them() -> None:
    held = {"a": HELD_A, "b": HELD_B}
    said = find_statement(AdtChange.MERGE, B, held, MERGED, prior_patient_key="a")
    assert said is not None
    assert (said.patient.patient_id, said.patient.name) == ("B1", "Doe^Jane")
    assert said.prior is not None
    assert said.prior.patient_id == "A1"
    assert said.known_after == HELD_B
    assert not said.brings_identifier


def test_a_merge_into_somebody_unknown_there_brings_the_identifier_and_no_demographics() -> None:
    said = find_statement(AdtChange.MERGE, B, {"a": HELD_A}, MERGED, prior_patient_key="a")
    assert said is not None
    assert said.brings_identifier
    assert said.known_after == replace(HELD_A, patient_key="b", patient_id="B2")


def test_a_merge_is_of_the_pair_that_was_asked_for() -> None:
    held = {"a": HELD_A, "c": replace(HELD_A, patient_key="c", patient_id="C1"), "b": HELD_B}
    said = find_statement(AdtChange.MERGE, B, held, {**MERGED, "c": "b"}, prior_patient_key="c")
    assert said is not None
    assert said.prior is not None
    assert said.prior.patient_id == "C1"


def test_an_update_says_the_new_name_under_the_identifier_the_archive_knows() -> None:
    said = find_statement(AdtChange.DEMOGRAPHICS, B, {"b": HELD_B}, MERGED)
    assert said is not None
    assert (said.patient.patient_id, said.patient.name) == ("B1", "Doe^Jane")
    assert said.known_after == replace(HELD_B, name="Doe^Jane")
    assert said.prior is None


def test_a_new_identifier_leaves_the_demographics_to_the_update_that_follows() -> None:
    said = find_statement(AdtChange.IDENTIFIER, B, {"b": HELD_B}, MERGED)
    assert said is not None
    assert said.patient == B
    assert said.known_after == replace(HELD_B, patient_id="B2")


def test_of_somebody_filed_elsewhere_nothing_is_ever_said() -> None:
    strangers = {"a": HELD_A}
    for change in AdtChange:
        assert find_statement(change, B, strangers, {"a": "a", "b": "b"}, prior_patient_key="a") is None


_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=3, max_size=12).map(
    lambda text: f"Zq{text}zq"
)


@given(family=_NAMES, number=_NAMES)
def test_a_masked_message_shows_nothing_of_names_and_numbers_and_keeps_its_structure(family: str, number: str) -> None:
    survivor = replace(B, name=f"{family.replace('^', '').replace('=', '')}^Jane", patient_id=number)
    prior = replace(survivor, patient_id=f"{number}0")
    settings = AdtSettings(receiving_application="VNA", character_set=CharacterSet.UTF_8)
    message = build_a40(survivor, FACILITY, prior, settings, change_id="1", occurred_at=MOMENT, recorded_at=MOMENT)
    plain, masked = show_patient(message), mask_patient(message)
    assert plain.encode() == message.rstrip(b"\r").replace(b"\r", b"\n")
    assert "Zq" in plain
    for hidden in ("Zq", "zq", "Jane", "19700101"):
        assert hidden not in masked
    for shown in ("^^^HOSP&1.2.3&ISO^MR", "ADT^A40^ADT_A39"):
        assert shown in masked
    assert [line.count("|") for line in plain.split("\n")] == [line.count("|") for line in masked.split("\n")]
    assert plain.split("\n")[:2] == masked.split("\n")[:2]
