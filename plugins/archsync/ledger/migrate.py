"""Forward-only migrations of the ledger: numbered SQL files, each applied once, in order, in one transaction."""

from __future__ import annotations

import re
from importlib import resources

import psycopg

from archsync.errors import ConfigurationError
from archsync.ledger.database import CONNECT_TIMEOUT_S, translated_errors

# Any constant will do; concurrent `archsync db migrate` calls queue on it.
_LOCK = 0x617263687379
_FILE = re.compile(r"(\d{4})_\w+\.sql")


def available() -> dict[str, str]:
    """The migrations of this version: file name → SQL, in order."""
    folder = resources.files("archsync.ledger").joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if _FILE.fullmatch(entry.name))
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in names}


def migrate(dsn: str) -> list[str]:
    """Bring a ledger database up to date and return the names applied now. Safe to run twice and concurrently.

    Raises:
        ConfigurationError: the database was migrated by a newer version of archsync.
    """
    files = available()
    applied: list[str] = []
    with translated_errors(), psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(
            "create table if not exists schema_migration"
            " (name text primary key, applied_at timestamptz not null default now())"
        )
        done = {name for (name,) in connection.execute("select name from schema_migration").fetchall()}
        if unknown := sorted(done - set(files)):
            raise ConfigurationError(
                f"the ledger was migrated by a newer archsync (it has {unknown[-1]})",
                code="ledger-too-new",
                next_step="Upgrade this archsync; a ledger is never migrated back.",
            )
        for name, sql in files.items():
            if name in done:
                continue
            with connection.transaction():
                connection.execute(sql.encode())
                connection.execute("insert into schema_migration (name) values (%s)", (name,))
            applied.append(name)
    return applied
