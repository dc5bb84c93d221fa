"""Settings: from text to typed values and back, with errors that name what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.settings import between, format_value, parse_settings, parse_value, setting, setting_fields
from archsync.errors import ConfigurationError


class Colour(StrEnum):
    RED = "Red"
    DARK_BLUE = "dark-blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    text: str = setting("A text.", example="x")
    number: int = setting("A whole number.", default=1, check=between(1, 9))
    share: float = setting("A number.", default=0.5, unit="s", check=between(0, 1_000_000))
    flag: bool = setting("A flag.", default=False)
    colour: Colour = setting("A colour.", default=Colour.RED)
    names: tuple[str, ...] = setting("Names.", default=())
    perhaps: str | None = setting(
        "Perhaps a text.", default=None, check=lambda v: None if v == "good" else "must be good"
    )
    not_a_setting: int = 0


def problem(name: str, value: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_value(Sample, name, value)
    return caught.value.message


def test_only_declared_fields_are_settings() -> None:
    assert list(setting_fields(Sample)) == ["text", "number", "share", "flag", "colour", "names", "perhaps"]


@pytest.mark.parametrize(
    ("name", "value", "typed"),
    [
        ("text", " plain ", "plain"),
        ("text", 12, "12"),
        ("number", "7", 7),
        ("share", "2.5", 2.5),
        ("share", 3, 3.0),
        ("flag", "yes", True),
        ("flag", "OFF", False),
        ("flag", True, True),
        ("colour", "red", Colour.RED),
        ("colour", "dark_blue", Colour.DARK_BLUE),
        ("colour", Colour.DARK_BLUE, Colour.DARK_BLUE),
        ("names", "a, b,,c ", ("a", "b", "c")),
        ("names", ["a", "b"], ("a", "b")),
        ("names", "", ()),
        ("names", None, ()),
        ("perhaps", "", None),
        ("perhaps", None, None),
        ("perhaps", "good", "good"),
    ],
)
def test_values_of_any_origin_become_typed(name, value, typed) -> None:
    assert parse_value(Sample, name, value) == typed
    assert type(parse_value(Sample, name, value)) is type(typed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text", None, "text: must be text (got None)"),
        ("text", ["a"], "text: must be text (got ['a'])"),
        ("number", "0", "number: must be from 1 to 9 (got '0')"),
        ("number", "10", "number: must be from 1 to 9 (got '10')"),
        ("number", "2.5", "number: must be a whole number (got '2.5')"),
        ("number", 2.5, "number: must be a whole number (got 2.5)"),
        ("number", True, "number: must be a number (got True)"),
        ("share", "nan", "share: must be from 0 to 1000000 (got 'nan')"),
        ("share", "inf", "share: must be from 0 to 1000000 (got 'inf')"),
        ("share", "soon", "share: must be a number (got 'soon')"),
        ("flag", "perhaps", "flag: must be true or false (got 'perhaps')"),
        ("colour", "green", "colour: must be one of Red, dark-blue (got 'green')"),
        ("names", 5, "names: must be a list (got 5)"),
        ("perhaps", "bad", "perhaps: must be good (got 'bad')"),
        ("nmber", 1, "unknown setting 'nmber'; did you mean 'number'?"),
        ("zzz", 1, "unknown setting 'zzz'"),
        ("not_a_setting", 1, "unknown setting 'not_a_setting'"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_reason(name, value, message) -> None:
    assert problem(name, value) == message


def test_all_bad_values_are_reported_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(Sample, {"number": "x", "text": "fine", "flg": 1})
    assert caught.value.message == (
        "number: must be a whole number (got 'x'); unknown setting 'flg'; did you mean 'flag'?"
    )


NAMES = st.lists(st.text("abcXYZ09_", min_size=1), max_size=4).map(tuple)


@given(
    st.fixed_dictionaries(
        {
            "text": st.text("abc -.", min_size=1).map(str.strip),
            "number": st.integers(1, 9),
            "share": st.floats(0, 1_000_000),
            "flag": st.booleans(),
            "colour": st.sampled_from(Colour),
            "names": NAMES,
            "perhaps": st.sampled_from([None, "good"]),
        }
    )
)
def test_what_is_written_is_read_back_the_same(values) -> None:
    written = {name: format_value(value) for name, value in values.items()}
    assert parse_settings(Sample, written) == values
