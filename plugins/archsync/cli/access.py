"""Where this site's ledger and platform are: options, variables, or Airflow's connections, in this order."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import click

from archsync.errors import ConfigurationError

if TYPE_CHECKING:
    from archsync.core.study import Facility
    from archsync.ledger.database import Ledger
    from archsync.platformdb.reader import Platform

LEDGER_CONN_ID = "archsync_ledger"
PLATFORM_CONN_ID = "archsync_platform"

#: Unless this says "server", Airflow 3.3 does not look up connections in its metadata database.
_PROCESS_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"


@dataclass(frozen=True, slots=True)
class Site:
    """What the options of the top command say; everything is opened at first use."""

    ledger_dsn: str | None
    platform_dsn: str | None
    actor: str

    def resolve_ledger_dsn(self) -> str:
        """The libpq connection string of the ledger.

        Raises:
            ConfigurationError: it is named nowhere.
        """
        from archsync.hooks.connection_text import from_environment, libpq_dsn
        from archsync.ledger.database import EXTRA_SETTINGS

        if self.ledger_dsn:
            return _checked_dsn(self.ledger_dsn, "--ledger-dsn")
        if found := from_environment(LEDGER_CONN_ID):
            return libpq_dsn(found, ignore=EXTRA_SETTINGS)
        _require_airflow("ledger")
        with airflow():
            from archsync.hooks.ledger import LedgerHook

            return LedgerHook(LEDGER_CONN_ID).get_dsn()

    def open_ledger(self) -> Ledger:
        """The ledger; it connects at its first question."""
        from archsync.ledger.database import Ledger

        return Ledger(self.resolve_ledger_dsn())

    def resolve_platform(self) -> tuple[str, dict[str, Any]]:
        """The libpq connection string of the platform, and what its extra says of the views.

        Raises:
            ConfigurationError: it is named nowhere.
        """
        from archsync.hooks.connection_text import from_environment, libpq_dsn
        from archsync.platformdb.reader import EXTRA_SETTINGS

        if self.platform_dsn:
            dsn, extra = _split_settings(self.platform_dsn, EXTRA_SETTINGS)
            return _checked_dsn(dsn, "--platform-dsn"), extra
        found: Any = from_environment(PLATFORM_CONN_ID)
        if found is None:
            _require_airflow("platform")
            with airflow():
                from archsync.hooks._connection import connection

                found = connection(PLATFORM_CONN_ID)
        extra = {name: value for name, value in found.extra_dejson.items() if name in EXTRA_SETTINGS}
        return libpq_dsn(found, ignore=EXTRA_SETTINGS), extra

    def open_platform(self) -> Platform:
        """The platform; it connects at its first question."""
        from archsync.platformdb.connection import connector
        from archsync.platformdb.reader import Platform

        dsn, extra = self.resolve_platform()
        return Platform.from_extra(connector(dsn), extra)

    def fetch_facilities(self) -> Sequence[Facility]:
        """The platform's facilities."""
        with self.open_platform() as platform:
            return platform.fetch_facilities()


pass_site = click.make_pass_decorator(Site)


def airflow_is_configured() -> bool:
    """Tell, without importing it, whether Airflow has a metadata database or a home here."""
    from pathlib import Path

    named = any(name.startswith("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN") for name in os.environ)
    return named or "AIRFLOW_HOME" in os.environ or (Path("~/airflow/airflow.cfg").expanduser()).exists()


@contextlib.contextmanager
def airflow() -> Iterator[None]:
    """Use Airflow as its own command line does, with what it logs on stdout kept out of our output."""
    before = os.environ.get(_PROCESS_CONTEXT)
    os.environ[_PROCESS_CONTEXT] = "server"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ[_PROCESS_CONTEXT]
        else:
            os.environ[_PROCESS_CONTEXT] = before


@contextlib.contextmanager
def images() -> Iterator[None]:
    """Read the platform's images with Airflow's connections, where Airflow is."""
    if not airflow_is_configured():
        yield
        return
    with airflow():
        from archsync.hooks.images import read_images_through_airflow

        read_images_through_airflow()
        yield


def _require_airflow(what: str) -> None:
    if not airflow_is_configured():
        raise ConfigurationError(
            f"no {what} is named",
            code="no-connection-named",
            next_step=f"Give --{what}-dsn or set ARCHSYNC_{what.upper()}_DSN, or run this where Airflow is configured"
            f" (AIRFLOW_HOME) with the connection archsync_{what}.",
        )


def _checked_dsn(dsn: str, option: str) -> str:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Not quoted: it may hold a password.
        raise click.UsageError(f"{option}: not a PostgreSQL URI or connection string.") from None
    return dsn


def _split_settings(dsn: str, settings: frozenset[str]) -> tuple[str, dict[str, Any]]:
    """Take our own settings out of a URI's query: libpq does not know them."""
    if "://" not in dsn:
        return dsn, {}
    parts = urlsplit(dsn)
    query = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in query if name not in settings])
    return urlunsplit(parts._replace(query=rest)), {name: value for name, value in query if name in settings}
