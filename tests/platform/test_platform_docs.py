"""The SQL in docs/platform.md works: a site that copies it gets views the check has nothing against."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from archsync.core.study import Priority, RemovalReason
from archsync.platformdb.reader import Platform
from archsync.services.check_result import Level
from archsync.services.platform_check import check_platform

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "platform.md"

#: A PACS as the example assumes it.
TABLES = """
create table site (code text primary key, title text not null, region text not null, mrn_namespace text,
    mrn_oid text);
create table person (id uuid primary key, mrn text not null, mrn_issuer text, last_name text, first_name text,
    dob text, sex text, merged_into uuid);
create table exam (id uuid primary key, uid text not null unique, person_id uuid not null, site_code text not null,
    accession text, performed timestamp, title text, referrer text, state int not null, urgency int,
    legal_hold boolean);
create table image (id bigint primary key, exam_id uuid not null, series_uid text not null, series_no int,
    modality text,
    uid text not null, class_uid text not null, syntax_uid text not null, image_no int, path text not null,
    bytes bigint not null, version int not null default 1, deleted_at timestamp, delete_code text, replaces bigint);
"""

ROWS = """
insert into site values ('W', 'West', 'coast', 'WMRN', '1.2.3');
insert into person values ('00000000-0000-0000-0000-00000000000a', '77', 'WMRN', 'Doe', 'Jane', '19700131', 'F');
insert into exam values ('00000000-0000-0000-0000-00000000000b', '1.2.3.4', '00000000-0000-0000-0000-00000000000a', 'W',
    'ACC', '2026-07-01 10:00', 'Chest', null, 30, 1, null);
insert into image (id, exam_id, series_uid, uid, class_uid, syntax_uid, path, bytes, deleted_at, delete_code) values
    (1, '00000000-0000-0000-0000-00000000000b', '1.2.5', '1.2.6', '1.2.7', '1.2.8', 'a b%c.dcm', 5, null, null),
    (2, '00000000-0000-0000-0000-00000000000b', '1.2.5', '1.2.9', '1.2.7', '1.2.8', 'd.dcm', 5, '2026-07-01 12:00',
        'Q');
"""


def sql_block(containing: str) -> str:
    blocks = re.findall(r"^ *```sql\n(.*?)^ *```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if containing in block]
    return block


@pytest.fixture
def site(empty_dsn):
    """A database with that PACS, its changes numbered and its views made as the document says."""
    numbering = sql_block("create trigger stamp_change")
    function = re.search(r"create function stamp_change.*?end \$\$;", numbering, re.DOTALL)[0]
    with psycopg.connect(empty_dsn, autocommit=True) as dba:
        dba.execute(TABLES)
        dba.execute(function)
        # One by one: an index is not made concurrently in a script's transaction.
        statements = re.sub(r"--.*", "", numbering.replace(function, "")).split(";")
        for statement in filter(None, map(str.strip, statements)):
            for table in ("exam", "person", "image"):
                dba.execute(statement.replace("exam", table))
        dba.execute(sql_block("create view archsync_platform.instance"))
        dba.execute(ROWS)
        yield dba


def test_the_example_mapping_passes_the_check_and_is_read(site, empty_dsn):
    with Platform.from_dsn(empty_dsn) as platform:
        faults = [r for r in check_platform(platform) if r.level in (Level.WARNING, Level.ERROR)]
        assert [r.message for r in faults] == [
            "1 of the 1 newest files can't be read from here, such as instance_key 1"
        ]

        changes = platform.fetch_changes(None)
        (study,) = platform.fetch_studies(next(platform.walk_study_keys())).studies
        assert (study.exam_status, study.priority, study.patient.name) == ("Completed", Priority.STAT, "Doe^Jane")
        shown, removed = sorted(study.instances, key=lambda instance: instance.instance_key)
        assert shown.location == "file:///images/a%20b%25c.dcm"
        assert (removed.removed_at.hour, removed.removal_reason) == (10, RemovalReason.QUALITY), "Berlin, in summer"

        site.execute("update person set sex = 'O'")
        assert platform.fetch_changes(changes.watermark).study_keys == (study.study_key,)


def test_the_documented_grants_are_enough(site, empty_dsn):
    with psycopg.connect(empty_dsn, autocommit=True) as dba:
        dba.execute("drop role if exists archsync_reader")
        for statement in filter(str.strip, sql_block("create role archsync_reader").split(";")):
            dba.execute(statement.replace("…", "secret"))
    dsn = psycopg.conninfo.make_conninfo(empty_dsn, user="archsync_reader", password="secret")
    try:
        with Platform.from_dsn(dsn) as platform:
            assert not [r for r in check_platform(platform) if r.level is Level.ERROR]
            assert len(platform.fetch_studies(next(platform.walk_study_keys())).studies) == 1
            assert not platform.fetch_changes(platform.fetch_changes(None).watermark).is_full
    finally:
        with psycopg.connect(empty_dsn, autocommit=True) as dba:
            dba.execute("drop owned by archsync_reader; drop role archsync_reader")
