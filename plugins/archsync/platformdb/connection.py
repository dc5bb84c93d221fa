"""Read-only transactions on the platform's database, with the driver's errors translated in one place.

Airflow's ``PostgresHook`` opens psycopg 3 connections (whenever SQLAlchemy 2 is there, as it is with the locked
versions): the class a plain URI gives, too, so one driver serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from archsync.errors import ConfigurationError, InvalidInput, PlatformUnavailable

#: Opens a connection: ``PostgresHook(...).get_conn``, or :func:`connector` of a URI.
Connect = Callable[[], Any]

Cursor = psycopg.Cursor[tuple[Any, ...]]

_CHECK = "Run `archsync platform check`: it names what is missing or wrong, and how to mend it."
CONNECT_TIMEOUT_S = 10


class UnreadableRow(InvalidInput):
    """A row makes a view fail inside PostgreSQL (a cast in the mapping, say), or a key is not of the column's type."""

    code = "platform-row"

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__(f"PostgreSQL refuses a value that a platform view computes, or a key (SQLSTATE {sqlstate})")


def connector(dsn: str) -> Connect:
    """A function that connects to ``dsn``."""
    return lambda: psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="archsync")


class Session:
    """One connection, opened at first use and again after it broke. Not for several threads at once."""

    def __init__(self, connect: Connect, *, timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._connection: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        """Close the connection; a later transaction opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Open a REPEATABLE READ, read-only transaction: all its queries see one snapshot. Texts come as ISO and UTC.

        Raises:
            PlatformUnavailable: the server can't be reached, or broke off.
            ConfigurationError: a view or column is missing, or may not be read.
            UnreadableRow: a row makes a view fail.
        """
        try:
            connection = self._open()
            with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                cursor.execute(
                    "select set_config('datestyle', 'ISO', true), set_config('timezone', 'UTC', true),"
                    " set_config('statement_timeout', %s, true)",
                    [str(int(self._timeout_s * 1000))],
                )
                yield cursor
        except psycopg.Error as exc:
            self._raise_ours(exc)
        except UnicodeDecodeError:
            self.close()
            # Not chained: the driver's error quotes the text.
            raise ConfigurationError(
                "the platform's database sent text that is not in the encoding it declares",
                next_step="Use a database with a declared encoding (not SQL_ASCII), or convert texts in the views.",
            ) from None

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed or self._connection.broken:
            connection = self._connect_now()
            if not isinstance(connection, psycopg.Connection):
                raise ConfigurationError(
                    f"the platform connection is opened by {type(connection).__module__}, not by psycopg 3",
                    next_step="Install the versions in requirements.txt.",
                )
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            # A pooler such as PgBouncer may give the next transaction another server process.
            connection.prepare_threshold = None
            self._connection = connection
        return self._connection

    def _connect_now(self) -> Any:
        try:
            return self._connect()
        except psycopg.ProgrammingError as exc:
            raise ConfigurationError(
                f"the platform connection's settings are refused: {_first_line(exc)}",
                next_step="Correct the connection archsync_platform.",
            ) from exc

    def _raise_ours(self, exc: psycopg.Error) -> None:
        if isinstance(exc, psycopg.DataError):
            # Not chained: the server quotes the value, which may be a patient's.
            raise UnreadableRow(exc.sqlstate) from None
        if isinstance(exc, psycopg.ProgrammingError):
            raise ConfigurationError(
                f"the platform's views do not fit: {_first_line(exc)}", code="platform-contract", next_step=_CHECK
            ) from exc
        self.close()
        raise PlatformUnavailable(f"the platform database does not answer: {_first_line(exc)}") from exc


def _first_line(exc: psycopg.Error) -> str:
    """The driver's sentence: it can name hosts, users, views and columns, but no value (those are data errors)."""
    lines: Sequence[str] = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
