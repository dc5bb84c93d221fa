"""Collect what `archsync platform check` judges: how a site's views look, and what is in a sample of their rows.

Facts only: :mod:`archsync.services.platform_check` says what they mean. The sample is the rows with the highest
revisions, so a check of a huge archive takes seconds and sees what the reader will see next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from archsync.core.platform_contract import FACILITY, INSTANCE, PATIENT, STUDY, VIEWS, View
from archsync.errors import ArchsyncError, PlatformUnavailable
from archsync.platformdb.connection import Cursor
from archsync.platformdb.queries import Query
from archsync.platformdb.reader import Platform
from archsync.platformdb.watermark import Position, RevisionMode, conditions_since, fetch_position

TextRow = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A column that names a row of a view; ``parent_columns`` of both have to be comparable."""

    child: View
    column: str
    parent: View


REFERENCES = (
    Reference(STUDY, "patient_key", PATIENT),
    Reference(STUDY, "facility_id", FACILITY),
    Reference(INSTANCE, "study_key", STUDY),
    Reference(PATIENT, "merged_into_patient_key", PATIENT),
    Reference(INSTANCE, "replaces_instance_key", INSTANCE),
)


@dataclass(frozen=True, slots=True)
class TableScan:
    """PostgreSQL would read a whole table to answer one of the reader's queries."""

    query: str
    table: str
    table_bytes: int


@dataclass(slots=True)
class ViewFacts:
    """One view: ``column_types`` is None if it is missing; ``failures`` are probes that ended in an error."""

    column_types: dict[str, str] | None = None
    may_select: bool = False
    #: Columns as in the contract; None if they could not be read. Columns the view lacks are None in every row.
    sample: list[TextRow] | None = None
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PlatformFacts:
    """What was found; counts are of the sample."""

    schema: str
    mode: RevisionMode
    overlap: int
    sample_size: int
    views: dict[str, ViewFacts] = field(default_factory=dict)
    server_version: int = 0
    server_encoding: str = ""
    is_standby: bool = False
    has_identity: bool = False
    position: Position | None = None
    oldest_transaction_s: float = 0.0
    #: For each reference: how many rows name a missing parent and one of their keys, or why it could not be told.
    orphans: dict[Reference, tuple[int, str | None] | str] = field(default_factory=dict)
    #: Studies whose patient was merged into another, and one of their keys.
    studies_of_merged: tuple[int, str | None] = (0, None)
    #: Merged patients of the sample whose merges go round in a circle.
    merge_cycles: tuple[str, ...] = ()
    table_scans: list[TableScan] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def collect_facts(platform: Platform, *, sample_size: int = 10_000) -> PlatformFacts:
    """Look at a platform's views and the newest ``sample_size`` rows of each.

    Raises:
        PlatformUnavailable: the database can't be reached at all; failures of single probes are facts.
    """
    facts = PlatformFacts(platform.schema, platform.revision, platform.overlap, sample_size)
    with platform.session.transaction() as cursor:
        _collect_server(cursor, facts)
        for view in VIEWS:
            facts.views[view.name] = _describe(cursor, platform.schema, view)
    for view in VIEWS:
        found = facts.views[view.name]
        if found.column_types is not None and found.may_select:
            with _noting(found.failures), platform.session.transaction() as cursor:
                found.sample = _sample(cursor, platform, view, found.column_types, sample_size)
    for reference in REFERENCES:
        if _has_columns(facts, (reference.child, reference.column), (reference.parent, reference.parent.key)):
            notes: list[str] = []
            with _noting(notes), platform.session.transaction() as cursor:
                facts.orphans[reference] = _count_orphans(cursor, platform, reference, facts)
            if notes:
                facts.orphans[reference] = notes[0]
    if _is_complete(facts):
        with _noting(facts.failures), platform.session.transaction() as cursor:
            facts.studies_of_merged = _count_studies_of_merged(cursor, platform, sample_size)
        with _noting(facts.failures):
            facts.merge_cycles = _find_merge_cycles(platform, facts)
        with _noting(facts.failures), platform.session.transaction() as cursor:
            facts.position = fetch_position(cursor, platform.schema, platform.revision)
            facts.table_scans = _find_table_scans(cursor, platform, facts)
    return facts


@contextmanager
def _noting(notes: list[str]) -> Iterator[None]:
    """Keep the message of a probe that fails and go on with the next."""
    try:
        yield
    except ArchsyncError as exc:
        if isinstance(exc, PlatformUnavailable) and "statement timeout" not in exc.message:
            raise
        notes.append(exc.message)


def _collect_server(cursor: Cursor, facts: PlatformFacts) -> None:
    cursor.execute(
        "select current_setting('server_version_num')::int, current_setting('server_encoding'), pg_is_in_recovery(),"
        " has_function_privilege('pg_control_system()', 'execute')"
        " and has_function_privilege('pg_control_checkpoint()', 'execute'),"
        " coalesce((select extract(epoch from max(now() - xact_start))::float from pg_stat_activity"
        " where backend_xid is not null), 0)"
    )
    (
        (
            facts.server_version,
            facts.server_encoding,
            facts.is_standby,
            facts.has_identity,
            facts.oldest_transaction_s,
        ),
    ) = cursor.fetchall()


def _describe(cursor: Cursor, schema: str, view: View) -> ViewFacts:
    cursor.execute(
        "select c.oid, has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s and c.relkind in ('v', 'm', 'r', 'p', 'f')",
        [schema, view.name],
    )
    found = cursor.fetchone()
    if found is None:
        return ViewFacts()
    oid, may_select = found
    # A domain is as good as the type below it.
    cursor.execute(
        "select a.attname, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null) from pg_attribute a"
        " join pg_type t on t.oid = a.atttypid where a.attrelid = %s and a.attnum > 0 and not a.attisdropped",
        [oid],
    )
    return ViewFacts(dict(cursor.fetchall()), may_select)


def _sample(
    cursor: Cursor, platform: Platform, view: View, column_types: Mapping[str, str], sample_size: int
) -> list[TextRow]:
    chosen = [
        sql.SQL("v.{}::text").format(sql.Identifier(column.name)) if column.name in column_types else sql.SQL("null")
        for column in view.columns
    ]
    newest_first = (
        sql.SQL(" order by v.revision desc") if view.has_revision and "revision" in column_types else sql.SQL("")
    )
    cursor.execute(
        sql.SQL("select {} from {} v{} limit %s").format(
            sql.SQL(", ").join(chosen), platform.queries.view(view), newest_first
        ),
        [sample_size],
    )
    return cursor.fetchall()


def _has_columns(facts: PlatformFacts, *wanted: tuple[View, str]) -> bool:
    return all(
        facts.views[view.name].sample is not None and name in (facts.views[view.name].column_types or {})
        for view, name in wanted
    )


def _is_complete(facts: PlatformFacts) -> bool:
    return all(_has_columns(facts, *((view, column.name) for column in view.columns)) for view in VIEWS)


def _count_orphans(
    cursor: Cursor, platform: Platform, reference: Reference, facts: PlatformFacts
) -> tuple[int, str | None]:
    child = reference.child
    newest_first = sql.SQL(" order by v.revision desc")
    if "revision" not in (facts.views[child.name].column_types or {}):
        newest_first = sql.SQL("")
    cursor.execute(
        sql.SQL(
            "select count(*), min(c.key) from (select v.{key}::text as key, v.{column} as parent from {child} v"
            "{newest_first} limit %s) c where c.parent is not null"
            " and not exists (select from {parent} p where p.{parent_key} = c.parent)"
        ).format(
            key=sql.Identifier(child.key),
            column=sql.Identifier(reference.column),
            child=platform.queries.view(child),
            newest_first=newest_first,
            parent=platform.queries.view(reference.parent),
            parent_key=sql.Identifier(reference.parent.key),
        ),
        [facts.sample_size],
    )
    count, example = cursor.fetchall()[0]
    return count, example


def _count_studies_of_merged(cursor: Cursor, platform: Platform, sample_size: int) -> tuple[int, str | None]:
    cursor.execute(
        sql.SQL(
            "select count(*), min(s.study_key::text) from"
            " (select v.study_key, v.patient_key from {study} v order by v.revision desc limit %s) s"
            " join {patient} p on p.patient_key = s.patient_key where p.merged_into_patient_key is not null"
        ).format(study=platform.queries.view(STUDY), patient=platform.queries.view(PATIENT)),
        [sample_size],
    )
    count, example = cursor.fetchall()[0]
    return count, example


def _find_merge_cycles(platform: Platform, facts: PlatformFacts) -> tuple[str, ...]:
    survivor = [column.name for column in PATIENT.columns].index("merged_into_patient_key")
    sample = facts.views[PATIENT.name].sample or []
    merged = [key for row in sample if row[survivor] is not None and (key := row[0]) is not None]
    return tuple(platform.resolve_survivors(merged).rejected)


def _find_table_scans(cursor: Cursor, platform: Platform, facts: PlatformFacts) -> list[TableScan]:
    """Have PostgreSQL explain the reader's queries as they will be asked, and note the tables it would read whole."""
    position = facts.position
    if position is None:
        return []
    study_rows = facts.views[STUDY.name].sample or []
    # One study: many of a small archive's could rightly be answered by reading all of a table.
    keys = [row[0] for row in study_rows[:1] if row[0] is not None]
    uids = [row[1] for row in study_rows[:1] if row[1] is not None]
    patients = [row[0] for row in (facts.views[PATIENT.name].sample or [])[:1] if row[0] is not None]
    instances = [row[0] for row in (facts.views[INSTANCE.name].sample or [])[:1] if row[0] is not None]
    # As after a read a moment ago; in sequence mode that includes the overlap.
    conditions = conditions_since(position, position, overlap=platform.overlap)
    queries: dict[str, Query] = {
        "what changed?": platform.queries.changed_studies(conditions, 10_000),
        "which merged patients changed?": platform.queries.changed_merged_patients(conditions, 10_000),
        "read studies": platform.queries.studies(cursor, keys),
        "read instances of studies": platform.queries.instances(cursor, keys),
        "next page of studies": platform.queries.study_keys_page(cursor, keys[0] if keys else None, 200),
        "find a study by its UID": platform.queries.study_keys_where(study_instance_uid=uids[0] if uids else "1.2"),
        "find studies by accession number": platform.queries.study_keys_where(accession_number="1"),
        "read patients": platform.queries.patients(cursor, patients),
        "into whom was a patient merged?": platform.queries.merges_of(cursor, patients),
        "who was merged into a patient?": platform.queries.merges_into(cursor, patients),
        "find studies of patients": platform.queries.studies_of_patients(cursor, patients, 10_000),
        "find instances by their keys": platform.queries.studies_of_instances(cursor, instances),
        "find replacements of instances": platform.queries.replacements(cursor, instances),
    }
    found = []
    for label, (query, parameters) in queries.items():
        cursor.execute(sql.SQL("explain (verbose, format json) ") + query, parameters)
        plan = cursor.fetchall()[0][0]
        for schema, table in dict.fromkeys(_sequential_scans(plan)):
            # Not by regclass: that takes a privilege on the site's own schema.
            cursor.execute(
                "select pg_relation_size(c.oid) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname = %s and c.relname = %s",
                [schema, table],
            )
            ((table_bytes,),) = cursor.fetchall()
            found.append(TableScan(label, f"{schema}.{table}", table_bytes or 0))
    return found


def _sequential_scans(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        if node.get("Node Type") == "Seq Scan":
            yield node["Schema"], node["Relation Name"]
        for value in node.values():
            yield from _sequential_scans(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for item in node:
            yield from _sequential_scans(item)
