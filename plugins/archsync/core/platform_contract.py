"""The platform contract: the four views archsync reads, column by column.

One description for three readers: the SQL that fetches rows, the check of a site's mapping, and ``docs/platform.md``.
The reader asks PostgreSQL for every value as text; :meth:`Column.parse` makes it a typed one, or says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum, auto
from typing import Any

from archsync.core.study import Priority, RemovalReason

# PS3.5 section 9.1, but for leading zeros in a component: common in old data, and archives take them.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_MAX_LENGTH = 64


class Kind(Enum):
    """What a column holds."""

    KEY = auto()
    TEXT = auto()
    UID = auto()
    INTEGER = auto()
    DATE = auto()
    TIME = auto()
    MOMENT = auto()
    FLAG = auto()


#: The type to cast to, for the hint of a check; and the types of PostgreSQL that are fine as they are.
SQL_TYPES: Mapping[Kind, tuple[str, ...]] = {
    Kind.KEY: ("text", "character varying", "integer", "bigint", "smallint", "numeric", "uuid"),
    Kind.TEXT: ("text", "character varying", "character"),
    Kind.UID: ("text", "character varying"),
    Kind.INTEGER: ("bigint", "integer", "smallint", "numeric"),
    Kind.DATE: ("date",),
    Kind.TIME: ("time without time zone",),
    Kind.MOMENT: ("timestamp with time zone",),
    Kind.FLAG: ("boolean",),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a view; ``allowed`` and ``minimum`` bound its values, ``index`` says that reading needs one."""

    name: str
    kind: Kind
    required: bool = True
    allowed: tuple[str, ...] = ()
    minimum: int | None = None
    index: bool = False

    def parse(self, text: str | None) -> Any:
        """Turn PostgreSQL's text (ISO dates, UTC) into the column's value; None for an optional null.

        Raises:
            ValueError: the contract does not allow it; the message says why, without the value.
        """
        if text is None:
            if self.required:
                raise ValueError("is null")
            return None
        if self.allowed and text not in self.allowed:
            raise ValueError(f"is none of {', '.join(self.allowed)}")
        value = _PARSERS[self.kind](text)
        if self.minimum is not None and value < self.minimum:
            raise ValueError(f"is below {self.minimum}")
        return value


@dataclass(frozen=True, slots=True)
class View:
    """A view of the contract; ``key`` is the column that names a row."""

    name: str
    columns: tuple[Column, ...]

    @property
    def key(self) -> str:
        """The column that names a row: the first."""
        return self.columns[0].name

    @property
    def has_revision(self) -> bool:
        """Whether its changes are followed row by row."""
        return self.columns[-1].name == "revision"

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


def is_uid(text: str) -> bool:
    """Tell whether ``text`` can be a DICOM UID: digits in dotted components, at most 64 characters."""
    return len(text) <= _UID_MAX_LENGTH and _UID.fullmatch(text) is not None


def _parse_uid(text: str) -> str:
    if not is_uid(text):
        raise ValueError("is not a DICOM UID")
    return text


def _parse_key(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("is not a whole number") from None


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a date of the years 1 to 9999") from None


def _parse_time(text: str) -> time:
    try:
        value = time.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a time of day") from None
    if value.tzinfo is not None:
        raise ValueError("has a time zone; the contract wants local time without one")
    return value


def _parse_moment(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a moment of the years 1 to 9999") from None
    if value.tzinfo is None:
        raise ValueError("has no time zone")
    return value


def _parse_flag(text: str) -> bool:
    flag = {"true": True, "false": False}.get(text)
    if flag is None:
        raise ValueError("is not a boolean")
    return flag


_PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    Kind.KEY: _parse_key,
    Kind.TEXT: str,
    Kind.UID: _parse_uid,
    Kind.INTEGER: _parse_integer,
    Kind.DATE: _parse_date,
    Kind.TIME: _parse_time,
    Kind.MOMENT: _parse_moment,
    Kind.FLAG: _parse_flag,
}

_REVISION = Column("revision", Kind.INTEGER, index=True)

FACILITY = View(
    "facility",
    (
        Column("facility_id", Kind.KEY),
        Column("name", Kind.TEXT),
        Column("facility_group", Kind.TEXT),
        Column("authority_namespace", Kind.TEXT, required=False),
        Column("authority_universal_id", Kind.TEXT, required=False),
        Column("authority_universal_id_type", Kind.TEXT, required=False),
        Column("hl7_receiving_facility", Kind.TEXT, required=False),
    ),
)

PATIENT = View(
    "patient",
    (
        Column("patient_key", Kind.KEY, index=True),
        Column("patient_id", Kind.TEXT),
        Column("issuer_of_patient_id", Kind.TEXT, required=False),
        Column("name", Kind.TEXT),
        Column("birth_date", Kind.DATE, required=False),
        Column("sex", Kind.TEXT, required=False),
        Column("merged_into_patient_key", Kind.KEY, required=False, index=True),
        _REVISION,
    ),
)

STUDY = View(
    "study",
    (
        Column("study_key", Kind.KEY, index=True),
        Column("study_instance_uid", Kind.UID, index=True),
        Column("patient_key", Kind.KEY, index=True),
        Column("facility_id", Kind.KEY),
        Column("accession_number", Kind.TEXT, required=False, index=True),
        Column("study_date", Kind.DATE, required=False),
        Column("study_time", Kind.TIME, required=False),
        Column("description", Kind.TEXT, required=False),
        Column("referring_physician", Kind.TEXT, required=False),
        Column("study_id", Kind.TEXT, required=False),
        Column("exam_status", Kind.TEXT),
        Column("priority", Kind.TEXT, allowed=tuple(priority.name for priority in Priority)),
        Column("on_hold", Kind.FLAG),
        _REVISION,
    ),
)

INSTANCE = View(
    "instance",
    (
        Column("instance_key", Kind.KEY, index=True),
        Column("study_key", Kind.KEY, index=True),
        Column("series_instance_uid", Kind.UID),
        Column("series_number", Kind.INTEGER, required=False),
        Column("modality", Kind.TEXT, required=False),
        Column("sop_instance_uid", Kind.UID),
        Column("sop_class_uid", Kind.UID),
        Column("transfer_syntax_uid", Kind.UID),
        Column("instance_number", Kind.INTEGER, required=False),
        Column("location", Kind.TEXT),
        Column("size_bytes", Kind.INTEGER, minimum=0),
        Column("content_version", Kind.INTEGER, minimum=1),
        Column("removed_at", Kind.MOMENT, required=False),
        Column("removal_reason", Kind.TEXT, required=False, allowed=tuple(reason.value for reason in RemovalReason)),
        Column("replaces_instance_key", Kind.KEY, required=False, index=True),
        _REVISION,
    ),
)

VIEWS = (FACILITY, PATIENT, STUDY, INSTANCE)

#: The views whose changes are followed by revision.
FOLLOWED_VIEWS = tuple(view for view in VIEWS if view.has_revision)
