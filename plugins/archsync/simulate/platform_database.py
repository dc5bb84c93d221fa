"""The database of the simulated platform: transactions, and the rows that every kind of change writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from archsync.errors import ConfigurationError, InvalidInput, PlatformUnavailable
from archsync.simulate.samples import FileHeader
from archsync.simulate.volumes import DemoPatient

CONNECT_TIMEOUT_S = 10

Connection = psycopg.Connection[Any]


class PlatformDatabase:
    """The tables of the reference schema at ``dsn``, and the folder for the files that the platform makes."""

    def __init__(self, dsn: str, folder: Path, *, seed: int = 1) -> None:
        self._dsn = dsn
        self._folder = folder.resolve()
        self._seed = seed

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction, committed at the end.

        Raises:
            ConfigurationError: the database does not hold the reference schema.
            PlatformUnavailable: it does not answer.
            InvalidInput: a UID would not be unique any more.
        """
        try:
            with psycopg.connect(self._dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
                yield connection
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as exc:
            raise ConfigurationError(
                "the database does not hold the reference platform", next_step="Run `archsync simulate platform` on it."
            ) from exc
        except psycopg.errors.UniqueViolation:
            # Not chained: the server quotes the values.
            raise InvalidInput("two present instances, or two studies, would share a UID") from None
        except psycopg.OperationalError as exc:
            raise PlatformUnavailable(
                f"the simulated platform's database does not answer: {exc}".splitlines()[0]
            ) from exc

    def _update(self, table: str, key: str, **values: object) -> None:
        """Set columns of one row."""
        with self.transaction() as connection:
            update_row(connection, table, key, **values)


def update_row(connection: Connection, table: str, key: str, **values: object) -> None:
    """Set columns of the study, patient or instance of that key.

    Raises:
        InvalidInput: there is none.
    """
    query = sql.SQL("update {} set {} where {} = %s").format(
        sql.Identifier("pacs", table),
        sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(column)) for column in values),
        sql.Identifier(f"{table}_key"),
    )
    if connection.execute(query, [*values.values(), key]).rowcount != 1:
        raise no_such(table, key)


def no_such(table: str, key: str) -> InvalidInput:
    """The error for a key that names no row."""
    return InvalidInput(f"{table}_key {key}: there is no such {table}")


def find_or_add_patient(connection: Connection, patient: DemoPatient) -> str:
    """The key of the patient with that identifier; made if there is none."""
    cursor = connection.execute(
        "select patient_key::text from pacs.patient where patient_id = %s and issuer_of_patient_id = %s",
        [patient.patient_id, patient.issuer_of_patient_id],
    )
    if found := cursor.fetchone():
        return str(found[0])
    return add_patient(connection, patient)


def add_patient(connection: Connection, patient: DemoPatient) -> str:
    """Add a patient and return the key."""
    cursor = connection.execute(
        "insert into pacs.patient (patient_id, issuer_of_patient_id, name, birth_date, sex)"
        " values (%s, %s, %s, %s, %s) returning patient_key::text",
        [patient.patient_id, patient.issuer_of_patient_id, patient.name, patient.birth_date, patient.sex],
    )
    return str(one(cursor))


def insert_instances(connection: Connection, study_key: str, headers: Sequence[FileHeader]) -> None:
    """Add the rows of files to a study."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into pacs.instance (study_key, series_instance_uid, series_number, modality, sop_instance_uid,"
            " sop_class_uid, transfer_syntax_uid, instance_number, location, size_bytes)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    study_key,
                    header.series_instance_uid,
                    header.series_number,
                    header.modality,
                    header.sop_instance_uid,
                    header.sop_class_uid,
                    header.transfer_syntax_uid,
                    header.instance_number,
                    header.path.as_uri(),
                    header.size_bytes,
                )
                for header in headers
            ],
        )


def one(cursor: psycopg.Cursor[Any]) -> Any:
    """The first value of the first row, which is there."""
    return cursor.fetchall()[0][0]
