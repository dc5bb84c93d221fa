"""What may be said of every setting, for forms and tables: label, kind, default, unit, what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Any, get_args, get_type_hints

from archsync.core.settings import Range, setting_fields


class SettingKind(StrEnum):
    """What a setting holds."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    LIST = "list"


@dataclasses.dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting. ``default`` is None where it is needed, and where nothing is the default."""

    name: str
    label: str
    kind: SettingKind
    meaning: str
    is_required: bool
    default: Any
    unit: str
    example: str
    choices: tuple[str, ...]
    range: Range | None


_IN_CAPITALS = {"ae": "AE", "tls": "TLS", "adt": "ADT", "iocm": "IOCM", "ca": "CA"}


def describe_settings(cls: type) -> tuple[SettingInfo, ...]:
    """The settings of a class, in their order."""
    hints = get_type_hints(cls)
    return tuple(_describe(field, hints[field.name]) for field in setting_fields(cls).values())


def group_settings(cls: type, groups: Mapping[str, str]) -> dict[str, tuple[SettingInfo, ...]]:
    """The settings of a class under titles; ``groups``: title → the setting with which its group begins."""
    starts = {first: title for title, first in groups.items()}
    grouped: dict[str, tuple[SettingInfo, ...]] = {}
    title = ""
    for info in describe_settings(cls):
        title = starts.pop(info.name, title)
        grouped[title] = (*grouped.get(title, ()), info)
    assert not starts, f"groups begin with settings that there are not: {starts}"
    return grouped


def _describe(field: dataclasses.Field[Any], wanted: Any) -> SettingInfo:
    is_required = field.default is dataclasses.MISSING
    if type(None) in get_args(wanted):
        wanted = next(kind for kind in get_args(wanted) if kind is not type(None))
    check = field.metadata["check"]
    return SettingInfo(
        name=field.name,
        label=label(field.name, field.metadata["unit"]),
        kind=_kind(wanted),
        meaning=field.metadata["meaning"],
        is_required=is_required,
        default=None if is_required else _plain(field.default),
        unit=field.metadata["unit"],
        example=field.metadata["example"],
        choices=tuple(str(m.value) for m in wanted) if _is_enum(wanted) else (),
        range=check if isinstance(check, Range) else None,
    )


def label(name: str, unit: str = "") -> str:
    """A setting's name for people: ``Called AE title``; its unit, which is said beside it, is left out."""
    words = name.split("_")
    if len(words) > 1 and words[-1] == unit:
        words.pop()
    words = [_IN_CAPITALS.get(word, word) for word in words]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _kind(wanted: Any) -> SettingKind:
    if _is_enum(wanted):
        return SettingKind.CHOICE
    if getattr(wanted, "__origin__", None) is tuple:
        return SettingKind.LIST
    kinds = {bool: SettingKind.BOOLEAN, int: SettingKind.INTEGER, float: SettingKind.NUMBER}
    return kinds.get(wanted, SettingKind.STRING)


def _is_enum(wanted: Any) -> bool:
    return isinstance(wanted, type) and issubclass(wanted, Enum)


def plain_settings(settings: Any) -> dict[str, Any]:
    """The settings of an object as plain values: words for enums, lists for tuples."""
    return {name: _plain(getattr(settings, name)) for name in setting_fields(type(settings))}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
