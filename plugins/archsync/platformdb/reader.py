"""Read the platform: which studies changed, and what they look like now.

Only the four views of the contract (:mod:`archsync.core.platform_contract`) are read, so any site's mapping will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from archsync.core.platform_contract import FACILITY
from archsync.core.study import Facility, Patient
from archsync.errors import ConfigurationError, InvalidInput
from archsync.platformdb.batches import Found, StudyBatch, find_survivors, read_batch, read_patients
from archsync.platformdb.connection import Connect, Session, UnreadableRow, connector
from archsync.platformdb.links import fetch_merged, fetch_merges, fetch_relatives, fetch_replacements
from archsync.platformdb.queries import Queries
from archsync.platformdb.rows import parse_facility, raise_twice
from archsync.platformdb.watermark import Position, RevisionMode, conditions_since, explain_full_read, fetch_position

DEFAULT_SCHEMA = "archsync_platform"
DEFAULT_OVERLAP = 10_000

#: Entries of the platform connection's extra that are ours; the rest goes to the driver.
EXTRA_SETTINGS = frozenset({"schema", "revision", "overlap"})

#: The channel on which the reference schema says that something changed (without saying what).
NOTIFY_CHANNEL = "archsync_platform"


@dataclass(frozen=True, slots=True)
class Changes:
    """Studies that changed since a watermark, and the watermark to keep once they are dealt with.

    With ``is_full`` the changes can't be told one by one (``full_reason`` says why) and ``study_keys`` is empty: go
    through :meth:`Platform.walk_study_keys`, then keep the watermark. What changes meanwhile is found by the next read.
    """

    study_keys: tuple[str, ...]
    watermark: str
    full_reason: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether every study has to be compared."""
        return self.full_reason is not None


class Platform:
    """Reads the platform's views. Opens its connection at first use; not for several threads at once.

    Args:
        connect: opens a psycopg 3 connection, such as ``PostgresHook(...).get_conn``.
        schema: the schema that holds the views.
        revision: how the site numbers changes.
        overlap: sequence mode: how many numbers before the last one are read again.
        timeout_s: after this time PostgreSQL gives up on a query.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        schema: str = DEFAULT_SCHEMA,
        revision: RevisionMode = RevisionMode.TRANSACTION,
        overlap: int = DEFAULT_OVERLAP,
        timeout_s: float = 120,
    ) -> None:
        self.schema = schema
        self.revision = RevisionMode(revision)
        self.overlap = overlap
        self.session = Session(connect, timeout_s=timeout_s)
        self.queries = Queries(schema)

    @classmethod
    def from_dsn(cls, dsn: str, **settings: Any) -> Platform:
        """Read the platform at a connection URI."""
        return cls(connector(dsn), **settings)

    @classmethod
    def from_extra(cls, connect: Connect, extra: Mapping[str, Any]) -> Platform:
        """Read the platform with the settings of an Airflow connection's extra (:data:`EXTRA_SETTINGS`).

        Raises:
            ConfigurationError: one of them is wrong.
        """
        mode = extra.get("revision", RevisionMode.TRANSACTION)
        if mode not in list(RevisionMode):
            known = " or ".join(RevisionMode)
            raise ConfigurationError(f'platform connection, extra: "revision" must be {known}, not {mode!r}')
        overlap = extra.get("overlap", DEFAULT_OVERLAP)
        if isinstance(overlap, bool) or not str(overlap).isdecimal():
            raise ConfigurationError(f'platform connection, extra: "overlap" must be a whole number, not {overlap!r}')
        schema = extra.get("schema", DEFAULT_SCHEMA)
        if not isinstance(schema, str) or not schema:
            raise ConfigurationError(f'platform connection, extra: "schema" must name a schema, not {schema!r}')
        return cls(connect, schema=schema, revision=RevisionMode(mode), overlap=int(overlap))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        self.session.close()

    def fetch_changes(self, watermark: str | None, *, limit: int = 10_000) -> Changes:
        """Find the studies touched by changes of study, instance or patient rows since ``watermark``.

        A patient's change touches also the studies of all patients whom merges connect with them: a merge is one row's
        change, and both the survivor's studies and those of who was merged are to be looked at.

        Reading again from the same watermark gives the same studies or more, never fewer. More than ``limit`` changed
        studies count as a full read.

        Raises:
            PlatformUnavailable: the database does not answer.
            ConfigurationError: the views or their revisions do not fit the contract.
        """
        last = Position.decode(watermark) if watermark else None
        with self.session.transaction() as cursor:
            now = fetch_position(cursor, self.schema, self.revision)
            reason = explain_full_read(last, now)
            if last is None or reason is not None:
                return Changes((), now.encode(), reason)
            conditions = conditions_since(last, now, overlap=self.overlap)
            cursor.execute(*self.queries.changed_studies(conditions, limit + 1))
            keys = {key for (key,) in cursor.fetchall()}
            cursor.execute(*self.queries.changed_merged_patients(conditions, limit + 1))
            merged = [key for (key,) in cursor.fetchall()]
            if merged and max(len(keys), len(merged)) <= limit:
                relatives = sorted(fetch_relatives(cursor, self.queries, merged))
                cursor.execute(*self.queries.studies_of_patients(cursor, relatives, limit + 1))
                keys.update(key for (key,) in cursor.fetchall())
        if max(len(keys), len(merged)) > limit:
            return Changes((), now.encode(), f"more than {limit} studies changed")
        return Changes(tuple(keys), now.encode())

    def has_changes(self, watermark: str | None) -> bool:
        """Tell, cheaply, whether :meth:`fetch_changes` is worth a call.

        In sequence mode a transaction that committed late, with a number below the highest seen, does not show here.
        """
        last = Position.decode(watermark) if watermark else None
        with self.session.transaction() as cursor:
            now = fetch_position(cursor, self.schema, self.revision)
            if last is None or explain_full_read(last, now) is not None:
                return True
            if self.revision is RevisionMode.SEQUENCE:
                return now.highest != last.highest
            conditions = conditions_since(last, now, overlap=self.overlap)
            cursor.execute(*self.queries.any_change(conditions))
            return bool(cursor.fetchall()[0][0])

    def fetch_studies(self, study_keys: Iterable[str]) -> StudyBatch:
        """Read studies with patient, facility and all instances, removed ones included, in a few queries.

        The patient is the surviving one, also where the study's row still names a patient who was merged.
        Meant for batches of up to some hundred studies. A study that breaks the contract is rejected by itself.

        Raises:
            PlatformUnavailable: the database does not answer.
            ConfigurationError: the views do not fit the contract.
        """
        keys = tuple(dict.fromkeys(study_keys))
        if not keys:
            return StudyBatch(())
        try:
            return read_batch(self.session, self.queries, keys)
        except UnreadableRow as exc:
            if len(keys) == 1:
                return StudyBatch((), {keys[0]: InvalidInput(f"study_key {keys[0]}: {exc.message}", code=exc.code)})
        # One row fails inside PostgreSQL and takes the batch with it: halve until it stands alone.
        middle = len(keys) // 2
        first, second = self.fetch_studies(keys[:middle]), self.fetch_studies(keys[middle:])
        return StudyBatch(
            first.studies + second.studies, {**first.rejected, **second.rejected}, first.missing + second.missing
        )

    def fetch_patients(self, patient_keys: Iterable[str]) -> Found[Patient]:
        """Read patients as their own rows are, merged ones too, in one query.

        A row that breaks the contract is rejected by itself.

        Raises:
            PlatformUnavailable: the database does not answer.
            ConfigurationError: the views do not fit the contract.
        """
        keys = tuple(dict.fromkeys(patient_keys))
        if not keys:
            return Found({})
        try:
            with self.session.transaction() as cursor:
                return read_patients(cursor, self.queries, keys)
        except UnreadableRow as exc:
            if len(keys) == 1:
                return Found({}, {keys[0]: InvalidInput(f"patient_key {keys[0]}: {exc.message}", code=exc.code)})
        middle = len(keys) // 2
        first, second = self.fetch_patients(keys[:middle]), self.fetch_patients(keys[middle:])
        return Found({**first, **second}, {**first.rejected, **second.rejected})

    def resolve_survivors(self, patient_keys: Iterable[str]) -> Found[str]:
        """Find who each patient is after all merges: the key at the end of the chain, one's own if not merged.

        As many queries as the longest chain has links. Patients whose merges go round in a circle are rejected
        (``patient-merge-cycle``).

        Raises:
            PlatformUnavailable: the database does not answer.
            ConfigurationError: the views do not fit the contract.
            InvalidInput: a key is not of the type of the view's keys.
        """
        keys = tuple(dict.fromkeys(patient_keys))
        if not keys:
            return Found({})
        with self.session.transaction() as cursor:
            merges = fetch_merges(cursor, self.queries, keys)
        return find_survivors(keys, merges)

    def find_merged(self, patient_keys: Iterable[str]) -> Mapping[str, str]:
        """Find who was merged into those patients, also by way of others: the survivor's key by each one's own.

        As many queries as the longest chain has links. Raises as :meth:`resolve_survivors` does.
        """
        keys = tuple(dict.fromkeys(patient_keys))
        if not keys:
            return {}
        with self.session.transaction() as cursor:
            return fetch_merged(cursor, self.queries, keys)

    def find_instances(self, instance_keys: Iterable[str]) -> Mapping[str, str]:
        """Find in which study each instance is now, removed ones included: the study's key by the instance's.

        Instances whose row is gone are absent. Raises as :meth:`resolve_survivors` does.
        """
        keys = tuple(dict.fromkeys(instance_keys))
        if not keys:
            return {}
        with self.session.transaction() as cursor:
            cursor.execute(*self.queries.studies_of_instances(cursor, keys))
            return dict(cursor.fetchall())

    def find_replacements(self, instance_keys: Iterable[str]) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """Find the present instances that stand for each of those: (study key, instance key) pairs in a stable order.

        Follows on where a replacement was itself removed and replaced. Instances nothing stands for are absent. Raises
        as :meth:`resolve_survivors` does.
        """
        keys = tuple(dict.fromkeys(instance_keys))
        if not keys:
            return {}
        with self.session.transaction() as cursor:
            standing = fetch_replacements(cursor, self.queries, keys)
        return {original: tuple(sorted(found)) for original, found in standing.items()}

    def find_study_keys(
        self, *, study_instance_uid: str | None = None, accession_number: str | None = None
    ) -> tuple[str, ...]:
        """Find studies by Study Instance UID, accession number or both; accession numbers may repeat."""
        wanted = {"study_instance_uid": study_instance_uid, "accession_number": accession_number}
        given = {column: value for column, value in wanted.items() if value is not None}
        if not given:
            raise InvalidInput("name a Study Instance UID or an accession number to find a study")
        with self.session.transaction() as cursor:
            cursor.execute(*self.queries.study_keys_where(**given))
            return tuple(key for (key,) in cursor.fetchall())

    def find_studies_of(self, patient_keys: Iterable[str], *, limit: int = 1_000) -> tuple[str, ...]:
        """Find studies whose rows name one of those patients. Raises as :meth:`resolve_survivors` does."""
        keys = tuple(dict.fromkeys(patient_keys))
        if not keys:
            return ()
        with self.session.transaction() as cursor:
            cursor.execute(*self.queries.studies_of_patients(cursor, keys, limit))
            return tuple(key for (key,) in cursor.fetchall())

    def iterate_study_keys(self, after: str | None = None, limit: int = 1000) -> tuple[str, ...]:
        """The next ``limit`` study keys after ``after``, in the order of the site's key type; empty at the end."""
        with self.session.transaction() as cursor:
            cursor.execute(*self.queries.study_keys_page(cursor, after, limit))
            return tuple(key for (key,) in cursor.fetchall())

    def walk_study_keys(self, batch_size: int = 200) -> Iterator[tuple[str, ...]]:
        """Go through all studies in batches; no transaction stays open between them."""
        after: str | None = None
        while batch := self.iterate_study_keys(after, batch_size):
            yield batch
            after = batch[-1]

    def fetch_facilities(self) -> tuple[Facility, ...]:
        """All facilities, by id.

        Raises:
            InvalidInput: a row breaks the contract.
        """
        with self.session.transaction() as cursor:
            cursor.execute(*self.queries.facilities())
            facilities = tuple(map(parse_facility, cursor.fetchall()))
        seen: set[str] = set()
        for facility in facilities:
            if facility.facility_id in seen:
                raise_twice(FACILITY, facility.facility_id)
            seen.add(facility.facility_id)
        return facilities
