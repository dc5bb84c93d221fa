"""The platform contract: how values are read, and that its description for DBAs and its SQL say the same."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.platform_contract import FOLLOWED_VIEWS, VIEWS, Column, Kind, is_uid
from archsync.platformdb.watermark import Position, RevisionMode, explain_full_read

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.KEY, "0042", "0042"),
        (Kind.TEXT, "", ""),
        (Kind.UID, "1.2.840.10008.1.2", "1.2.840.10008.1.2"),
        (Kind.UID, "1.02.3", "1.02.3"),
        (Kind.INTEGER, "-7", -7),
        (Kind.DATE, "2026-02-28", date(2026, 2, 28)),
        (Kind.TIME, "13:04:05.25", time(13, 4, 5, 250_000)),
        (Kind.MOMENT, "2026-01-02 03:04:05.678+00", datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)),
        (Kind.MOMENT, "2026-01-02 03:04:05+05:30",
         datetime(2026, 1, 2, 3, 4, 5, 0, timezone(timedelta(hours=5, minutes=30)))),
        (Kind.FLAG, "true", True),
        (Kind.FLAG, "false", False),
    ],
)  # fmt: skip
def test_postgresqls_text_becomes_a_typed_value(kind, text, value):
    assert Column("c", kind).parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (Kind.KEY, "", "is empty"),
        (Kind.UID, "", "is not a DICOM UID"),
        (Kind.UID, "1.2.", "is not a DICOM UID"),
        (Kind.UID, "1.2 ", "is not a DICOM UID"),
        (Kind.UID, "1" * 65, "is not a DICOM UID"),
        (Kind.INTEGER, "1.5", "is not a whole number"),
        (Kind.DATE, "infinity", "is not a date"),
        (Kind.DATE, "20000-01-01", "is not a date"),
        (Kind.TIME, "24:00:00", "is not a time of day"),
        (Kind.TIME, "13:04:05+01", "has a time zone"),
        (Kind.MOMENT, "2026-01-02 03:04:05", "has no time zone"),
        (Kind.MOMENT, "-infinity", "is not a moment"),
        (Kind.FLAG, "1", "is not a boolean"),
    ],
)
def test_a_value_outside_the_contract_is_refused_without_being_quoted(kind, text, problem):
    with pytest.raises(ValueError, match=problem) as refusal:
        Column("c", kind).parse(text)
    assert not text or text not in str(refusal.value)


def test_null_is_nothing_where_allowed_and_refused_where_not():
    assert Column("c", Kind.DATE, required=False).parse(None) is None
    with pytest.raises(ValueError, match="is null"):
        Column("c", Kind.DATE).parse(None)


@given(st.text(alphabet="0123456789.", max_size=70))
def test_a_uid_is_digits_in_dotted_components(text):
    expected = len(text) <= 64 and all(part.isdecimal() for part in text.split("."))
    assert is_uid(text) is expected


@given(
    st.sampled_from(RevisionMode),
    st.integers(3, 2**63),
    st.lists(st.integers(0, 1000), max_size=4),
    st.tuples(*[st.integers(0, 2**63)] * len(FOLLOWED_VIEWS)),
)
def test_a_watermark_survives_being_stored_as_text(mode, floor, running, highest):
    snapshot = f"{floor}:{floor + 2000}:{','.join(str(floor + n) for n in running)}"
    position = Position(mode, "7.1.5", snapshot, floor + 2000, highest)
    assert Position.decode(position.encode()) == position
    assert position.floor == floor


@pytest.mark.parametrize(
    ("mode", "ceiling", "highest", "restored"),
    [
        (RevisionMode.TRANSACTION, 99, (5, 5, 5), True),
        (RevisionMode.TRANSACTION, 100, (1, 1, 1), False),
        (RevisionMode.SEQUENCE, 99, (5, 5, 5), False),
        (RevisionMode.SEQUENCE, 100, (5, 4, 5), True),
    ],
)
def test_a_history_that_went_back_is_noticed_by_what_the_mode_counts(mode, ceiling, highest, restored):
    last = Position(mode, "e", "90:100:", 100, (5, 5, 5))
    now = Position(mode, "e", "90:100:", ceiling, highest)
    assert (explain_full_read(last, now) is not None) is restored


def test_the_reference_schema_has_exactly_the_contracts_columns_in_its_order():
    schema = (ROOT / "include" / "platform" / "schema.sql").read_text(encoding="utf-8")
    for view in VIEWS:
        found = re.search(rf"view archsync_platform\.{view.name} as\s+select (.+?)\s+from", schema, re.DOTALL)
        assert found, view.name
        assert re.split(r",\s+", found[1]) == [column.name for column in view.columns]


def test_the_documentation_describes_every_column_and_whether_it_may_be_null():
    text = (ROOT / "docs" / "platform.md").read_text(encoding="utf-8")
    for view in VIEWS:
        section = text.split(f"### `{view.name}`")[1].split("\n### ")[0].split("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \|([^|]*)\|$", section, re.MULTILINE)
        described = [(name, null == "yes") for name, _type, null, _meaning in rows]
        assert described == [(column.name, not column.required) for column in view.columns], view.name
        for column in view.columns:
            meaning = next(row for row in rows if row[0] == column.name)[3]
            assert all(f"`{value}`" in meaning for value in column.allowed), column.name
