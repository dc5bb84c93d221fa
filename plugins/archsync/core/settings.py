"""Settings as dataclass fields that explain themselves: one table feeds the CLI, the YAML checker and the docs.

A field made by :func:`setting` carries its meaning, unit, example and check in its metadata; :func:`parse_settings`
turns untyped values (YAML, command line) into typed ones and names every bad one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, get_type_hints

from archsync.errors import ConfigurationError

Check = Callable[[Any], str | None]


def setting(
    meaning: str, *, default: Any = dataclasses.MISSING, unit: str = "", example: str = "", check: Check | None = None
) -> Any:
    """Declare a dataclass field with its meaning, unit, example and an optional check (returns what is wrong)."""
    metadata = {"meaning": meaning, "unit": unit, "example": example, "check": check}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def same_as(cls: type, name: str, **changes: Any) -> Any:
    """Declare a field like the setting ``name`` of another class, with its default and all that is said about it."""
    field = setting_fields(cls)[name]
    return setting(**{"default": field.default, **field.metadata, **changes})


def check_filled(text: str) -> str | None:
    """Check that a text says something."""
    return None if text.strip() else "must not be empty"


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The check that a number lies in ``low``..``high``; as text, ``from 1 to 65535``."""

    low: float
    high: float

    def __call__(self, value: float) -> str | None:
        return None if self.low <= value <= self.high else f"must be {self}"

    def __str__(self) -> str:
        return f"from {_plain(self.low)} to {_plain(self.high)}"


def between(low: float, high: float) -> Range:
    """Check that a number lies in ``low``..``high``."""
    return Range(low, high)


def format_value(value: Any) -> str:
    """Write a typed value as :func:`parse_value` reads it: ``true``, ``0.5``, ``CITY,NORTH``; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Enum):
        return str(value.value)
    return _plain(value) if isinstance(value, float) else str(value)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


def setting_fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of ``cls`` made by :func:`setting`, by name, in order."""
    return {f.name: f for f in dataclasses.fields(cls) if "meaning" in f.metadata}


def parse_value(cls: type, name: str, value: Any) -> Any:
    """Turn one untyped value into the type of field ``name`` of ``cls`` and check it.

    Raises:
        ConfigurationError: unknown name, wrong type or value; the message says which and why.
    """
    fields = setting_fields(cls)
    if name not in fields:
        close = _closest(name, fields)
        hint = f"; did you mean {close!r}?" if close else ""
        unknown = f"unknown setting {name!r}{hint}"
        raise ConfigurationError(unknown, code="unknown-setting", fields={name: unknown})
    try:
        typed = _convert(_types(cls)[name], value)
    except (TypeError, ValueError) as exc:
        raise wrong_setting(name, str(exc)) from exc
    problem = (check := fields[name].metadata["check"]) and typed is not None and check(typed)
    if problem:
        raise wrong_setting(name, f"{problem} (got {value!r})")
    return typed


def read_stored(cls: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``cls`` in a row of a table that holds only what :func:`parse_value` gave, for its constructor.

    Pages read hundreds of destinations: nothing is checked again, and only enums and lists are converted.
    """
    return {
        name: row[name] if convert is None or row[name] is None else convert(row[name])
        for name, convert in _stored_types(cls).items()
    }


@cache
def _stored_types(cls: type) -> dict[str, Callable[[Any], Any] | None]:
    """Setting → what makes its value of the stored one; None: it is stored as it is."""
    converters: dict[str, Callable[[Any], Any] | None] = {}
    for name in setting_fields(cls):
        annotation = _types(cls)[name]
        if getattr(annotation, "__origin__", None) is tuple:
            converters[name] = tuple
            continue
        kinds = getattr(annotation, "__args__", (annotation,))
        converters[name] = next((k for k in kinds if isinstance(k, type) and issubclass(k, Enum)), None)
    return converters


def wrong_setting(name: str, sentence: str, *others: str) -> ConfigurationError:
    """What is wrong with a setting, or with several that do not go together, as an error that names them."""
    names = (name, *others)
    message = f"{' and '.join(names)}: {sentence}"
    return ConfigurationError(message, code="bad-setting", fields=dict.fromkeys(names, message if others else sentence))


def as_one(problems: Sequence[ConfigurationError]) -> ConfigurationError:
    """All that is wrong with some settings in one error; its code and next step are theirs where they are the same."""
    codes, next_steps = {p.code for p in problems}, {p.next_step for p in problems}
    return ConfigurationError(
        "; ".join(p.message for p in problems),
        code=codes.pop() if len(codes) == 1 else "bad-setting",
        next_step=next_steps.pop() if len(next_steps) == 1 else None,
        fields={name: sentence for p in reversed(problems) for name, sentence in p.fields.items()},
    )


@cache
def _types(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def check_settings(cls: type, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[ConfigurationError]]:
    """Parse several values with :func:`parse_value`: the typed ones, and what is wrong with each of the others."""
    typed: dict[str, Any] = {}
    problems: list[ConfigurationError] = []
    for name, value in values.items():
        try:
            typed[name] = parse_value(cls, name, value)
        except ConfigurationError as exc:
            problems.append(exc)
    return typed, problems


def parse_settings(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Parse several values with :func:`parse_value`; all problems are reported in one error."""
    typed, problems = check_settings(cls, values)
    if problems:
        raise as_one(problems)
    return typed


def _closest(name: str, known: Mapping[str, Any]) -> str | None:
    import difflib

    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def _convert(wanted: Any, value: Any) -> Any:
    """Convert ``value`` to the (simple) annotation ``wanted``: str, int, float, bool, enum, tuple of str, optional."""
    args = getattr(wanted, "__args__", ())
    if type(None) in args:
        if value is None or value == "":
            return None
        return _convert(next(a for a in args if a is not type(None)), value)
    if getattr(wanted, "__origin__", None) is tuple:
        if value is None:
            return ()
        if not isinstance(value, str | list | tuple):
            raise ValueError(f"must be a list (got {value!r})")
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
        return tuple(_convert(str, item) for item in items if item != "")
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return _convert_enum(wanted, value)
    if wanted is bool:
        return _convert_bool(value)
    if wanted in (int, float):
        if isinstance(value, bool):
            raise ValueError(f"must be a number (got {value!r})")
        try:
            if wanted is int and isinstance(value, float) and not value.is_integer():
                raise ValueError
            return wanted(value)
        except (TypeError, ValueError):
            kind = "a whole number" if wanted is int else "a number"
            raise ValueError(f"must be {kind} (got {value!r})") from None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"must be text (got {value!r})")
    return str(value).strip()


def _convert_enum(wanted: type[Enum], value: Any) -> Enum:
    for member in wanted:
        if value is member or str(value).casefold() in (str(member.value).casefold(), member.name.casefold()):
            return member
    raise ValueError(f"must be one of {', '.join(str(m.value) for m in wanted)} (got {value!r})")


def _convert_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    answer = known.get(str(value).casefold())
    if answer is None:
        raise ValueError(f"must be true or false (got {value!r})")
    return answer
