"""Escaping, character sets and the tolerant reader of segments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.adt import CharacterSet
from archsync.errors import InvalidInput
from archsync.messages.hl7_text import CODECS, decode_text, encode_text, escape, parse_segments, unescape


@pytest.mark.parametrize(
    ("leaf", "escaped"),
    [
        ("a|b^c&d~e\\f", "a\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f"),
        ("\\F\\", "\\E\\F\\E\\"),
        ("\\.br\\", "\\E\\.br\\E\\"),
        ("x\\T", "x\\E\\T"),
        ("O'Brien", "O'Brien"),
        ("山田|太郎", "山田\\F\\太郎"),
        ("a\rb", "a\\.br\\b"),
        ("a\r\nb\nc", "a\\.br\\b\\.br\\c"),
        ("a\x0bb\x1cc\x00d\x7fe\x85f", "abcdef"),
        ('""', "\\X2222\\"),
        ('"a"', '"a"'),
        ("", ""),
    ],
)
def test_a_value_is_escaped_so_that_nothing_in_it_is_structure(leaf: str, escaped: str) -> None:
    assert escape(leaf) == escaped


@given(st.text(st.characters(exclude_categories=("Cc",))))
def test_a_value_without_control_characters_survives_escaping(leaf: str) -> None:
    assert unescape(escape(leaf)) == leaf


@given(st.text(st.sampled_from("\\|^&~FSTREX.br20\"'é")))
def test_a_value_that_looks_like_an_escape_survives_escaping(leaf: str) -> None:
    assert unescape(escape(leaf)) == leaf


@given(st.text())
def test_an_escaped_value_holds_no_delimiter_and_no_control_character(leaf: str) -> None:
    escaped = escape(leaf)
    assert not set(escaped) & {"|", "^", "&", "~", "\r", "\n", "\x0b", "\x1c"}
    assert escaped != '""'


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("M\\XFC\\ller", "Müller"),
        ("\\X0D\\", "\r"),
        ("\\H\\bold\\N\\", "\\H\\bold\\N\\"),
        ("\\XF\\", "\\XF\\"),
        ("a\\", "a\\"),
        ("\\Zunknown\\", "\\Zunknown\\"),
    ],
)
def test_sequences_of_other_senders_are_understood_or_left_alone(text: str, plain: str) -> None:
    assert unescape(text) == plain


def test_delimiters_of_other_senders_are_honoured() -> None:
    assert unescape("a!F!b!S!c!E!d", "#*%!$") == "a#b*c!d"


@pytest.mark.parametrize("character_set", CharacterSet)
@given(text=st.text(st.characters(exclude_categories=("Cc",))))
def test_what_can_be_encoded_comes_back_and_the_rest_is_refused(character_set: CharacterSet, text: str) -> None:
    named = "" if character_set is CharacterSet.ASCII else character_set.value
    message = f"MSH|^~\\&||||||||||||||||{named}\r{text}\r"
    try:
        text.encode(CODECS[character_set])
    except UnicodeEncodeError:
        with pytest.raises(InvalidInput, match="lacks"):
            encode_text(message, character_set)
        return
    encoded = encode_text(message, character_set)
    assert not {0x0B, 0x1C} & set(encoded)
    assert decode_text(encoded) == message


def test_a_half_of_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidInput):
        encode_text("\ud800", CharacterSet.UTF_8)


def test_japanese_returns_to_ascii_before_each_delimiter() -> None:
    encoded = encode_text("山田^太郎|\r", CharacterSet.JAPANESE)
    assert b"\x1b(B^" in encoded
    assert b"\x1b(B|" in encoded


@pytest.mark.parametrize("named", ["", "ASCII"])
def test_a_message_without_a_named_set_is_ascii(named: str) -> None:
    header = f"MSH|^~\\&|||||||||||||||{'|' + named if named else ''}\r"
    assert decode_text(header.encode()) == header
    with pytest.raises(InvalidInput):
        decode_text(header.encode() + b"PID|\xfc\r")


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n", "\r\r"])
@pytest.mark.parametrize("before", ["", "\ufeff", " \r\n", "ï»¿"])
def test_segments_are_found_whatever_ends_them(line_end: str, before: str) -> None:
    segments = parse_segments(f"{before}MSH|^~\\&|A|B{line_end}MSA|AA|1{line_end}")
    assert [segment.name for segment in segments] == ["MSH", "MSA"]
    assert segments[0].field(1) == "|"
    assert segments[0].field(2) == "^~\\&"
    assert segments[0].field(3) == "A"
    assert segments[0].field(99) == ""
    assert segments[1].field(2) == "1"


def test_components_are_read_with_the_senders_own_delimiters() -> None:
    msh, err = parse_segments("MSH#*%!$#A\rERR##PID*1*3%PV1#204*x!F!y$z\r")
    assert msh.delimiters == "#*%!$"
    assert err.component(2, 1) == "PID"
    assert err.repetitions(2) == ["PID*1*3", "PV1"]
    assert err.component(3, 2, 1) == "x#y"
    assert err.component(3, 2, 2) == "z"
    assert err.component(3, 7) == ""


def test_short_delimiters_are_completed() -> None:
    assert parse_segments("MSH|^|A\r")[0].delimiters == "|^~\\&"
    assert parse_segments("MSH|^~\\&#|A\r")[0].delimiters == "|^~\\&"


@pytest.mark.parametrize("text", ["", "\r", "PID|1", "MSH", "MSH|", "MSHA^~", "xMSH|^~\\&"])
def test_what_names_no_delimiters_has_no_segments(text: str) -> None:
    assert parse_segments(text) == []


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    parse_segments(text)
    parse_segments("MSH|^~\\&|" + text)
