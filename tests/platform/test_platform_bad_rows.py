"""A row that breaks the contract spoils only its own study, and the error names view, key and column."""

from __future__ import annotations

import pytest

from archsync.errors import InvalidInput


@pytest.fixture
def loose(dba, add_studies):
    """Five studies in tables without the reference schema's constraints, as a site's own may be."""
    add_studies(5)
    dba.execute(
        """
        do $$
        declare statement text;
        begin
            for statement in
                select format('alter table %s drop constraint %I', conrelid::regclass, conname)
                from pg_constraint where connamespace = 'pacs'::regnamespace and contype = 'c'
                union all
                select format('alter table %s alter %I drop not null', attrelid::regclass, attname)
                from pg_attribute join pg_class c on c.oid = attrelid
                where relnamespace = 'pacs'::regnamespace and relkind = 'r' and attnum > 0 and attnotnull
                and attidentity = '' and attname <> 'facility_id'
            loop
                execute statement;
            end loop;
        end
        $$
        """
    )
    return dba


STUDY_CHANGES = [
    ("priority = 'ASAP'", "priority is none of STAT, URGENT, ROUTINE"),
    ("priority = null", "priority is null"),
    ("on_hold = null", "on_hold is null"),
    ("exam_status = null", "exam_status is null"),
    ("study_instance_uid = null", "study_instance_uid is null"),
    ("study_instance_uid = '1.2.x'", "study_instance_uid is not a DICOM UID"),
    ("study_instance_uid = repeat('1', 65)", "study_instance_uid is not a DICOM UID"),
    ("study_date = 'infinity'", "study_date is not a date of the years 1 to 9999"),
    ("study_date = '0044-03-15 BC'", "study_date is not a date of the years 1 to 9999"),
    ("study_time = '24:00'", "study_time is not a time of day"),
    ("patient_key = null", "patient_key is null"),
]

INSTANCE_CHANGES = [
    ("size_bytes = -1", "size_bytes is below 0"),
    ("content_version = 0", "content_version is below 1"),
    ("sop_instance_uid = null", "sop_instance_uid is null"),
    ("sop_class_uid = 'CT Image Storage'", "sop_class_uid is not a DICOM UID"),
    ("transfer_syntax_uid = ''", "transfer_syntax_uid is not a DICOM UID"),
    ("series_instance_uid = '1..2'", "series_instance_uid is not a DICOM UID"),
    ("location = null", "location is null"),
    ("removed_at = now(), removal_reason = 'oops'", "removal_reason is none of quality, patient_safety, .*"),
    ("removal_reason = 'quality'", "removal_reason is set, but removed_at is null"),
    ("removed_at = 'infinity'", "removed_at is not a moment of the years 1 to 9999"),
]

VIEWS = [
    (
        "create or replace view archsync_platform.patient as select * from pacs.patient where patient_key <> 2",
        "platform view study, study_key 2: patient_key names a patient the patient view does not have",
    ),
    (
        (
            "create or replace view archsync_platform.patient as select * from pacs.patient"
            " union all select * from pacs.patient where patient_key = 2"
        ),
        "platform view study, study_key 2: study_key appears in more than one row",
    ),
    (
        (
            "create or replace view archsync_platform.instance as select * from pacs.instance"
            " union all select * from pacs.instance where instance_key = 3"
        ),
        "platform view instance, instance_key 3: instance_key appears in more than one row",
    ),
    (
        (
            "insert into pacs.facility values ('X', 'X', 'x');"
            " update pacs.study set facility_id = 'X' where study_key = 2;"
            " create or replace view archsync_platform.facility as select * from pacs.facility where facility_id <> 'X'"
        ),
        "platform view study, study_key 2: facility_id names a facility the facility view does not have",
    ),
    (
        (
            "update pacs.patient set sex = 'not a number' where patient_key = 2;"
            " create or replace view archsync_platform.patient as"
            " select patient_key, patient_id, issuer_of_patient_id, name, birth_date,"
            " case when sex = 'F' then sex else (sex::int)::text end as sex, merged_into_patient_key, revision"
            " from pacs.patient"
        ),
        r"study_key 2: PostgreSQL refuses a value that a platform view computes, or a key \(SQLSTATE 22P02\)",
    ),
]


def assert_only_study_2_is_rejected(platform, problem: str) -> None:
    batch = platform.fetch_studies(["1", "2", "3", "4", "5"])
    assert {study.study_key for study in batch.studies} == {"1", "3", "4", "5"}
    assert all(len(study.instances) == 2 for study in batch.studies)
    assert list(batch.rejected) == ["2"]
    error = batch.rejected["2"]
    assert error.code == "platform-row"
    with pytest.raises(InvalidInput, match=f"^{problem}$"):
        raise error


@pytest.mark.parametrize(("change", "problem"), STUDY_CHANGES)
def test_a_bad_study_row_spoils_only_its_study(platform, loose, change, problem):
    loose.execute(f"update pacs.study set {change} where study_key = 2")
    assert_only_study_2_is_rejected(platform, f"platform view study, study_key 2: {problem}")


@pytest.mark.parametrize(("change", "problem"), INSTANCE_CHANGES)
def test_a_bad_instance_row_spoils_only_its_study(platform, loose, change, problem):
    loose.execute(f"update pacs.instance set {change} where instance_key = 3")
    assert_only_study_2_is_rejected(platform, f"platform view instance, instance_key 3: {problem}")


@pytest.mark.parametrize("change", ["patient_id = null", "name = null", "birth_date = '-infinity'"])
def test_a_bad_patient_row_spoils_only_its_studies(platform, loose, change):
    loose.execute(f"update pacs.patient set {change} where patient_key = 2")
    column = change.split()[0]
    assert_only_study_2_is_rejected(platform, f"platform view patient, patient_key 2: {column} is .*")


@pytest.mark.parametrize(("statements", "problem"), VIEWS)
def test_a_view_that_maps_a_row_badly_spoils_only_its_study(platform, loose, statements, problem):
    loose.execute(statements)
    assert_only_study_2_is_rejected(platform, problem)
