"""Bringing a ledger database up to date."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from archsync.errors import ConfigurationError, LedgerUnavailable
from archsync.ledger import migrate as migrate_module
from archsync.ledger.database import Ledger
from archsync.ledger.migrate import available, migrate
from archsync.ledger.overview import counts


def test_a_second_run_applies_nothing(empty_dsn):
    assert migrate(empty_dsn) == list(available())
    assert migrate(empty_dsn) == []


def test_several_that_migrate_at_once_apply_each_file_once(empty_dsn):
    with ThreadPoolExecutor(8) as pool:
        applied = list(pool.map(lambda _: migrate(empty_dsn), range(8)))

    assert sorted(name for names in applied for name in names) == sorted(available())


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(ledger_dsn, sql):
    sql("insert into schema_migration (name) values ('9999_from_the_future.sql')")

    with pytest.raises(ConfigurationError, match="9999_from_the_future") as refusal:
        migrate(ledger_dsn)

    assert refusal.value.code == "ledger-too-new"


def test_a_migration_that_fails_leaves_nothing_behind_and_can_be_repeated(empty_dsn, monkeypatch):
    files = available()
    broken = {**files, "9000_broken.sql": "create table half_done (x int); select no_such_column from half_done"}
    monkeypatch.setattr(migrate_module, "available", lambda: broken)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        migrate(empty_dsn)
    monkeypatch.undo()

    assert migrate(empty_dsn) == []
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("select to_regclass('half_done')").fetchone() == (None,)


def test_a_ledger_that_was_never_migrated_says_what_to_do(empty_dsn):
    with Ledger(empty_dsn) as ledger, pytest.raises(ConfigurationError) as refusal:
        counts(ledger)

    assert refusal.value.code == "ledger-not-migrated"
    assert "archsync db migrate" in refusal.value.next_step


def test_a_server_that_does_not_answer_is_told_without_the_password(postgres):
    dsn = f"postgresql://postgres:planted-password@127.0.0.1:{postgres.port}/no_such_database"
    with pytest.raises(LedgerUnavailable) as away:
        migrate(dsn)

    assert "planted-password" not in str(away.value)
