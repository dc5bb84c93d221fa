"""Merged patients and replaced instances: who stands for whom at the end of every chain."""

from __future__ import annotations

import psycopg
import pytest

from archsync.core.study import RemovalReason
from archsync.errors import InvalidInput
from archsync.platformdb.reader import Platform


def merge(dba: psycopg.Connection, prior: int, survivor: int | None) -> None:
    dba.execute("update pacs.patient set merged_into_patient_key = %s where patient_key = %s", [survivor, prior])


def replace_instance(dba: psycopg.Connection, old: int, new: int, *, removed: bool = False) -> None:
    dba.execute(
        "update pacs.instance set replaces_instance_key = %s, removed_at = case when %s then now() end"
        " where instance_key = %s",
        [old, removed, new],
    )


@pytest.fixture
def texts_as_keys(platform, add_studies, dba) -> Platform:
    """Six studies; the keys in the views are texts that tables have as numbers."""
    add_studies(6, instances=1)
    dba.execute(
        """
        drop view archsync_platform.patient; drop view archsync_platform.study; drop view archsync_platform.instance;
        create view archsync_platform.patient as select ('P' || patient_key)::varchar(4) as patient_key, patient_id,
            issuer_of_patient_id, name, birth_date, sex, 'P' || merged_into_patient_key as merged_into_patient_key,
            revision from pacs.patient;
        create view archsync_platform.study as select 'S' || study_key as study_key, study_instance_uid,
            'P' || patient_key as patient_key, facility_id, accession_number, study_date, study_time, description,
            referring_physician, study_id, exam_status, priority, on_hold, revision from pacs.study;
        create view archsync_platform.instance as select ('I' || instance_key)::varchar(9) as instance_key,
            'S' || study_key as study_key, series_instance_uid, series_number, modality, sop_instance_uid,
            sop_class_uid, transfer_syntax_uid, instance_number, location, size_bytes, content_version, removed_at,
            removal_reason, 'I' || replaces_instance_key as replaces_instance_key, revision from pacs.instance;
        """
    )
    return platform


def test_patients_are_read_as_their_own_rows_are(platform, add_studies, dba):
    add_studies(3)
    merge(dba, 2, 1)
    patients = platform.fetch_patients(["2", "3", "77", "2"])
    assert set(patients) == {"2", "3"}
    assert (patients["2"].patient_id, patients["2"].merged_into_patient_key) == ("P2", "1")
    assert patients["3"].merged_into_patient_key is None
    assert patients.rejected == {}
    assert platform.fetch_patients([]) == {}


def test_a_bad_patient_row_spoils_only_itself(platform, add_studies, dba):
    add_studies(4)
    dba.execute(
        "create or replace view archsync_platform.patient as select patient_key, patient_id, issuer_of_patient_id,"
        " case patient_key when 2 then null when 3 then (name::int)::text else name end as name, birth_date, sex,"
        " merged_into_patient_key, revision from pacs.patient"
    )
    patients = platform.fetch_patients(["1", "2", "3", "4"])
    assert set(patients) == {"1", "4"}
    assert patients.rejected["2"].message == "platform view patient, patient_key 2: name is null"
    assert "patient_key 3: PostgreSQL refuses a value" in patients.rejected["3"].message
    assert {problem.code for problem in patients.rejected.values()} == {"platform-row"}


def test_a_patient_in_two_rows_is_refused(platform, add_studies, dba):
    add_studies(2)
    dba.execute(
        "create or replace view archsync_platform.patient as select * from pacs.patient"
        " union all select * from pacs.patient where patient_key = 2"
    )
    patients = platform.fetch_patients(["1", "2"])
    assert set(patients) == {"1"}
    assert "appears in more than one row" in patients.rejected["2"].message


def test_chains_of_merges_are_followed_to_their_end(platform, add_studies, dba):
    add_studies(6)
    merge(dba, 4, 3)
    merge(dba, 3, 2)
    merge(dba, 2, 1)
    merge(dba, 5, 2)
    assert platform.resolve_survivors(["4", "5", "1", "6", "77"]) == {"4": "1", "5": "1", "1": "1", "6": "6"}
    assert platform.resolve_survivors([]) == {}


def test_a_batch_takes_one_query_a_link_whatever_its_size(platform, add_studies, dba, monkeypatch):
    add_studies(60, instances=0)
    dba.execute("update pacs.patient set merged_into_patient_key = patient_key % 2 + 1 where patient_key > 2")
    merge(dba, 2, 1)
    platform.resolve_survivors(["1"])  # the types of the keys are asked for once
    statements: list[str] = []
    execute = psycopg.Cursor.execute

    def counting(cursor, query, *arguments, **options):
        statements.append(query if isinstance(query, str) else query.as_string(cursor))
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    survivors = platform.resolve_survivors([str(n) for n in range(1, 61)])
    assert set(survivors.values()) == {"1"}
    assert sum("archsync_platform" in statement for statement in statements) <= 3


def test_merges_in_a_circle_are_refused_for_whom_they_concern_only(platform, add_studies, dba):
    add_studies(6)
    merge(dba, 1, 2)
    merge(dba, 2, 3)
    merge(dba, 3, 2)
    merge(dba, 4, 4)
    merge(dba, 5, 6)
    survivors = platform.resolve_survivors(["1", "2", "3", "4", "5"])
    assert survivors == {"5": "6"}
    assert set(survivors.rejected) == {"1", "2", "3", "4"}
    assert survivors.rejected["1"].code == "patient-merge-cycle"
    assert survivors.rejected["1"].message == (
        "platform view patient, patient_key 1: the merges go round in a circle and come back to patient_key 2"
    )
    batch = platform.fetch_studies(["1", "4", "5", "6"])
    assert {study.study_key: study.patient.patient_key for study in batch.studies} == {"5": "6", "6": "6"}
    assert {key: problem.code for key, problem in batch.rejected.items()} == dict.fromkeys("14", "patient-merge-cycle")


def test_a_chain_that_leads_to_a_patient_the_view_lacks_ends_before(platform, add_studies, dba):
    add_studies(3)
    merge(dba, 1, 2)
    merge(dba, 2, 3)
    dba.execute("create or replace view archsync_platform.patient as select * from pacs.patient where patient_key <> 3")
    assert platform.resolve_survivors(["1", "2", "3"]) == {"1": "2", "2": "2"}
    (study,) = platform.fetch_studies(["1"]).studies
    assert study.patient.patient_key == "2"


def test_a_study_that_was_not_repointed_belongs_to_the_survivor_at_the_end_of_the_chain(platform, add_studies, dba):
    add_studies(3)
    merge(dba, 1, 2)
    merge(dba, 2, 3)
    dba.execute("update pacs.patient set name = 'Last^Name' where patient_key = 3")
    studies = {study.study_key: study for study in platform.fetch_studies(["1", "2", "3"]).studies}
    assert {study.patient for study in studies.values()} == {platform.fetch_patients(["3"])["3"]}
    assert studies["1"].patient.name == "Last^Name"
    assert [len(study.instances) for study in studies.values()] == [2, 2, 2]


def test_a_bad_row_of_the_survivor_spoils_the_studies_of_the_merged(platform, add_studies, dba):
    add_studies(3)
    merge(dba, 1, 2)
    dba.execute("update pacs.patient set birth_date = 'infinity' where patient_key = 2")
    batch = platform.fetch_studies(["1", "2", "3"])
    assert [study.study_key for study in batch.studies] == ["3"]
    assert all("view patient, patient_key 2: birth_date" in problem.message for problem in batch.rejected.values())
    assert set(batch.rejected) == {"1", "2"}


def test_instances_are_found_where_they_are_now(platform, add_studies, dba):
    add_studies(2, instances=2)
    dba.execute("update pacs.instance set study_key = 2 where instance_key = 1")
    dba.execute("update pacs.instance set removed_at = now() where instance_key = 2")
    assert platform.find_instances(["1", "2", "3", "99"]) == {"1": "2", "2": "1", "3": "2"}
    assert platform.find_instances([]) == {}


def test_replacements_are_the_present_instances_in_whatever_study(platform, add_studies, dba):
    add_studies(3, instances=2)
    replace_instance(dba, 1, 3)
    replace_instance(dba, 1, 5)
    replace_instance(dba, 2, 4, removed=True)
    assert platform.find_replacements(["1", "2", "6", "99"]) == {"1": (("2", "3"), ("3", "5"))}
    assert platform.find_replacements([]) == {}


def test_a_replacement_that_was_replaced_itself_is_followed_to_the_one_that_is_present(platform, add_studies, dba):
    add_studies(4, instances=1)
    replace_instance(dba, 1, 2, removed=True)
    replace_instance(dba, 2, 3, removed=True)
    replace_instance(dba, 3, 4)
    standing = (("4", "4"),)
    assert platform.find_replacements(["1"]) == {"1": standing}
    assert platform.find_replacements(["1", "2", "3"]) == {"1": standing, "2": standing, "3": standing}


def test_replacements_in_a_circle_stand_for_nothing(platform, add_studies, dba):
    add_studies(2, instances=1)
    replace_instance(dba, 1, 2, removed=True)
    replace_instance(dba, 2, 1, removed=True)
    assert platform.find_replacements(["1", "2"]) == {}


def test_links_are_followed_whatever_the_keys_types(texts_as_keys, dba):
    platform = texts_as_keys
    watermark = platform.fetch_changes(None).watermark
    merge(dba, 1, 2)
    merge(dba, 2, 3)
    replace_instance(dba, 4, 5)
    changes = platform.fetch_changes(watermark)
    assert set(changes.study_keys) == {"S1", "S2", "S3", "S5"}
    assert platform.resolve_survivors(["P1"]) == {"P1": "P3"}
    assert platform.fetch_patients(["P1"])["P1"].merged_into_patient_key == "P2"
    assert platform.fetch_studies(["S1"]).studies[0].patient.patient_key == "P3"
    assert platform.find_instances(["I4"]) == {"I4": "S4"}
    assert platform.find_replacements(["I4"]) == {"I4": (("S5", "I5"),)}


def test_a_key_longer_than_its_column_finds_no_other_row(texts_as_keys):
    assert texts_as_keys.fetch_patients(["P1", "P1  "]).keys() == {"P1"}
    assert texts_as_keys.resolve_survivors(["P1 is longer than four"]) == {}
    assert texts_as_keys.find_instances(["I1       and longer"]) == {}


def test_a_key_of_another_type_is_refused_without_being_quoted(platform, add_studies):
    add_studies(1)
    for ask in (platform.resolve_survivors, platform.find_instances, platform.find_replacements):
        with pytest.raises(InvalidInput, match=r"PostgreSQL refuses a value .* or a key") as refused:
            ask(["no number"])
        assert "no number" not in str(refused.value)
    assert set(platform.fetch_patients(["no number", "1"]).rejected) == {"no number"}


MERGES = [
    ([(2, 1)], {"1", "2"}, "both the survivor's and the prior's"),
    ([(3, 2), (2, 1)], {"1", "2", "3"}, "a chain, its first link first"),
    ([(2, 1), (3, 2)], {"1", "2", "3"}, "a chain, its last link first"),
    ([(2, 1), (4, 3)], {"1", "2", "3", "4"}, "two merges"),
]


@pytest.mark.parametrize(("merges", "studies", "case"), MERGES, ids=[m[2] for m in MERGES])
@pytest.mark.parametrize("repoints", [True, False])
def test_a_merge_touches_the_studies_of_survivor_and_prior(platform, add_studies, dba, merges, studies, case, repoints):
    add_studies(5)
    watermark = platform.fetch_changes(None).watermark
    with dba.transaction():
        for prior, survivor in merges:
            merge(dba, prior, survivor)
            if repoints:
                dba.execute("update pacs.study set patient_key = %s where patient_key = %s", [survivor, prior])
    changes = platform.fetch_changes(watermark)
    assert set(changes.study_keys) == studies, case
    assert platform.fetch_changes(changes.watermark).study_keys == ()


def test_a_change_of_the_survivor_touches_the_studies_that_still_name_who_was_merged(platform, add_studies, dba):
    add_studies(5)
    merge(dba, 3, 2)
    merge(dba, 2, 1)
    watermark = platform.fetch_changes(None).watermark
    dba.execute("update pacs.patient set name = 'New^Name' where patient_key = 1")
    assert set(platform.fetch_changes(watermark).study_keys) == {"1", "2", "3"}


def test_an_undone_merge_touches_the_studies_of_the_patient_who_is_back(platform, add_studies, dba):
    add_studies(3)
    merge(dba, 2, 1)
    watermark = platform.fetch_changes(None).watermark
    merge(dba, 2, None)
    assert "2" in platform.fetch_changes(watermark).study_keys
    (study,) = platform.fetch_studies(["2"]).studies
    assert study.patient.patient_key == "2"


def test_merges_in_a_circle_end_the_search_for_changes(platform, add_studies, dba):
    add_studies(3)
    watermark = platform.fetch_changes(None).watermark
    merge(dba, 1, 2)
    merge(dba, 2, 1)
    assert set(platform.fetch_changes(watermark).study_keys) == {"1", "2"}


def test_a_merge_that_commits_late_is_not_missed(platform, platform_dsn, add_studies, dba):
    add_studies(4)
    watermark = platform.fetch_changes(None).watermark
    with psycopg.connect(platform_dsn) as slow:
        slow.execute("update pacs.patient set merged_into_patient_key = 1 where patient_key = 2")
        dba.execute("update pacs.study set on_hold = true where study_key = 4")
        changes = platform.fetch_changes(watermark)
        assert changes.study_keys == ("4",)
        slow.commit()
    assert set(platform.fetch_changes(changes.watermark).study_keys) == {"1", "2"}


def test_more_merges_than_the_limit_become_a_full_comparison(platform, add_studies, dba):
    add_studies(9)
    merge(dba, 2, 1)
    watermark = platform.fetch_changes(None).watermark
    dba.execute("update pacs.patient set merged_into_patient_key = 9 where patient_key between 3 and 5")
    assert len(platform.fetch_changes(watermark, limit=4).study_keys) == 4
    assert platform.fetch_changes(watermark, limit=3).is_full


def test_a_removed_instance_is_still_found_with_its_study_and_reason(platform, add_studies, dba):
    add_studies(1, instances=1)
    dba.execute("update pacs.instance set removed_at = now(), removal_reason = 'quality'")
    (study_key,) = platform.find_instances(["1"]).values()
    (instance,) = platform.fetch_studies([study_key]).studies[0].instances
    assert instance.removal_reason is RemovalReason.QUALITY
