"""One connection to the ledger database, with its errors translated in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from archsync.errors import ArchsyncError, ConfigurationError, LedgerUnavailable

Row = dict[str, Any]

#: Entries of the ledger connection's extra that are ours; the rest goes to the driver.
EXTRA_SETTINGS = frozenset({"keep_days"})

#: Seconds to wait for the ledger's server to take a connection.
CONNECT_TIMEOUT_S = 5


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into ours; a missing table means that migrations did not run."""
    try:
        yield
    except psycopg.errors.UndefinedTable as exc:
        raise ConfigurationError(
            "the ledger database has no tables", code="ledger-not-migrated", next_step="Run `archsync db migrate`."
        ) from exc
    except psycopg.errors.InsufficientPrivilege as exc:
        raise ConfigurationError(
            f"the ledger database refuses its user: {exc.diag.message_primary}",
            code="ledger-permission",
            next_step="Let the user of the connection archsync_ledger own the database and its tables.",
        ) from exc
    except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
        # The driver's text can hold host names and user names, never data; its first line says enough.
        detail = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise LedgerUnavailable(f"the ledger database does not answer: {detail}") from exc
    except (psycopg.errors.UniqueViolation, psycopg.errors.ForeignKeyViolation):
        raise  # says something about the request; the statement's own module knows what
    except (psycopg.DataError, psycopg.IntegrityError) as exc:
        # Not chained: the server quotes values, which may be a patient's.
        raise ArchsyncError(f"the ledger database refused a statement (SQLSTATE {exc.sqlstate})") from None


class Ledger:
    """A connection to the ledger, opened at first use and again after it broke.

    Autocommit outside :meth:`transaction`. Not for use by several threads at once: give each its own.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[Row] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def key(self) -> str:
        """Tells one ledger from another. It can hold a password: never to be shown."""
        return self._dsn

    def clone(self) -> Ledger:
        """A second connection to the same ledger, for another thread."""
        return Ledger(self._dsn)

    def _open(self) -> psycopg.Connection[Row]:
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="archsync",
            )
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block in one transaction (a savepoint inside another one)."""
        with translated_errors(), self._open().transaction():
            yield

    def fetch_all(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[Row]:
        """Run a query and return its rows."""
        with translated_errors():
            return self._open().execute(sql.encode(), parameters or None).fetchall()

    def fetch_one(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> Row | None:
        """Run a query and return its first row, or None."""
        with translated_errors():
            return self._open().execute(sql.encode(), parameters or None).fetchone()

    def execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> int:
        """Run a statement and return the number of rows it touched."""
        with translated_errors():
            return self._open().execute(sql.encode(), parameters or None).rowcount

    def execute_many(self, sql: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement for every row, in one round trip where the driver can."""
        if rows:
            with translated_errors(), self._open().cursor() as cursor:
                cursor.executemany(sql.encode(), rows)
