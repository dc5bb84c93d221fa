"""Judge a site's mapping of its PACS onto the platform contract, with a hint how to mend each finding.

`archsync platform check` prints the results. ``docs/platform.md`` describes the contract; the facts come from
:mod:`archsync.platformdb.facts`.
"""

from __future__ import annotations

from collections.abc import Iterator

from archsync.core.platform_contract import FOLLOWED_VIEWS, SQL_TYPES, VIEWS, Column, Kind, View
from archsync.platformdb.facts import PlatformFacts, ViewFacts, collect_facts
from archsync.platformdb.reader import Platform
from archsync.platformdb.watermark import RevisionMode
from archsync.services.check_result import CheckResult, Level
from archsync.services.platform_rows_check import judge_locations, judge_references, judge_sample, judge_statuses

#: Reading a table below this size whole costs nothing worth a word.
BIG_TABLE_BYTES = 8 * 1024 * 1024

_OLDEST_SERVER = 130000  # pg_current_snapshot() and xid8 came with PostgreSQL 13


def check_platform(platform: Platform, *, sample_size: int = 10_000) -> list[CheckResult]:
    """Check the platform's views, columns, revisions, indexes and the newest ``sample_size`` rows of each view.

    Raises:
        PlatformUnavailable: the database can't be reached.
    """
    return judge_facts(collect_facts(platform, sample_size=sample_size))


def judge_facts(facts: PlatformFacts) -> list[CheckResult]:
    """Say what the facts mean, view by view, then what concerns the whole."""
    found: list[CheckResult] = []
    for view in VIEWS:
        found += _judge_shape(facts.schema, view, facts.views[view.name])
        found += judge_sample(facts.schema, view, facts.views[view.name])
        found += judge_references(facts, view)
    found += judge_statuses(facts)
    found += judge_locations(facts)
    found += _judge_revisions(facts)
    found += _judge_server(facts)
    found += _judge_indexes(facts)
    results: list[CheckResult] = []
    for view in VIEWS:
        of_view = [result for result in found if result.view == view.name]
        if all(result.level is not Level.ERROR for result in of_view):
            rows = len(facts.views[view.name].sample or ())
            results.append(CheckResult(view.name, "", Level.OK, f"{len(view.columns)} columns, {rows} rows looked at"))
        results += of_view
    return results + [result for result in found if not result.view]


def _judge_server(facts: PlatformFacts) -> Iterator[CheckResult]:
    if facts.server_version < _OLDEST_SERVER and facts.mode is RevisionMode.TRANSACTION:
        yield CheckResult(
            "",
            "",
            Level.ERROR,
            f"PostgreSQL {facts.server_version // 10000} has no 64-bit transaction numbers",
            'upgrade to PostgreSQL 13 or later, or use "revision": "sequence"',
        )
    if facts.server_encoding == "SQL_ASCII":
        yield CheckResult(
            "",
            "",
            Level.WARNING,
            "the database declares no encoding (SQL_ASCII): names may not be readable",
            "convert texts in the views, e.g. convert_from(name::bytea, 'LATIN1') as name",
        )
    if facts.is_standby:
        yield CheckResult(
            "",
            "",
            Level.INFO,
            "the server is a standby: while a long transaction runs on the primary, changes since"
            " its start are read again each time",
        )
    if not facts.has_identity:
        yield CheckResult(
            "",
            "",
            Level.WARNING,
            "the server may not be asked which it is, so a fail-over may go unnoticed until the nightly comparison",
            "grant execute on function pg_control_system(), pg_control_checkpoint() to archsync's user",
        )
    for failure in facts.failures:
        yield CheckResult("", "", Level.ERROR, failure, "see the other findings; most often an index is missing")


def _judge_shape(schema: str, view: View, found: ViewFacts) -> Iterator[CheckResult]:
    if found.column_types is None:
        yield CheckResult(view.name, "", Level.ERROR, f"no view {schema}.{view.name}", suggest_view(schema, view))
        return
    if not found.may_select:
        yield CheckResult(
            view.name,
            "",
            Level.ERROR,
            f"archsync's user may not read {schema}.{view.name}",
            f"grant usage on schema {schema} to <user>; grant select on {schema}.{view.name} to <user>",
        )
    for failure in found.failures:
        yield CheckResult(
            view.name,
            "",
            Level.ERROR,
            failure,
            f"read the newest 100 rows of {schema}.{view.name} yourself, and correct what the view computes",
        )
    for column in view.columns:
        found_type = found.column_types.get(column.name)
        if found_type is None:
            yield CheckResult(
                view.name,
                column.name,
                Level.ERROR,
                f"no column {column.name}",
                f"add it at the end of create or replace view {schema}.{view.name}: … {_suggest_column(column)}",
            )
        elif found_type not in SQL_TYPES[column.kind]:
            wanted = " or ".join(SQL_TYPES[column.kind])
            yield CheckResult(
                view.name,
                column.name,
                Level.ERROR,
                f"has type {found_type}, not {wanted}",
                f"cast it in the view: {_suggest_cast(column, found_type)} (drop the view first)",
            )


def suggest_view(schema: str, view: View) -> str:
    """The statement that makes a view, with a site's own columns to be filled in."""
    columns = ", ".join(_suggest_column(column) for column in view.columns)
    return f"create or replace view {schema}.{view.name} as select {columns} from <your table>"  # noqa: S608  (shown only)


def _suggest_column(column: Column) -> str:
    return f"<yours>::{SQL_TYPES[column.kind][0]} as {column.name}"


def _suggest_cast(column: Column, found_type: str) -> str:
    if column.kind is Kind.MOMENT and found_type == "timestamp without time zone":
        return f"{column.name} at time zone '<your zone>' as {column.name}"
    if column.kind is Kind.DATE and found_type in SQL_TYPES[Kind.TEXT]:
        return f"to_date(nullif({column.name}, ''), 'YYYYMMDD') as {column.name}"
    return f"{column.name}::{SQL_TYPES[column.kind][0]} as {column.name}"


def _judge_revisions(facts: PlatformFacts) -> Iterator[CheckResult]:
    position = facts.position
    if position is None:
        return
    for view, highest in zip(FOLLOWED_VIEWS, position.highest, strict=True):
        revisions = [row[-1] for row in facts.views[view.name].sample or ()]
        numbers = sorted(int(revision) for revision in revisions if revision is not None and revision.isdecimal())
        if facts.mode is RevisionMode.TRANSACTION:
            yield from _judge_transaction_revisions(view, highest, position.ceiling, numbers)
        elif len(numbers) > 1 and numbers[0] == numbers[-1]:
            yield CheckResult(
                view.name,
                "revision",
                Level.WARNING,
                f"all {len(numbers)} rows have revision {numbers[0]}",
                "fine if nothing changed since revisions were introduced; else the trigger is missing",
            )
    if facts.mode is RevisionMode.SEQUENCE:
        yield CheckResult(
            "",
            "revision",
            Level.INFO,
            f"revisions from a sequence, the last {facts.overlap} read again each time",
            "a transaction open for longer than that many numbers can be missed until the nightly comparison",
        )
    elif facts.oldest_transaction_s >= 1:
        yield CheckResult(
            "",
            "revision",
            Level.INFO,
            f"a transaction has been writing for {facts.oldest_transaction_s:.0f} s; it delays no one else's changes",
        )


def _judge_transaction_revisions(view: View, highest: int, ceiling: int, numbers: list[int]) -> Iterator[CheckResult]:
    if highest >= ceiling:
        yield CheckResult(
            view.name,
            "revision",
            Level.ERROR,
            f"revision {highest} is above the server's newest transaction, {ceiling - 1}",
            'Numbers of a sequence: set "revision": "sequence" in the connection\'s extra. Data of a restored dump or'
            f" another server: set the revision of rows from {ceiling} on to 0, once",
        )
    elif len(numbers) >= 1000 and len(set(numbers)) == len(numbers) == numbers[-1] - numbers[0] + 1:
        yield CheckResult(
            view.name,
            "revision",
            Level.WARNING,
            "revisions follow each other without a gap and without a repeat, as a sequence's do, not transactions'",
            'set "revision": "sequence" in the connection\'s extra, or number rows as include/platform/schema.sql does',
        )


def _judge_indexes(facts: PlatformFacts) -> Iterator[CheckResult]:
    by_table: dict[str, list[str]] = {}
    for scan in facts.table_scans:
        if scan.table_bytes >= BIG_TABLE_BYTES:
            by_table.setdefault(f"{scan.table} ({scan.table_bytes // 1024**2} MB)", []).append(scan.query)
    for table, queries in by_table.items():
        wanted = ", ".join(f"{view.name}.{column.name}" for view in VIEWS for column in view.columns if column.index)
        yield CheckResult(
            "",
            "",
            Level.WARNING,
            f"PostgreSQL reads all of {table} to answer: {', '.join(queries)}",
            f"create index concurrently on the columns behind {wanted}; a view that computes a column hides its index",
        )
    if not by_table and not facts.failures and facts.position is not None:
        yield CheckResult("", "", Level.OK, "no query reads a big table whole")
    yield CheckResult(
        "",
        "",
        Level.INFO,
        "whether changes are announced with NOTIFY can't be tested by reading",
        "without NOTIFY they are found at the next look, seconds later; include/platform/schema.sql has the triggers",
    )
