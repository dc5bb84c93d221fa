"""The SQL of the reader, apart from running it, so that the check can have PostgreSQL explain the very same queries.

Every column leaves as text: a value the driver could not load (a date of the year 20000, ``infinity``) then spoils its
own row, not the batch. Keys of any type leave as text too and come back as an array cast to the column's own type, so
that the site's index serves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from archsync.core.platform_contract import FACILITY, FOLLOWED_VIEWS, INSTANCE, PATIENT, STUDY, View
from archsync.errors import ConfigurationError
from archsync.platformdb.connection import Cursor
from archsync.platformdb.watermark import Condition

Query = tuple[sql.Composed, list[Any]]


class Queries:
    """The queries on the views in ``schema``."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._key_types: dict[tuple[str, str], sql.Composable] = {}

    def view(self, view: View) -> sql.Identifier:
        """The qualified name of a view."""
        return sql.Identifier(self.schema, view.name)

    def changed_studies(self, conditions: Sequence[Condition], limit: int) -> Query:
        """The studies touched by changed rows; ``conditions`` in the order of FOLLOWED_VIEWS."""
        by_view = {view.name: condition for view, condition in zip(FOLLOWED_VIEWS, conditions, strict=True)}
        patient, study, instance = (by_view[view.name] for view in (PATIENT, STUDY, INSTANCE))
        query = sql.SQL(
            "select s.study_key::text from {study} s where {study_changed}"
            " union select i.study_key::text from {instance} i where {instance_changed} and i.study_key is not null"
            " union select s.study_key::text from {patient} p join {study} s on s.patient_key = p.patient_key"
            " where {patient_changed} limit %s"
        ).format(
            study=self.view(STUDY),
            instance=self.view(INSTANCE),
            patient=self.view(PATIENT),
            study_changed=study.on("s"),
            instance_changed=instance.on("i"),
            patient_changed=patient.on("p"),
        )
        return query, [*study.parameters, *instance.parameters, *patient.parameters, limit]

    def any_change(self, conditions: Sequence[Condition]) -> Query:
        """Whether any row changed; ``conditions`` in the order of FOLLOWED_VIEWS."""
        tests = [
            sql.SQL("exists (select from {} v where {})").format(self.view(view), condition.on("v"))
            for view, condition in zip(FOLLOWED_VIEWS, conditions, strict=True)
        ]
        parameters = [parameter for condition in conditions for parameter in condition.parameters]
        return sql.SQL("select {}").format(sql.SQL(" or ").join(tests)), parameters

    def studies(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """Studies, each row followed by its patient's and its facility's columns."""
        query = sql.SQL(
            "select {s}, {p}, {f} from {study} s left join {patient} p on p.patient_key = s.patient_key"
            " left join {facility} f on f.facility_id = s.facility_id where s.study_key = any(%s::{key_type}[])"
        ).format(
            s=_columns(STUDY, "s"),
            p=_columns(PATIENT, "p"),
            f=_columns(FACILITY, "f"),
            study=self.view(STUDY),
            patient=self.view(PATIENT),
            facility=self.view(FACILITY),
            key_type=self._key_type(cursor, STUDY, "study_key"),
        )
        return query, [list(keys)]

    def instances(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """All instances of studies, removed ones included."""
        query = sql.SQL("select {i} from {instance} i where i.study_key = any(%s::{key_type}[])").format(
            i=_columns(INSTANCE, "i"),
            instance=self.view(INSTANCE),
            key_type=self._key_type(cursor, INSTANCE, "study_key"),
        )
        return query, [list(keys)]

    def study_keys_where(self, **values: str) -> Query:
        """The keys of studies with those values in those columns."""
        tests = [sql.SQL("{} = %s").format(sql.Identifier("s", column)) for column in values]
        query = sql.SQL("select s.study_key::text from {} s where {} order by s.study_key").format(
            self.view(STUDY), sql.SQL(" and ").join(tests)
        )
        return query, list(values.values())

    def study_keys_page(self, cursor: Cursor, after: str | None, limit: int) -> Query:
        """The next study keys after one, in the order of their own type."""
        start: sql.Composable = sql.SQL("")
        if after is not None:
            start = sql.SQL("where s.study_key > %s::{} ").format(self._key_type(cursor, STUDY, "study_key"))
        # Ordered by s.study_key, the column: its bare name would mean the text in the select list, where 10 < 9.
        query = sql.SQL("select s.study_key::text from {} s {}order by s.study_key limit %s").format(
            self.view(STUDY), start
        )
        return query, [limit] if after is None else [after, limit]

    def facilities(self) -> Query:
        """All facilities."""
        query = sql.SQL("select {} from {} f order by f.facility_id")
        return query.format(_columns(FACILITY, "f"), self.view(FACILITY)), []

    def changed_merged_patients(self, conditions: Sequence[Condition], limit: int) -> Query:
        """Changed patients that were merged into another, or that another was merged into."""
        condition = conditions[FOLLOWED_VIEWS.index(PATIENT)]
        query = sql.SQL(
            "select p.patient_key::text from {patient} p where {changed} and p.merged_into_patient_key is not null"
            " union select p.patient_key::text from {patient} p"
            " join {patient} q on q.merged_into_patient_key = p.patient_key where {changed} limit %s"
        ).format(patient=self.view(PATIENT), changed=condition.on("p"))
        return query, [*condition.parameters, *condition.parameters, limit]

    def patients(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """Patients, all columns."""
        return self._rows_where(cursor, PATIENT, "patient_key", keys, _columns(PATIENT, "v"))

    def merges_of(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """Into which patient each of those was merged, if any."""
        return self._rows_where(cursor, PATIENT, "patient_key", keys, _texts("patient_key", "merged_into_patient_key"))

    def merges_into(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """The patients that were merged straight into one of those, and into which."""
        columns = _texts("patient_key", "merged_into_patient_key")
        return self._rows_where(cursor, PATIENT, "merged_into_patient_key", keys, columns)

    def studies_of_patients(self, cursor: Cursor, keys: Sequence[str], limit: int) -> Query:
        """The keys of the studies of those patients."""
        query, parameters = self._rows_where(cursor, STUDY, "patient_key", keys, _texts("study_key"))
        return query + sql.SQL(" limit %s"), [*parameters, limit]

    def studies_of_instances(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """Those instances with the study each is in, removed ones included."""
        return self._rows_where(cursor, INSTANCE, "instance_key", keys, _texts("instance_key", "study_key"))

    def replacements(self, cursor: Cursor, keys: Sequence[str]) -> Query:
        """The instances made for those, each with its study and the time of its own removal."""
        columns = _texts("replaces_instance_key", "study_key", "instance_key", "removed_at")
        return self._rows_where(cursor, INSTANCE, "replaces_instance_key", keys, columns)

    def _rows_where(
        self, cursor: Cursor, view: View, column: str, keys: Sequence[str], chosen: sql.Composable
    ) -> Query:
        query = sql.SQL("select {chosen} from {view} v where {column} = any(%s::{key_type}[])").format(
            chosen=chosen,
            view=self.view(view),
            column=sql.Identifier("v", column),
            key_type=self._key_type(cursor, view, column),
        )
        return query, [list(keys)]

    def _key_type(self, cursor: Cursor, view: View, column: str) -> sql.Composable:
        """The SQL type of a view's key column, asked for once."""
        known = (view.name, column)
        if known not in self._key_types:
            # Without its length: a cast to varchar(8) would cut a longer key, and find another row.
            cursor.execute(
                "select format_type(a.atttypid, -1) from pg_attribute a"
                " join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
                " where n.nspname = %s and c.relname = %s and a.attname = %s and a.attnum > 0",
                [self.schema, view.name, column],
            )
            found = cursor.fetchone()
            if found is None:
                raise ConfigurationError(
                    f"the platform's views do not fit: no {self.schema}.{view.name} with a column {column}",
                    code="platform-contract",
                    next_step="Run `archsync platform check`: it names what is missing, and how to mend it.",
                )
            # The server's own spelling of a type, quoted by it where needed.
            self._key_types[known] = sql.SQL(found[0])
        return self._key_types[known]


def _columns(view: View, alias: str) -> sql.Composed:
    """All columns of a view, as text, in the contract's order."""
    return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(alias, column.name)) for column in view.columns)


def _texts(*columns: str) -> sql.Composed:
    """Those columns of ``v``, as text."""
    return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("v", column)) for column in columns)
