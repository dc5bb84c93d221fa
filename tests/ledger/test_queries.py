"""Every statement of the package is named, described, used and understood by PostgreSQL."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import psycopg
import pytest

import archsync
from archsync.ledger.queries import load

PACKAGE = Path(archsync.__file__).parent
SUBJECTS = sorted(p.name.removesuffix(".sql") for p in resources.files("archsync.ledger").joinpath("sql").iterdir())
STATEMENTS = [(subject, name) for subject in SUBJECTS for name in load(subject)]


def test_the_statements_are_found():
    assert {"destinations", "holdings", "jobs", "planning"} <= set(SUBJECTS)
    assert len(STATEMENTS) > 50


@pytest.mark.parametrize(("subject", "name"), STATEMENTS, ids="/".join)
def test_postgresql_understands_the_statement(ledger_dsn_shared, subject, name):
    statement = load(subject)[name]
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

    ledger_dsn_shared.execute(f"prepare checked as {re.sub(r'%[(]([a-z_]+)[)]s', numbered, statement)}".encode())
    ledger_dsn_shared.execute("deallocate checked")


@pytest.fixture(scope="module")
def ledger_dsn_shared(postgres, _ledger_template):
    """A connection that only prepares: one database serves all statements."""
    with psycopg.connect(postgres.dsn(_ledger_template), autocommit=True) as connection:
        yield connection


def test_every_statement_is_used_and_every_used_one_exists():
    used = set()
    for path in (PACKAGE / "ledger").glob("*.py"):
        text = path.read_text()
        for subject in re.findall(r'load\("(\w+)"\)', text):
            names = set(re.findall(r'SQL\["(\w+)"', text)) | set(re.findall(r'SQL\["(\w+)" if lock else "\w+"\]', text))
            used |= {(subject, name) for name in names | set(re.findall(r'if lock else "(\w+)"\]', text))}

    assert used == set(STATEMENTS)


def test_a_statement_without_description_is_refused(tmp_path, monkeypatch):
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "bare.sql").write_text("-- name: bare\nselect 1;\n")
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)

    with pytest.raises(ValueError, match=r"bare\.sql: every query needs a name and a description"):
        load("bare")
