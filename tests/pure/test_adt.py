"""ADT messages: what stands in which field, what is refused, and hl7apy's opinion."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from archsync.core.adt import AdtSettings, CharacterSet, Hl7Version, MergeTrigger, ProcessingId, UpdateTrigger
from archsync.core.study import Facility, Patient
from archsync.errors import ConfigurationError, InvalidInput
from archsync.messages.adt import build_a08, build_a40, control_id, validate
from archsync.messages.hl7_text import decode_text, parse_segments, unescape

CITY = Facility("CITY", "City Hospital", "NORTH", "HOSP", "1.2.3.4", "ISO", "SITE")
JOHN = Patient("key-1", "12345", None, "Doe^John", date(1970, 1, 1), "M")
OLD_JOHN = replace(JOHN, patient_id="OLD")
VNA = AdtSettings(receiving_application="VNA")
NOON = datetime(2026, 6, 1, 12, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
WHEN = {"change_id": "message-1", "occurred_at": NOON, "recorded_at": NOON + timedelta(seconds=5)}
VERSIONS = list(Hl7Version)
PAM = [Hl7Version.V2_5, Hl7Version.V2_5_1]


def a08(patient: Patient = JOHN, facility: Facility = CITY, settings: AdtSettings = VNA, **changes) -> bytes:
    return build_a08(patient, facility, settings, **{**WHEN, **changes})


def a40(
    survivor: Patient = JOHN,
    prior: Patient = OLD_JOHN,
    settings: AdtSettings = VNA,
    facility: Facility = CITY,
    **changes,
) -> bytes:
    return build_a40(survivor, facility, prior, settings, **{**WHEN, **changes})


def field(message: bytes, name: str, number: int) -> str:
    return next(s for s in parse_segments(decode_text(message)) if s.name == name).field(number)


def names(message: bytes) -> list[str]:
    return [segment.name for segment in parse_segments(decode_text(message))]


# -- segments and fields ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("trigger", UpdateTrigger)
def test_an_update_has_the_segments_of_its_structure(version: Hl7Version, trigger: UpdateTrigger) -> None:
    message = a08(settings=replace(VNA, version=version, update_trigger=trigger))
    assert names(message) == ["MSH", "EVN", "PID", "PV1"]
    assert field(message, "PV1", 2) == "N"
    validate(message)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("trigger", MergeTrigger)
def test_a_merge_names_the_survivor_in_pid_and_the_other_in_mrg(version: Hl7Version, trigger: MergeTrigger) -> None:
    message = a40(settings=replace(VNA, version=version, merge_trigger=trigger))
    assert names(message) == ["MSH", "EVN", "PID", "MRG"]
    assert field(message, "PID", 3) == "12345^^^HOSP&1.2.3.4&ISO^MR"
    assert field(message, "MRG", 1) == "OLD^^^HOSP&1.2.3.4&ISO^MR"
    assert field(message, "MRG", 7) == "Doe^John"
    validate(message)


@pytest.mark.parametrize(
    ("trigger", "version", "message_type"),
    [
        ("A08", "2.3.1", "ADT^A08^ADT_A01"),
        ("A08", "2.5", "ADT^A08^ADT_A01"),
        ("A31", "2.3.1", "ADT^A31^ADT_A01"),
        ("A31", "2.5.1", "ADT^A31^ADT_A05"),
        ("A40", "2.3.1", "ADT^A40^ADT_A39"),
        ("A40", "2.5.1", "ADT^A40^ADT_A39"),
        ("A47", "2.5.1", "ADT^A47^ADT_A30"),
    ],
)
def test_the_message_type_names_trigger_and_structure(trigger: str, version: str, message_type: str) -> None:
    chosen = replace(VNA, version=Hl7Version(version))
    if trigger in list(UpdateTrigger):
        message = a08(settings=replace(chosen, update_trigger=UpdateTrigger(trigger)))
    else:
        message = a40(settings=replace(chosen, merge_trigger=MergeTrigger(trigger)))
    assert field(message, "MSH", 9) == message_type
    assert field(message, "MSH", 12) == version


def test_the_header_names_both_sides_and_the_processing_id() -> None:
    message = a08(settings=replace(VNA, sending_facility="CENTRE", processing_id=ProcessingId.TRAINING))
    assert [field(message, "MSH", n) for n in (3, 4, 5, 6, 11)] == ["ARCHSYNC", "CENTRE", "VNA", "SITE", "T"]
    assert [field(message, "MSH", n) for n in (8, 14, 15, 16, 20)] == [""] * 5


def test_the_sending_facility_is_the_patients_unless_set() -> None:
    assert field(a08(), "MSH", 4) == "CITY"


def test_the_receiving_facility_of_the_platform_counts_before_the_destinations() -> None:
    setting = replace(VNA, receiving_facility="ELSEWHERE")
    assert field(a08(settings=setting), "MSH", 6) == "SITE"
    assert field(a08(facility=replace(CITY, hl7_receiving_facility=None), settings=setting), "MSH", 6) == "ELSEWHERE"


def test_enhanced_mode_asks_for_a_commit_acknowledgement_only() -> None:
    message = a08(settings=replace(VNA, wants_commit_ack=True))
    assert (field(message, "MSH", 15), field(message, "MSH", 16)) == ("AL", "NE")
    validate(message)


@pytest.mark.parametrize("version", PAM)
def test_pam_sends_no_event_code_and_says_when_it_really_changed(version: Hl7Version) -> None:
    message = a08(settings=replace(VNA, version=version))
    assert field(message, "EVN", 1) == ""
    assert field(message, "EVN", 2) == field(message, "MSH", 7) == "20260601120005-0330"
    assert field(message, "EVN", 6) == field(message, "PID", 33) == "20260601120000-0330"


def test_a_merge_says_nothing_about_the_last_update() -> None:
    assert field(a40(), "PID", 33) == ""


def test_version_2_3_1_sends_the_event_code_and_no_fields_of_later_versions() -> None:
    message = a08(settings=replace(VNA, version=Hl7Version.V2_3_1))
    assert field(message, "EVN", 1) == "A08"
    assert field(message, "EVN", 6) == field(message, "PID", 33) == ""


@pytest.mark.parametrize("number", [1, 2, 4, 6, 9, 18, 19, 20])
def test_fields_we_do_not_manage_stay_empty(number: int) -> None:
    assert field(a08(), "PID", number) == ""


def test_a_time_with_an_offset_in_seconds_is_sent_in_utc() -> None:
    amsterdam_1930 = timezone(timedelta(minutes=19, seconds=32))
    message = a08(recorded_at=datetime(2026, 1, 1, tzinfo=amsterdam_1930))
    assert field(message, "MSH", 7) == "20251231234028+0000"


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sex", "sent"), [("M", "M"), ("F", "F"), ("O", "O"), ("f", "F"), (None, "U"), ("", "U"), ("X", "U")]
)
def test_an_unknown_sex_is_sent_as_unknown(sex: str | None, sent: str) -> None:
    assert field(a08(replace(JOHN, sex=sex)), "PID", 8) == sent


def test_an_unknown_birth_date_stays_empty_and_a_withdrawn_one_is_deleted() -> None:
    unknown = replace(JOHN, birth_date=None)
    assert field(a08(unknown), "PID", 7) == ""
    cleared = a08(unknown, clear_birth_date=True)
    assert field(cleared, "PID", 7) == '""'
    validate(cleared)


def test_a_birth_date_that_exists_is_not_deleted() -> None:
    with pytest.raises(InvalidInput, match="clear_birth_date"):
        a08(clear_birth_date=True)


def test_a_birth_date_in_a_distant_year_keeps_its_four_digits() -> None:
    assert field(a08(replace(JOHN, birth_date=date(985, 3, 2))), "PID", 7) == "09850302"


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("Doe^John^Q^Dr^Jr", "Doe^John^Q^Jr^Dr"),
        ("Doe", "Doe"),
        ("Doe^^^^", "Doe"),
        ("^John", "^John"),
        (" Doe ^ John ", "Doe^John"),
        ("O'Brien^Sinéad", "O'Brien^Sinéad"),
        ("Doe^John==", "Doe^John"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou^^^^^^A~山田^太郎^^^^^^I~やまだ^たろう^^^^^^P"),
        ("=山田^太郎", "山田^太郎^^^^^^I"),
        ("Hong^Gildong==홍^길동", "Hong^Gildong^^^^^^A~홍^길동^^^^^^P"),
        ("A&B^C|D", "A\\T\\B^C\\F\\D"),
        ('Doe^""', "Doe^\\X2222\\"),
    ],
)
def test_a_dicom_name_becomes_an_hl7_name(name: str, sent: str) -> None:
    message = a08(replace(JOHN, name=name))
    assert field(message, "PID", 5) == sent
    validate(message)


def test_the_issuer_of_the_patient_counts_before_the_facility() -> None:
    message = a08(replace(JOHN, issuer_of_patient_id="OTHER"))
    assert field(message, "PID", 3) == "12345^^^OTHER^MR"


def test_the_universal_id_goes_with_the_facilitys_own_namespace() -> None:
    message = a08(replace(JOHN, issuer_of_patient_id="HOSP"))
    assert field(message, "PID", 3) == "12345^^^HOSP&1.2.3.4&ISO^MR"


def test_a_universal_id_alone_is_an_authority() -> None:
    message = a08(facility=replace(CITY, authority_namespace=None))
    assert field(message, "PID", 3) == "12345^^^&1.2.3.4&ISO^MR"
    validate(message)


def test_blanks_around_an_identifier_mean_nothing() -> None:
    assert field(a08(replace(JOHN, patient_id=" 12345 ")), "PID", 3).startswith("12345^")


# -- determinism -----------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert a08() == a08()
    assert a40() == a40()


def test_a_control_id_is_short_and_never_that_of_another_change() -> None:
    ids = {control_id(f"job-{number}") for number in range(10_000)}
    assert len(ids) == 10_000
    assert {len(i) for i in ids} == {20}
    assert all(i.isalnum() and i.isascii() for i in ids)
    assert control_id("job-1") == control_id("job-1")


def test_the_control_id_depends_on_the_change_and_nothing_else() -> None:
    assert field(a08(), "MSH", 10) == field(a40(), "MSH", 10) == control_id("message-1")


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"patient_id": ""}, "adt-no-identifier"),
        ({"patient_id": "  "}, "adt-no-identifier"),
        ({"patient_id": '""'}, "adt-no-identifier"),
        ({"patient_id": "12\r345"}, "adt-control-characters"),
        ({"patient_id": "12\x1c345"}, "adt-control-characters"),
        ({"patient_id": "12\x85345"}, "adt-control-characters"),
        ({"issuer_of_patient_id": "HO\nSP"}, "adt-control-characters"),
        ({"name": ""}, "adt-no-name"),
        ({"name": "^^ = "}, "adt-no-name"),
        ({"name": "a^b^c^d^e^f"}, "adt-bad-name"),
        ({"name": "a=b=c=d"}, "adt-bad-name"),
    ],
)
def test_a_patient_that_no_message_can_carry_is_refused_without_saying_who(change: dict[str, str], code: str) -> None:
    patient = replace(JOHN, **change)
    with pytest.raises(InvalidInput) as update:
        a08(patient)
    with pytest.raises(InvalidInput) as merge:
        a40(patient)
    assert update.value.code == merge.value.code == code
    for value in change.values():
        assert not value.strip() or value not in update.value.message


@pytest.mark.parametrize(
    "change",
    [
        {"authority_namespace": None, "authority_universal_id": None, "authority_universal_id_type": None},
        {"authority_namespace": " ", "authority_universal_id": "", "authority_universal_id_type": ""},
        {"authority_universal_id_type": None},
        {"authority_universal_id": None},
    ],
)
def test_an_identifier_without_a_whole_assigning_authority_is_never_sent(change: dict[str, str | None]) -> None:
    with pytest.raises(InvalidInput) as refused:
        a08(facility=replace(CITY, **change))
    assert refused.value.code == "adt-no-authority"
    assert "CITY" in refused.value.message


@pytest.mark.parametrize("old", ["12345", " 12345 "])
def test_a_merge_of_an_identifier_into_itself_is_refused(old: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        a40(prior=replace(JOHN, patient_id=old))
    assert refused.value.code == "adt-same-identifier"


@pytest.mark.parametrize(
    "prior",
    [replace(JOHN, patient_id="OLD", issuer_of_patient_id="OTHER"), replace(JOHN, issuer_of_patient_id="OTHER")],
)
def test_a_merge_across_assigning_authorities_is_refused(prior: Patient) -> None:
    with pytest.raises(InvalidInput) as refused:
        a40(prior=prior)
    assert refused.value.code == "adt-other-authority"


def test_a_merge_with_a_patient_of_a_facility_with_another_authority_is_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        a40(prior_facility=replace(CITY, facility_id="LAKE", authority_namespace="LAKE"))
    assert refused.value.code == "adt-other-authority"


def test_a_prior_patient_without_a_name_is_merged_without_it() -> None:
    message = a40(prior=replace(JOHN, patient_id="OLD", name=""))
    assert field(message, "MRG", 7) == ""
    validate(message)


@pytest.mark.parametrize("character_set", [CharacterSet.ASCII, CharacterSet.LATIN_1, CharacterSet.JAPANESE])
def test_a_name_the_character_set_lacks_is_refused_and_never_mutilated(character_set: CharacterSet) -> None:
    with pytest.raises(InvalidInput) as refused:
        a08(replace(JOHN, name="Łukasz"), settings=replace(VNA, character_set=character_set))
    assert refused.value.code == "hl7-character-set"
    assert refused.value.__suppress_context__  # the cause would quote the message


def test_a_message_without_a_receiving_facility_is_not_built() -> None:
    with pytest.raises(ConfigurationError, match="receiving_facility"):
        a08(facility=replace(CITY, hl7_receiving_facility=None))


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="time zone"):
        a08(recorded_at=NOON.replace(tzinfo=None))


def test_settings_without_names_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="receiving_application"):
        AdtSettings(receiving_application=" ")


# -- hl7apy's opinion ------------------------------------------------------------------------------------------------

# hl7apy takes a field of other blanks than spaces for an empty one.
PRINTABLE = st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs"), include_characters=" ")
# A PN component: no delimiter of its own, something else than blanks.
COMPONENT = st.text(PRINTABLE.filter(lambda c: c not in "^="), min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=60)
@given(
    family=COMPONENT,
    given_name=COMPONENT,
    prior_id=st.text(PRINTABLE, min_size=1, max_size=15).filter(lambda t: t.strip(" ") not in ("", "12345", '""')),
    version=st.sampled_from(VERSIONS),
)
def test_hl7apy_gives_back_what_was_put_in(family: str, given_name: str, prior_id: str, version: Hl7Version) -> None:
    named = replace(JOHN, name=f"{family}^{given_name}")
    message = a40(named, replace(JOHN, patient_id=prior_id), replace(VNA, version=version))
    parsed = parse_message(message.decode(), validation_level=VALIDATION_LEVEL.STRICT)
    group = parsed.adt_a39_patient
    pid, mrg = group.pid.to_er7().split("|"), group.mrg.to_er7().split("|")
    assert [unescape(part) for part in pid[5].split("^")] == [family.strip(" "), given_name.strip(" ")]
    assert unescape(mrg[1].split("^")[0]) == prior_id.strip(" ")
    assert pid[3] == "12345^^^HOSP&1.2.3.4&ISO^MR"
    validate(message)


def test_hl7apy_reads_the_fields_of_an_update() -> None:
    parsed = parse_message(a08().decode(), validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.pid.pid_3.cx_1.to_er7() == "12345"
    assert parsed.pid.pid_3.cx_4.hd_2.to_er7() == "1.2.3.4"
    assert parsed.pid.pid_5.xpn_1.fn_1.to_er7() == "Doe"
    assert parsed.pid.pid_7.to_er7() == "19700101"
    assert parsed.evn.evn_2.to_er7() == "20260601120005-0330"
    assert parsed.msh.msh_10.to_er7() == control_id("message-1")


A08, A40 = a08().decode(), a40().decode()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (A08.replace("\r", "\n"), "does not end with CR"),
        (A08.removesuffix("\r"), "does not end with CR"),
        (A08.replace("|^~\\&|", "|^~\\#|"), "delimiters"),
        (A08.replace("Doe", "D\x0boe"), "control characters"),
        (A08.replace("EVN|", "ZZZ|"), "MSH ZZZ PID PV1"),
        (A08.replace("PV1||N\r", ""), "MSH EVN PID do not"),
        (A08 + "ZPI|1\r", "ZPI"),
        (A40 + "PV1||N\r", "PV1"),
        (A40 + A40[A40.index("PID|") :], "PID MRG PID MRG"),
        ("\r".join([*A40.split("\r")[:2], *reversed(A40.split("\r")[2:4]), ""]), "MRG PID"),
        (A08.replace("ARCHSYNC", ""), "MSH-3 is empty"),
        (A08.replace("|VNA|", "||"), "MSH-5 is empty"),
        (A08.replace("20260601120005-0330", ""), "MSH-7 is empty; EVN-2 is empty"),
        (A08.replace("20260601120005-0330", "20260601120005"), "MSH-7 is no time with offset"),
        (A08.replace(control_id("message-1"), "X" * 21), "MSH-10 is longer"),
        (A08.replace(control_id("message-1"), ""), "MSH-10 is empty"),
        (A08.replace("ADT_A01", "ADT_A05"), "MSH-9.3"),
        (A08.replace("^ADT_A01", ""), "MSH-9.3"),
        (A08.replace("Doe^John", ""), "PID-5 is empty"),
        (A08.replace("|M|", "|Z|"), "PID-8"),
        (A08.replace("HOSP&1.2.3.4&ISO", ""), "PID-3 lacks"),
        (A08.replace("12345^", "^"), "PID-3 lacks"),
        (A08.replace("^MR|", "^MR~2^^^HOSP^MR|"), "more than one identifier"),
        (A40.replace("OLD^", "12345^"), "same identifier"),
        (A40.replace("OLD^^^HOSP", "OLD^^^LAKE"), "different assigning authorities"),
        (A08.replace("19700101", "19701301"), "hl7apy"),
        (A08.replace("12345^", "1" * 300 + "^"), "hl7apy"),
        ("", "does not begin with MSH"),
        ("PID|||1\r", "does not begin with MSH"),
    ],
)
def test_a_message_that_is_not_right_does_not_leave(message: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate(message.encode())
    assert told in refused.value.message
    assert refused.value.code == "hl7-invalid-message"


def test_bytes_that_are_not_in_the_named_character_set_do_not_leave() -> None:
    latin = a08(replace(JOHN, name="Müller"), settings=replace(VNA, character_set=CharacterSet.LATIN_1))
    validate(latin)
    with pytest.raises(InvalidInput, match="character set"):
        validate(latin.replace(b"8859/1", b"UNICODE UTF-8"))
    with pytest.raises(InvalidInput, match="character set"):
        validate(latin.replace(b"8859/1", b"8859/42"))


def test_what_validation_says_quotes_no_value() -> None:
    with pytest.raises(InvalidInput) as refused:
        validate(A08.replace("19700101", "19701301").encode())
    assert "19701301" not in refused.value.message
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("character_set", CharacterSet)
def test_every_character_set_carries_a_valid_message(character_set: CharacterSet) -> None:
    letters = {
        CharacterSet.ASCII: "O'Brien", CharacterSet.LATIN_1: "Müller", CharacterSet.LATIN_2: "Łukasz",
        CharacterSet.CYRILLIC: "Иванов", CharacterSet.GREEK: "Νίκος", CharacterSet.LATIN_5: "Yıldız",
        CharacterSet.LATIN_9: "Œuvre", CharacterSet.JAPANESE: "山田", CharacterSet.UTF_8: "홍길동",
    }  # fmt: skip
    message = a08(replace(JOHN, name=letters[character_set]), settings=replace(VNA, character_set=character_set))
    named = "" if character_set is CharacterSet.ASCII else character_set.value
    assert field(message, "MSH", 18) == named
    assert field(message, "PID", 5) == letters[character_set]
    validate(message)


def test_a_moment_in_utc_is_written_with_its_offset() -> None:
    assert field(a08(recorded_at=datetime(2026, 1, 1, tzinfo=UTC)), "EVN", 2) == "20260101000000+0000"
