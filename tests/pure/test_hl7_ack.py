"""Acknowledgements: every form that peers use is read, and each answer of the table has its consequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.errors import (
    ConfigurationError,
    DestinationMisconfigured,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
)
from archsync.messages.hl7_ack import (
    ACK_TABLE,
    Ack,
    AckError,
    AckResult,
    ack_error,
    explain_ack,
    parse_ack,
    parse_ack_overrides,
    read_header,
)

MSH = "MSH|^~\\&|VNA|SITE|ARCHSYNC|SITE|20260101||ACK^A08^ACK|1|P|2.5.1"


def ack(*lines: str, line_end: str = "\r", encoding: str = "utf-8") -> Ack:
    return parse_ack("".join(line + line_end for line in lines).encode(encoding))


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.1", "2.3.1", "2.5.1", "2.8.2", "2.9", ""])
@pytest.mark.parametrize("kind", ["ACK^A08^ACK", "ACK^A08", "ACK", ""])
@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
def test_an_acknowledgement_of_any_version_is_read(version: str, kind: str, line_end: str) -> None:
    read = ack(f"MSH|^~\\&|||||||{kind}||P|{version}", "MSA|AA|CTL1", line_end=line_end)
    assert read == Ack("AA", "CTL1")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "utf-8-sig"])
def test_an_acknowledgement_in_any_character_set_is_read(encoding: str) -> None:
    assert ack(MSH, "MSA|AE|CTL1|Patient Müller unbekannt", encoding=encoding) == Ack("AE", "CTL1")


def test_an_acknowledgement_with_other_delimiters_is_read() -> None:
    read = ack("MSH#*%!$#VNA", "MSA#AR#CTL1", "ERR##MRG*1*1#204*Unknown key#E")
    assert read == Ack("AR", "CTL1", (AckError("MRG-1", "204", "E"),))


@pytest.mark.parametrize(
    ("err", "error"),
    [
        ("ERR||PID^1^3|204^Unknown key identifier^HL70357|E|||Jane Doe unknown", AckError("PID-3", "204", "E")),
        ("ERR||MSH^1^12|203", AckError("MSH-12", "203")),
        ("ERR|||207|W", AckError("", "207", "W")),
        ("ERR||PID", AckError("PID")),
        ("ERR|PID^1^3^204&Unknown key&HL70357", AckError("PID-3", "204")),
        ("ERR|PID^1^3^101", AckError("PID-3", "101")),
        ("ERR|^^^207", AckError("", "207")),
        ("ERR||Jane Doe^1^3|204", AckError("", "204")),
        ("ERR||PID^1^3|Jane Doe|Jane", AckError("PID-3")),
        ("ERR|PID^1^3^Jane Doe", AckError("PID-3")),
    ],
)
def test_an_error_is_read_in_old_and_new_form_without_its_texts(err: str, error: AckError) -> None:
    assert ack(MSH, "MSA|AE|CTL1", err).errors == (error,)


def test_repeated_errors_are_all_read_and_the_first_that_is_no_warning_counts() -> None:
    read = ack(MSH, "MSA|AE|CTL1", "ERR||PID^1^5|0|I", "ERR||PID^1^8|103|W", "ERR||PID^1^3|101|E", "ERR||PV1|207|E")
    assert [error.code for error in read.errors] == ["0", "103", "101", "207"]
    assert read.error == AckError("PID-3", "101", "E")
    old = ack(MSH, "MSA|AE|CTL1", "ERR|PID^1^3^101~PV1^1^2^207")
    assert [error.code for error in old.errors] == ["101", "207"]


def test_a_code_in_msa_6_counts_where_no_err_has_one() -> None:
    assert ack(MSH, "MSA|AR|CTL1|text|||207^busy").error.code == "207"
    assert ack(MSH, "MSA|AR|CTL1|text|||207", "ERR|||204").error.code == "204"


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"hello", MSH.encode(), MSH.encode() + b"\rMSA|OK|1", b"MSA|AA|1", MSH.encode() + b"\rMSA|"]
)
def test_what_is_no_acknowledgement_is_no_answer(data: bytes) -> None:
    with pytest.raises(OutcomeUnknown) as unknown:
        parse_ack(data)
    assert unknown.value.code == "hl7-invalid-ack"


@given(st.binary())
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for message in (data, MSH.encode() + b"\rMSA|" + data, MSH.encode() + b"\rMSA|AE|1\rERR|" + data):
        try:
            parse_ack(message)
        except OutcomeUnknown:
            continue


def test_the_header_of_our_own_message_is_read() -> None:
    header = read_header(b"MSH|^~\\&|A|B|C|D|1||ADT^A40^ADT_A39|CTL1|P|2.5.1||||||8859/1\rPID|||\xfc\r")
    assert (header.control_id, header.trigger) == ("CTL1", "A40")
    assert read_header(b"nothing").control_id == ""


# -- consequences ----------------------------------------------------------------------------------------------------

CONTENT, UNSUPPORTED = ("100", "101", "102", "103"), ("200", "201", "202", "203")
ACCEPTED, REFUSED, STOP, BUSY = AckResult.ACCEPTED, AckResult.REFUSED, AckResult.STOP, AckResult.BUSY


def answer(code: str, error: str = "", location: str = "", severity: str = "E") -> Ack:
    errors = (AckError(location, error, severity),) if error or location else ()
    return Ack(code, "CTL1", errors)


@pytest.mark.parametrize(
    ("given_answer", "trigger", "result", "code"),
    [
        (answer("AA"), "A08", ACCEPTED, "hl7-accepted"),
        (answer("CA"), "A08", ACCEPTED, "hl7-accepted"),
        (answer("AA", "207", severity="W"), "A08", ACCEPTED, "hl7-accepted"),
        (answer("AA", "103", severity="I"), "A08", ACCEPTED, "hl7-accepted"),
        (answer("AA", "0", severity=""), "A08", ACCEPTED, "hl7-accepted"),
        (answer("AA", "207", severity="E"), "A08", BUSY, "hl7-busy"),
        (answer("AA", "", "PID-3", severity="E"), "A08", REFUSED, "hl7-contradiction"),
        *[(answer(a, c), "A08", REFUSED, "hl7-content") for a in ("AE", "AR", "CE") for c in CONTENT],
        *[(answer(a, c), "A40", STOP, "hl7-not-supported") for a in ("AE", "AR") for c in UNSUPPORTED],
        (answer("AE"), "A08", REFUSED, "hl7-error"),
        (answer("CE"), "A08", REFUSED, "hl7-error"),
        (answer("AE", "999"), "A08", REFUSED, "hl7-error"),
        (answer("AR"), "A08", BUSY, "hl7-rejected"),
        (answer("CR"), "A08", BUSY, "hl7-rejected"),
        (answer("AR", "999"), "A08", BUSY, "hl7-rejected"),
        (answer("AR", "", "MSH-12"), "A08", STOP, "hl7-header-refused"),
        (answer("CR", "", "MSH"), "A08", STOP, "hl7-header-refused"),
        (answer("AE", "", "MSH-12"), "A08", REFUSED, "hl7-error"),
        *[(answer(a, "204", "PID-3"), t, REFUSED, "adt-unknown-patient") for a in ("AE", "AR") for t in ("A08", "A31")],
        (answer("AR", "204", "PID-3"), "A40", REFUSED, "adt-unknown-patient"),
        (answer("AR", "204", "MRG-1"), "A40", REFUSED, "adt-merge-unclear"),
        (answer("AR", "204", "MRG-1"), "A47", REFUSED, "adt-merge-unclear"),
        (answer("AR", "205", "PID-3"), "A47", REFUSED, "adt-identifier-in-use"),
        *[(answer(a, c), "A08", BUSY, "hl7-busy") for a in ("AE", "AR", "CE") for c in ("206", "207")],
    ],
)
def test_the_error_code_counts_first_and_the_acknowledgement_code_second(
    given_answer: Ack, trigger: str, result: AckResult, code: str
) -> None:
    rule = explain_ack(given_answer, trigger)
    assert (rule.result, rule.code) == (result, code)


def test_an_unknown_patient_is_waited_for_while_a_merge_is_pending() -> None:
    unknown = answer("AR", "204", "PID-3")
    assert explain_ack(unknown, "A08", merge_is_pending=True).code == "adt-merge-first"
    assert explain_ack(unknown, "A08", merge_is_pending=True).result is BUSY
    assert explain_ack(unknown, "A40", merge_is_pending=True).result is REFUSED


def test_a_merge_that_is_refused_after_an_unanswered_attempt_was_applied() -> None:
    again = answer("AR", "204", "MRG-1")
    assert explain_ack(again, "A40", was_unanswered=True).result is ACCEPTED
    assert explain_ack(again, "A40", was_unanswered=True).code == "adt-already-merged"
    assert explain_ack(again, "A08", was_unanswered=True).result is REFUSED
    assert explain_ack(answer("AR", "204", "PID-3"), "A40", was_unanswered=True).result is REFUSED


@pytest.mark.parametrize(
    ("texts", "given_answer", "result"),
    [
        (["AE=busy"], answer("AE"), BUSY),
        (["AE=busy"], answer("AE", "999"), BUSY),
        (["AE=busy"], answer("AE", "101"), REFUSED),
        (["AE=busy"], answer("AR"), BUSY),
        (["AR=refused"], answer("AR"), REFUSED),
        (["AR=refused"], answer("AR", "207"), BUSY),
        (["207=refused"], answer("AR", "207"), REFUSED),
        (["207=refused"], answer("AE", "207"), REFUSED),
        (["AR/204=accepted"], answer("AR", "204"), ACCEPTED),
        (["AR/204=accepted"], answer("AE", "204"), REFUSED),
        (["204=stop", "AR/204=accepted"], answer("AR", "204"), ACCEPTED),
        (["AE=accepted"], answer("AA"), ACCEPTED),
        (["AE=busy", "999=stop"], answer("AE", "999"), STOP),
    ],
)
def test_a_destination_may_mean_an_answer_differently(texts: list[str], given_answer: Ack, result: AckResult) -> None:
    assert explain_ack(given_answer, "A08", overrides=parse_ack_overrides(texts)).result is result


@pytest.mark.parametrize(
    "text", ["AA=refused", "AE", "AE=later", "20=busy", "204", "=busy", "AE/=busy", "AE=busy,AR=busy"]
)
def test_an_override_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="ack_overrides"):
        parse_ack_overrides([text])


@given(
    st.sampled_from(["AE", "AR", "CE", "CR", "AA"]),
    st.text(max_size=4),
    st.sampled_from(["", "MSH-9", "PID-3", "MRG-1"]),
    st.sampled_from(["A08", "A31", "A40", "A47", "other"]),
    st.booleans(),
    st.booleans(),
)
def test_every_answer_has_a_meaning(
    code: str, error: str, location: str, trigger: str, was_unanswered: bool, merge_is_pending: bool
) -> None:
    given_answer = answer(code, error, location)
    rule = explain_ack(given_answer, trigger, was_unanswered=was_unanswered, merge_is_pending=merge_is_pending)
    assert (ack_error(given_answer, rule, "peer") is None) == (rule.result is ACCEPTED)


@pytest.mark.parametrize(
    ("given_answer", "kind"),
    [
        (answer("AE"), PeerRefused),
        (answer("AR", "203"), DestinationMisconfigured),
        (answer("AR", "207"), PeerUnavailable),
    ],
)
def test_an_answer_becomes_the_error_that_says_what_happens_next(given_answer: Ack, kind: type[Exception]) -> None:
    rule = explain_ack(given_answer, "A08")
    error = ack_error(given_answer, rule, "vna:2575")
    assert type(error) is kind
    assert error.code == rule.code
    assert "vna:2575" in error.message
    assert given_answer.code in error.message
    assert given_answer.error.code in error.message


def test_a_busy_receiver_was_reached() -> None:
    busy = answer("AR", "207")
    error = ack_error(busy, explain_ack(busy, "A08"), "peer")
    assert isinstance(error, PeerUnavailable)
    assert error.reached_peer


def test_no_text_of_the_peer_gets_into_an_error() -> None:
    read = ack(MSH, "MSA|AE|CTL1|Doe^Jane 4711", "ERR||PID^Doe^4711|Doe 4711^Jane|E|||Doe|Jane 4711")
    error = ack_error(read, explain_ack(read, "A08"), "peer")
    assert error is not None
    for word in ("Doe", "Jane", "4711"):
        assert word not in error.message + error.next_step + repr(read)


def test_every_row_of_the_table_can_be_reached() -> None:
    reached = {
        explain_ack(
            answer(code, error, location), trigger, was_unanswered=was_unanswered, merge_is_pending=pending
        ).code
        for code in ("AA", "AE", "AR")
        for error in ("", "100", "200", "204", "205", "207")
        for location in ("", "MSH-1", "MRG-1", "PID-3")
        for trigger in ("A08", "A40")
        for was_unanswered in (False, True)
        for pending in (False, True)
    }
    assert {row.code for row in ACK_TABLE} <= reached
