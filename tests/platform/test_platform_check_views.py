"""`archsync platform check` on real views: silent about good ones, and each fault is named with a way to mend it."""

from __future__ import annotations

import re

import psycopg
import pytest

from archsync.core.platform_contract import VIEWS
from archsync.errors import PlatformUnavailable
from archsync.launcher.postgres import free_port
from archsync.platformdb.reader import Platform
from archsync.platformdb.watermark import RevisionMode
from archsync.services.check_result import CheckResult, Level
from archsync.services.platform_check import check_platform


def findings(platform: Platform, *levels: Level) -> list[CheckResult]:
    return [result for result in check_platform(platform) if result.level in levels]


def errors(platform: Platform) -> list[CheckResult]:
    return findings(platform, Level.ERROR)


@pytest.fixture
def good(platform, add_studies, dba, tmp_path):
    """The reference schema with three studies whose files are there."""
    add_studies(3)
    for number in range(1, 7):
        (tmp_path / f"{number}.dcm").write_bytes(b"x" * 10)
    dba.execute(
        "update pacs.instance set location = %s || instance_key || '.dcm', size_bytes = 10", [f"file://{tmp_path}/"]
    )
    return platform


def test_the_reference_schema_has_no_faults(good):
    results = check_platform(good)
    assert [result for result in results if result.level in (Level.ERROR, Level.WARNING)] == []
    passed = {result.view: result.message for result in results if result.level is Level.OK}
    assert passed == {
        "facility": "7 columns, 1 rows looked at",
        "patient": "8 columns, 3 rows looked at",
        "study": "14 columns, 3 rows looked at",
        "instance": "16 columns, 6 rows looked at",
        "": "no query reads a big table whole",
    }
    assert any("NOTIFY can't be tested" in result.message for result in results if result.level is Level.INFO)


def test_an_empty_platform_has_no_faults(platform):
    assert findings(platform, Level.ERROR, Level.WARNING) == []


def redefine(view: str, old: str, new: str) -> str:
    """The statement that makes a view anew with one column's expression replaced."""
    columns = next(v for v in VIEWS if v.name == view).columns
    chosen = ", ".join(new if column.name == old else column.name for column in columns)
    return (
        f"drop view archsync_platform.{view}; create view archsync_platform.{view} as select {chosen} from pacs.{view}"
    )


FAULTS = [
    (
        "drop view archsync_platform.study",
        "study",
        "",
        "no view archsync_platform.study",
        "create or replace view archsync_platform.study as select <yours>::text as study_key, ",
    ),
    (
        redefine("study", "on_hold", "true as hold"),
        "study",
        "on_hold",
        "no column on_hold",
        "create or replace view archsync_platform.study: … <yours>::boolean as on_hold",
    ),
    (
        redefine("study", "study_date", "to_char(study_date, 'YYYYMMDD') as study_date"),
        "study",
        "study_date",
        "has type text, not date",
        "to_date(nullif(study_date, ''), 'YYYYMMDD') as study_date",
    ),
    (
        redefine("instance", "removed_at", "removed_at::timestamp as removed_at"),
        "instance",
        "removed_at",
        "has type timestamp without time zone, not timestamp with time zone",
        "removed_at at time zone '<your zone>' as removed_at",
    ),
    (
        redefine("instance", "size_bytes", "size_bytes::text as size_bytes"),
        "instance",
        "size_bytes",
        "has type text, not bigint or integer or smallint or numeric",
        "size_bytes::bigint as size_bytes",
    ),
    (
        redefine("study", "study_instance_uid", "nullif(study_instance_uid, '1.2.2') as study_instance_uid"),
        "study",
        "study_instance_uid",
        "is null in 1 of 3 rows, such as study_key 2",
        "correct the rows, or leave them out",
    ),
    (
        redefine("patient", "patient_id", "nullif(patient_id, 'P3') as patient_id"),
        "patient",
        "patient_id",
        "is null in 1 of 3 rows, such as patient_key 3",
        "coalesce(patient_id, '') as patient_id",
    ),
    (
        redefine("study", "priority", "lower(priority) as priority"),
        "study",
        "priority",
        "is none of STAT, URGENT, ROUTINE in 3 of 3 rows",
        "case <yours> when <your value> then 'ROUTINE' … end as priority",
    ),
    (
        redefine("study", "on_hold", "nullif(on_hold, false) as on_hold"),
        "study",
        "on_hold",
        "is null in 3 of 3 rows",
        "coalesce(on_hold, false) as on_hold",
    ),
    (
        redefine("instance", "content_version", "null::int as content_version"),
        "instance",
        "content_version",
        "is null in 6 of 6 rows",
        "coalesce(content_version, 1) as content_version",
    ),
    (
        redefine("instance", "size_bytes", "-size_bytes as size_bytes"),
        "instance",
        "size_bytes",
        "is below 0 in 6 of 6 rows",
        "correct the rows",
    ),
    (
        redefine("instance", "sop_class_uid", "'CT' as sop_class_uid"),
        "instance",
        "sop_class_uid",
        "is not a DICOM UID in 6 of 6 rows",
        "correct the rows",
    ),
    (
        redefine("study", "exam_status", "'finished' as exam_status"),
        "study",
        "exam_status",
        "no study has a status that triggers anything",
        "map your statuses to Pending, Inflight and Completed",
    ),
    (
        redefine("instance", "location", "replace(location, 'file://', '') as location"),
        "instance",
        "location",
        "6 of 6 locations have no scheme",
        "give an absolute file URI",
    ),
    (
        redefine("instance", "location", "replace(location, 'file:', 's3:') as location"),
        "instance",
        "location",
        "6 of 6 locations have the scheme s3://",
        "give an absolute file URI",
    ),
    (
        redefine("study", "patient_key", "patient_key::text as patient_key"),
        "study",
        "patient_key",
        "can't be compared with patient.patient_key",
        "give both the same type",
    ),
    (
        "create or replace view archsync_platform.patient as select * from pacs.patient where patient_key <> 2",
        "study",
        "patient_key",
        "1 rows name a patient that the view patient does not have, such as study_key 2",
        "let the view patient show those rows too",
    ),
    (
        "create or replace view archsync_platform.facility as select * from pacs.facility where false",
        "study",
        "facility_id",
        "3 rows name a facility that the view facility does not have",
        "let the view facility show those rows too",
    ),
    (
        "create or replace view archsync_platform.study as select * from pacs.study where study_key <> 1",
        "instance",
        "study_key",
        "2 rows name a study that the view study does not have",
        "or leave theirs out of instance",
    ),
    (
        (
            "create or replace view archsync_platform.study as"
            " select s.* from pacs.study s join pacs.instance using (study_key)"
        ),
        "study",
        "study_key",
        "study_key: 3 values appear more than once",
        "a join in the view multiplies rows",
    ),
    (
        (
            "alter table pacs.study drop constraint study_study_instance_uid_key;"
            " update pacs.study set study_instance_uid = '1.2.1'"
        ),
        "study",
        "study_instance_uid",
        "study_instance_uid: 1 values appear more than once, such as 1.2.1",
        "show one of them",
    ),
    (
        "drop index pacs.instance_sop_uid_idx; update pacs.instance set sop_instance_uid = '1.2.3.4'",
        "instance",
        "sop_instance_uid",
        "sop_instance_uid of rows that are not removed: 1 values appear more than once",
        "set removed_at",
    ),
    (
        redefine("study", "revision", "null::bigint as revision"),
        "study",
        "revision",
        "is null in 3 of 3 rows",
        "set revision = 0 where revision is null",
    ),
    (
        redefine("instance", "revision", "revision + 4000000000 as revision"),
        "instance",
        "revision",
        "is above the server's newest transaction",
        '"revision": "sequence"',
    ),
    (
        redefine("patient", "sex", "sex::int::text as sex"),
        "patient",
        "",
        "PostgreSQL refuses a value that a platform view",
        "correct what the view computes",
    ),
]


@pytest.mark.parametrize(
    ("change", "view", "column", "message", "hint"), FAULTS, ids=[f"{f[1]}.{f[2]} {f[3][:40]}" for f in FAULTS]
)
def test_a_fault_is_named_with_a_way_to_mend_it(good, dba, change, view, column, message, hint):
    dba.execute(change)
    found = errors(good)
    (fault,) = [result for result in found if (result.view, result.column) == (view, column)]
    assert message in fault.message
    assert hint in fault.hint
    assert not any(result.level is Level.OK and result.view == view for result in check_platform(good))


def test_every_fault_is_named_at_once(good, dba):
    dba.execute(redefine("study", "priority", "'?'::text as priority"))
    dba.execute(redefine("patient", "birth_date", "birth_date::text as birth_date"))
    dba.execute("drop view archsync_platform.instance")
    assert {(result.view, result.column) for result in errors(good)} == {
        ("study", "priority"),
        ("patient", "birth_date"),
        ("instance", ""),
    }


def test_studies_that_still_name_a_merged_patient_are_told_and_are_no_fault(good, dba):
    dba.execute("update pacs.patient set merged_into_patient_key = 2 where patient_key = 1")
    assert findings(good, Level.ERROR, Level.WARNING) == []
    (result,) = [r for r in findings(good, Level.INFO) if r.column == "patient_key"]
    assert result.message == "1 studies name a patient that was merged into another, such as study_key 1"


def test_merges_in_a_circle_are_a_fault(good, dba):
    dba.execute("update pacs.patient set merged_into_patient_key = 3 - patient_key where patient_key < 3")
    (fault,) = errors(good)
    assert (fault.view, fault.column) == ("patient", "merged_into_patient_key")
    assert fault.message.startswith("the merges of 2 patients go round in a circle, such as patient_key")


WARNINGS = [
    (
        (
            "update pacs.study"
            " set exam_status = case study_key when 1 then 'Cancelled' when 2 then 'pending' else 'Pending' end"
        ),
        "study",
        "exam_status",
        "statuses that trigger nothing: 'Cancelled' (1), 'pending' (1)",
        "spelling and case count",
    ),
    (
        "update pacs.instance set size_bytes = 11 where instance_key = 1",
        "instance",
        "size_bytes",
        "1 of the 6 newest files have another size",
        "the size of the whole file",
    ),
    (
        "update pacs.instance set location = location || 'x' where instance_key < 3",
        "instance",
        "location",
        "2 of the 6 newest files can't be read from here, such as instance_key",
        "another machine does the sending",
    ),
]


@pytest.mark.parametrize(("change", "view", "column", "message", "hint"), WARNINGS, ids=[w[3][:40] for w in WARNINGS])
def test_what_may_be_right_is_a_warning(good, dba, change, view, column, message, hint):
    dba.execute(change)
    (warning,) = findings(good, Level.ERROR, Level.WARNING)
    assert (warning.view, warning.column, warning.level) == (view, column, Level.WARNING)
    assert message in warning.message
    assert hint in warning.hint


def test_no_value_of_a_patient_is_shown(good, dba):
    dba.execute("update pacs.patient set name = 'Secret^Name', patient_id = 'SECRET', birth_date = 'infinity'")
    dba.execute(redefine("patient", "sex", "name::text as sex"))
    assert errors(good)
    assert "secret" not in " ".join(f"{r.message} {r.hint}" for r in check_platform(good)).lower()


@pytest.mark.parametrize(
    ("change", "column", "queries"),
    [
        ("drop index pacs.instance_revision_idx", "instance.revision", "what changed?"),
        (
            "drop index pacs.instance_replaces_idx",
            "instance.replaces_instance_key",
            "find replacements of instances",
        ),
        (
            "alter table pacs.instance drop constraint instance_pkey cascade",
            "instance.instance_key",
            "find instances by their keys",
        ),
        (
            "drop index pacs.patient_merged_idx",
            "patient.merged_into_patient_key",
            "which merged patients changed?, who was merged into a patient?",
        ),
    ],
)
def test_a_big_table_without_indexes_is_a_warning_that_names_queries_and_columns(good, dba, change, column, queries):
    dba.execute(
        "insert into pacs.patient (patient_id, name) select n, repeat('x', 200) from generate_series(1, 40000) n"
    )
    dba.execute(
        "insert into pacs.study (study_instance_uid, patient_key, facility_id)"
        " select '1.2.9.' || n, 1, 'CITY' from generate_series(1, 2000) n"
    )
    dba.execute(
        "insert into pacs.instance (study_key, series_instance_uid, sop_instance_uid, sop_class_uid,"
        " transfer_syntax_uid, location, size_bytes)"
        " select 4 + n % 2000, '1.2', '1.2.9.' || n, '1.2.3', '1.2.4', 'file:///' || repeat('x', 200), 1"
        " from generate_series(1, 40000) n"
    )
    dba.execute("analyze")
    assert [r for r in findings(good, Level.WARNING) if "reads all" in r.message] == []
    dba.execute(change)
    (warning,) = [r for r in findings(good, Level.WARNING) if "reads all" in r.message]
    table = column.partition(".")[0]
    assert re.search(rf"reads all of pacs\.{table} \(\d+ MB\) to answer: {re.escape(queries)}$", warning.message)
    assert column in warning.hint


def test_a_sequence_in_transaction_mode_is_suspected_from_its_numbers(good, dba):
    dba.execute(
        "insert into pacs.study (study_instance_uid, patient_key, facility_id)"
        " select '1.2.9.' || n, 1, 'CITY' from generate_series(1, 1200) n"
    )
    dba.execute("do $$ begin for n in 1..1500 loop perform pg_current_xact_id(); commit; end loop; end $$")
    assert findings(good, Level.WARNING, Level.ERROR) == []
    dba.execute("alter table pacs.study disable trigger stamp_revision; update pacs.study set revision = study_key")
    (warning,) = findings(good, Level.WARNING, Level.ERROR)
    assert (warning.view, warning.column, warning.level) == ("study", "revision", Level.WARNING)
    assert "without a gap and without a repeat, as a sequence's do" in warning.message


def test_in_sequence_mode_the_weaker_guarantee_is_stated_and_constant_numbers_are_suspected(good, platform_dsn, dba):
    with Platform.from_dsn(platform_dsn, revision=RevisionMode.SEQUENCE, overlap=50) as platform:
        messages = [result.message for result in findings(platform, Level.INFO)]
        assert "revisions from a sequence, the last 50 read again each time" in messages
        dba.execute(redefine("study", "revision", "7::bigint as revision"))
        assert "all 3 rows have revision 7" in [result.message for result in findings(platform, Level.WARNING)]


def test_a_user_who_may_not_read_a_view_gets_the_grants_to_ask_for(good, dba, platform_dsn):
    dba.execute(
        "do $$ begin if not exists (select from pg_roles where rolname = 'archsync_check') then"
        " create role archsync_check login password 'x'; end if; end $$"
    )
    dba.execute("grant usage on schema archsync_platform to archsync_check")
    dba.execute(
        "grant select on archsync_platform.facility, archsync_platform.patient, archsync_platform.study"
        " to archsync_check"
    )
    reader = psycopg.conninfo.make_conninfo(platform_dsn, user="archsync_check", password="x")
    with Platform.from_dsn(reader) as platform:
        (error,) = errors(platform)
        assert "grant select on archsync_platform.instance to <user>" in error.hint
        dba.execute("grant select on archsync_platform.instance to archsync_check")
        assert errors(platform) == []
        assert platform.fetch_studies(["1"]).studies[0].study_key == "1"


def test_a_server_that_does_not_answer_is_no_finding_but_an_error():
    dsn = f"postgresql://postgres@127.0.0.1:{free_port()}/x"
    with Platform.from_dsn(dsn) as platform, pytest.raises(PlatformUnavailable):
        check_platform(platform)
