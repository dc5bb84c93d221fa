"""Batches of studies: complete, in few queries, and one bad row spoils only its own study."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import psycopg
import pytest

from archsync.core.study import Facility, Instance, Patient, Priority, RemovalReason, Study
from archsync.errors import ConfigurationError, InvalidInput, PlatformUnavailable
from archsync.launcher.postgres import free_port
from archsync.platformdb.reader import Platform
from archsync.platformdb.watermark import RevisionMode


def test_a_study_comes_with_patient_facility_and_all_instances(platform, add_studies, dba):
    add_studies(1, instances=2)
    dba.execute(
        "update pacs.instance set removed_at = '2026-03-04 05:06:07.25+02', removal_reason = 'patient_safety'"
        " where instance_key = 2"
    )
    dba.execute("update pacs.study set exam_status = 'Inflight', priority = 'STAT', on_hold = true")
    revisions = {
        table: dba.execute(f"select revision from pacs.{table} order by 1").fetchall()
        for table in ("patient", "study", "instance")
    }
    (study,) = platform.fetch_studies(["1"]).studies

    def instance(number: int, revision: int, **removal: object) -> Instance:
        return Instance(
            instance_key=str(number), study_key="1", series_instance_uid="1.2.1.1", series_number=1, modality="CT",
            sop_instance_uid=f"1.2.1.1.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1", instance_number=number, location=f"file:///images/1/{number}.dcm",
            size_bytes=1000 + number, revision=revision, **removal,
        )  # fmt: skip

    assert study == Study(
        study_key="1",
        study_instance_uid="1.2.1",
        patient=Patient("1", "P1", "CITYMRN", "Doe^Jane", date(1970, 1, 1), "F", revision=revisions["patient"][0][0]),
        facility=Facility("CITY", "City Hospital", "metro", "CITYMRN", "1.2.3", "ISO", "CITY"),
        exam_status="Inflight",
        priority=Priority.STAT,
        on_hold=True,
        accession_number="A1",
        study_date=date(2026, 1, 2),
        study_time=time(13, 4, 5, 500_000),
        description="Chest",
        referring_physician="Who^Doctor",
        study_id="S1",
        revision=revisions["study"][0][0],
        instances=study.instances,
    )
    assert {i.instance_key: i for i in study.instances} == {
        "1": instance(1, revisions["instance"][0][0]),
        "2": instance(
            2,
            revisions["instance"][1][0],
            removed_at=datetime(2026, 3, 4, 3, 6, 7, 250_000, UTC),
            removal_reason=RemovalReason.PATIENT_SAFETY,
        ),
    }
    assert [i.instance_key for i in study.present_instances] == ["1"]


def test_a_batch_takes_two_queries_whatever_its_size(platform, add_studies, monkeypatch):
    add_studies(60, instances=3)
    platform.fetch_studies(["1"])  # the types of the keys are asked for once
    statements: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(cursor, query, *arguments, **options):
        statements.append(query if isinstance(query, str) else query.as_string(cursor))
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    batch = platform.fetch_studies([str(n) for n in range(1, 61)])
    assert len(batch.studies) == 60
    assert sum(len(study.instances) for study in batch.studies) == 180
    assert sum("archsync_platform" in statement for statement in statements) == 2


def test_studies_that_are_gone_are_named_and_no_study_is_no_query(platform, add_studies):
    add_studies(1)
    batch = platform.fetch_studies(["1", "77", "1"])
    assert [study.study_key for study in batch.studies] == ["1"]
    assert batch.missing == ("77",)
    assert Platform(lambda: pytest.fail("connected for nothing")).fetch_studies([]).studies == ()


def test_a_study_without_instances_is_read(platform, add_studies):
    add_studies(1, instances=0)
    assert platform.fetch_studies(["1"]).studies[0].instances == ()


def test_instances_of_one_batch_are_seen_in_one_snapshot(platform, platform_dsn, add_studies, monkeypatch):
    """A move that commits between the two queries of a batch shows the instance neither twice nor not at all."""
    add_studies(2, instances=1)
    instances = type(platform.queries).instances

    def move_first(queries, cursor, keys):
        with psycopg.connect(platform_dsn, autocommit=True) as dba:
            dba.execute("update pacs.instance set study_key = 2 where study_key = 1")
        return instances(queries, cursor, keys)

    monkeypatch.setattr(type(platform.queries), "instances", move_first)
    assert [len(study.instances) for study in platform.fetch_studies(["1", "2"]).studies] == [1, 1]


def test_the_value_postgres_refuses_is_not_quoted_in_the_error(platform, add_studies, dba):
    add_studies(1)
    dba.execute(
        "update pacs.patient set name = 'Secret^Name'; create or replace view archsync_platform.patient as select"
        " patient_key, patient_id, issuer_of_patient_id, name::int::text as name, birth_date, sex,"
        " merged_into_patient_key, revision from pacs.patient"
    )
    error = platform.fetch_studies(["1"]).rejected["1"]
    causes = [error, error.__cause__, None if error.__suppress_context__ else error.__context__]
    assert "Secret" not in " ".join(str(cause) for cause in causes if cause)


def test_a_removed_instance_needs_no_file_and_no_reason(platform, add_studies, dba):
    add_studies(1, instances=1)
    dba.execute("alter table pacs.instance alter location drop not null")
    dba.execute("update pacs.instance set removed_at = now(), location = null")
    (instance,) = platform.fetch_studies(["1"]).studies[0].instances
    assert (instance.location, instance.removal_reason) == ("", RemovalReason.UNSPECIFIED)


def test_a_status_outside_the_three_is_passed_on(platform, add_studies, dba):
    add_studies(1)
    dba.execute("update pacs.study set exam_status = 'Cancelled'")
    assert platform.fetch_studies(["1"]).studies[0].exam_status == "Cancelled"


@pytest.mark.parametrize(
    ("key_type", "expression"),
    [
        ("text", "'study-' || study_key"),
        ("character varying(20)", "study_key::varchar(20)"),
        ("integer", "study_key::int"),
        ("numeric", "study_key::numeric"),
        ("uuid", "lpad(study_key::text, 32, '0')::uuid"),
        ("pacs.odd type", 'study_key::text::pacs."odd type"'),
    ],
)
def test_keys_may_be_of_any_type(platform, add_studies, dba, key_type, expression):
    add_studies(12, instances=1)
    dba.execute(
        f"""
        create domain pacs."odd type" as text;
        drop view archsync_platform.study;
        create view archsync_platform.study as select {expression} as study_key, study_instance_uid, patient_key,
            facility_id, accession_number, study_date, study_time, description, referring_physician, study_id,
            exam_status, priority, on_hold, revision from pacs.study;
        drop view archsync_platform.instance;
        create view archsync_platform.instance as select instance_key, {expression} as study_key, series_instance_uid,
            series_number, modality, sop_instance_uid, sop_class_uid, transfer_syntax_uid, instance_number, location,
            size_bytes, content_version, removed_at, removal_reason, replaces_instance_key, revision from pacs.instance;
        """
    )
    pages = list(platform.walk_study_keys(5))
    assert [len(page) for page in pages] == [5, 5, 2]
    keys = [key for page in pages for key in page]
    batch = platform.fetch_studies(keys)
    assert all(len(study.instances) == 1 for study in batch.studies)
    assert {study.study_key for study in batch.studies} == set(keys)
    assert len(set(keys)) == 12


def test_pages_follow_the_order_of_the_keys_own_type(platform, add_studies):
    add_studies(11, instances=0)
    assert platform.iterate_study_keys(limit=10)[-2:] == ("9", "10")
    assert platform.iterate_study_keys(after="9") == ("10", "11")
    assert platform.iterate_study_keys(after="11") == ()


def test_studies_are_found_by_uid_accession_number_or_both(platform, add_studies, dba):
    add_studies(3)
    dba.execute("update pacs.study set accession_number = 'SAME' where study_key in (2, 3)")
    assert platform.find_study_keys(study_instance_uid="1.2.3") == ("3",)
    assert platform.find_study_keys(accession_number="SAME") == ("2", "3")
    assert platform.find_study_keys(accession_number="SAME", study_instance_uid="1.2.2") == ("2",)
    assert platform.find_study_keys(accession_number="' or true --") == ()
    with pytest.raises(InvalidInput, match="name a Study Instance UID or an accession number"):
        platform.find_study_keys()


def test_facilities_are_read_and_a_repeated_one_is_refused(platform, add_studies, dba):
    add_studies(1)
    dba.execute("insert into pacs.facility (facility_id, name, facility_group) values ('NORTH', 'North', 'region')")
    assert platform.fetch_facilities() == (
        Facility("CITY", "City Hospital", "metro", "CITYMRN", "1.2.3", "ISO", "CITY"),
        Facility("NORTH", "North", "region"),
    )
    dba.execute(
        "create or replace view archsync_platform.facility as"
        " select * from pacs.facility union all select * from pacs.facility"
    )
    with pytest.raises(InvalidInput, match="facility_id CITY: facility_id appears in more than one row"):
        platform.fetch_facilities()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "drop view archsync_platform.instance",
            'relation "archsync_platform.instance" does not exist|no archsync_platform',
        ),
        ("drop schema archsync_platform cascade", "no archsync_platform.study with a column study_key"),
        ("alter view archsync_platform.study rename column priority to prio", "column s.priority does not exist"),
        ("alter view archsync_platform.patient rename column patient_key to pk", "column p.patient_key does not exist"),
        ("a user without privileges", "permission denied"),
    ],
)
def test_views_that_do_not_fit_are_a_configuration_error_that_names_the_check(
    platform_dsn, add_studies, dba, change, message
):
    add_studies(1)
    if change == "a user without privileges":
        dba.execute(
            "do $$ begin if not exists (select from pg_roles where rolname = 'archsync_nobody') then"
            " create role archsync_nobody login password 'x'; end if; end $$"
        )
        info = psycopg.conninfo.conninfo_to_dict(platform_dsn) | {"user": "archsync_nobody", "password": "x"}
        platform_dsn = psycopg.conninfo.make_conninfo(**info)
    else:
        dba.execute(change)
    with (
        Platform.from_dsn(platform_dsn) as platform,
        pytest.raises(ConfigurationError, match=message) as caught,
    ):
        platform.fetch_studies(["1"])
    assert "archsync platform check" in caught.value.next_step


def test_a_server_that_does_not_answer_is_unavailable():
    with (
        Platform.from_dsn(f"postgresql://postgres@127.0.0.1:{free_port()}/x") as platform,
        pytest.raises(PlatformUnavailable, match=r"the platform database does not answer: .*refused"),
    ):
        platform.fetch_changes(None)


def test_a_lost_connection_is_unavailable_and_the_next_call_opens_a_new_one(platform, platform_dsn, add_studies, dba):
    add_studies(1)
    platform.fetch_studies(["1"])
    dba.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname ="
                " current_database()")  # fmt: skip
    with pytest.raises(PlatformUnavailable):
        platform.fetch_studies(["1"])
    assert len(platform.fetch_studies(["1"]).studies) == 1


def test_a_query_that_takes_too_long_is_given_up(platform_dsn, add_studies, dba):
    add_studies(1)
    dba.execute("create or replace view archsync_platform.facility as select f.* from pacs.facility f, pg_sleep(60)")
    with (
        Platform.from_dsn(platform_dsn, timeout_s=0.1) as platform,
        pytest.raises(PlatformUnavailable, match="statement timeout"),
    ):
        platform.fetch_facilities()


def test_the_reader_can_not_write(platform, add_studies):
    add_studies(1)
    with (
        pytest.raises(PlatformUnavailable, match="cannot execute UPDATE in a read-only transaction"),
        platform.session.transaction() as cursor,
    ):
        cursor.execute("update pacs.study set on_hold = true")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"revision": "magic"}, "\"revision\" must be transaction or sequence, not 'magic'"),
        ({"overlap": "many"}, '"overlap" must be a whole number'),
        ({"overlap": -1}, '"overlap" must be a whole number'),
        ({"overlap": True}, '"overlap" must be a whole number'),
        ({"schema": ""}, '"schema" must name a schema'),
        ({"schema": 5}, '"schema" must name a schema'),
    ],
)
def test_a_wrong_setting_in_the_connections_extra_is_named(extra, message):
    with pytest.raises(ConfigurationError, match=message):
        Platform.from_extra(lambda: None, extra)


def test_the_connections_extra_sets_schema_mode_and_overlap(platform_dsn, add_studies, dba):
    add_studies(1)
    dba.execute('alter schema archsync_platform rename to "Sicht en"')
    platform = Platform.from_extra(
        lambda: psycopg.connect(platform_dsn),
        {"schema": "Sicht en", "revision": "sequence", "overlap": "7", "sslmode": "x"},
    )
    with platform:
        assert (platform.schema, platform.revision, platform.overlap) == ("Sicht en", RevisionMode.SEQUENCE, 7)
        assert len(platform.fetch_studies(["1"]).studies) == 1
        assert platform.fetch_changes(platform.fetch_changes(None).watermark).study_keys == ("1",)
