"""What each archive provably holds, and how the tables behave when there is much of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from archsync.core.transfer import OutgoingInstance, StoreOutcome, StoreResult
from archsync.ledger import holdings
from archsync.ledger.holdings import StoredRecorder

STUDIES, SERIES, PER_SERIES = 500, 2, 100


def outcomes(study, *numbers: int, status: int = 0) -> list[StoreOutcome]:
    return [
        StoreOutcome(
            OutgoingInstance(i.instance_key, i.sop_class_uid, i.sop_instance_uid, i.transfer_syntax_uid, i.location),
            StoreResult.STORED if status == 0 else StoreResult.WARNING,
            status=status,
        )
        for n, i in enumerate(study.instances)
        if not numbers or n in numbers
    ]


def test_what_was_stored_is_held_as_that_archive_knows_it(ledger, destination, make_study):
    study = make_study(instances=4, series=2)
    StoredRecorder(ledger, destination.destination_id, study).record(outcomes(study, 0, 1, 2, status=0xB000))

    held = holdings.of_studies(ledger, destination.destination_id, ["s1", "s2"])
    assert set(held) == {"s1"}
    assert {(h.instance_key, h.sop_instance_uid, h.is_verified, h.is_rejected) for h in held["s1"].values()} == {
        (i.instance_key, i.sop_instance_uid, False, False) for i in study.instances[:3]
    }
    details = holdings.instances_of_study(ledger, destination.destination_id, "1.2.1")
    assert [d.store_status for d in details] == [0xB000] * 3
    (total,) = holdings.listing(ledger, destination.destination_id)
    assert (total.study_key, total.series, total.instances, total.verified) == ("s1", 2, 3, 0)


def test_recording_twice_changes_nothing_but_the_moment(ledger, destination, make_study, sql):
    study = make_study(instances=3)
    for _ in range(2):
        StoredRecorder(ledger, destination.destination_id, study).record(outcomes(study))

    assert sql("select count(*) from held_instance") == [(3,)]
    assert sql("select count(*) from held_series") == [(1,)]


def test_a_resent_instance_has_to_be_checked_again(ledger, destination, make_study):
    study = make_study(instances=2)
    recorder = StoredRecorder(ledger, destination.destination_id, study)
    recorder.record(outcomes(study))
    holdings.mark_verified(ledger, destination.destination_id, ["s1/0", "s1/1"])
    recorder.record(outcomes(study, 1))

    held = holdings.of_studies(ledger, destination.destination_id, ["s1"])["s1"]
    assert {key: h.is_verified for key, h in held.items()} == {"s1/0": True, "s1/1": False}


def test_images_sent_under_another_identity_are_told_apart(ledger, destination, make_study, sql):
    study = make_study(instances=2)
    StoredRecorder(ledger, destination.destination_id, study).record(outcomes(study, 0))
    renamed = replace(study, patient=replace(study.patient, patient_id="ANOTHER"))
    StoredRecorder(ledger, destination.destination_id, renamed).record(outcomes(renamed, 1))

    assert sql(
        "select i.instance_key, s.patient_id from held_instance i join held_series s using (held_series_id) order by 1"
    ) == [("s1/0", "MRN-p1"), ("s1/1", "ANOTHER")]


def test_an_identity_without_issuer_makes_one_series(ledger, destination, make_study, sql):
    study = make_study(instances=2)
    study = replace(study, patient=replace(study.patient, issuer_of_patient_id=None))
    for number in (0, 1):
        StoredRecorder(ledger, destination.destination_id, study).record(outcomes(study, number))

    assert sql("select count(*) from held_series") == [(1,)]


def test_what_the_archive_does_not_list_is_forgotten(ledger, destination, make_study):
    study = make_study(instances=2)
    StoredRecorder(ledger, destination.destination_id, study).record(outcomes(study))
    holdings.forget(ledger, destination.destination_id, ["s1/0"])

    assert set(holdings.of_studies(ledger, destination.destination_id, ["s1"])["s1"]) == {"s1/1"}


def test_each_archive_holds_its_own(ledger, destination, add_destination, make_study):
    other = add_destination("other")
    study = make_study()
    StoredRecorder(ledger, destination.destination_id, study).record(outcomes(study))
    holdings.set_archived(ledger, destination.destination_id, "s1")

    assert holdings.of_studies(ledger, other.destination_id, ["s1"]) == {}
    assert holdings.archived_studies(ledger, other.destination_id, ["s1"]) == set()
    assert not holdings.holds_anything(ledger, other.destination_id)
    assert holdings.holds_anything(ledger, destination.destination_id)
    holdings.forget(ledger, other.destination_id, ["s1/0"])
    assert len(holdings.of_studies(ledger, destination.destination_id, ["s1"])["s1"]) == 2


def test_a_study_is_archived_for_the_first_time_once(ledger, destination):
    assert holdings.set_archived(ledger, destination.destination_id, "s1")
    assert not holdings.set_archived(ledger, destination.destination_id, "s1")
    assert holdings.archived_studies(ledger, destination.destination_id, ["s1", "s2"]) == {"s1"}


# -- with many rows ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(destination, add_destination, sql) -> list[int]:
    """100 000 instances at each of two archives, with UIDs and keys as long as real ones."""
    ids = [destination.destination_id, add_destination("other").destination_id]
    root = "1.2.840.113619.2.55.3.604688119.868."
    for destination_id in ids:
        sql(
            "insert into held_series (destination_id, study_key, patient_key, study_instance_uid, series_instance_uid,"
            " patient_id, issuer_of_patient_id)"
            " select %s, st::text, (st / 3)::text, %s || st, %s || st || '.' || se, 'P' || st, 'CITYMRN'"
            " from generate_series(1, %s) st, generate_series(1, %s) se",
            destination_id, root, root, STUDIES, SERIES,
        )  # fmt: skip
        sql(
            "insert into held_instance (destination_id, content_version, held_series_id, stored_at, verified_at,"
            " store_status, instance_key, sop_instance_uid)"
            " select %s, 1, held_series_id, now(), now(), 0, (1000000000 + held_series_id * 1000 + i)::text,"
            " series_instance_uid || '.' || 100000 + i"
            " from held_series, generate_series(1, %s) i where destination_id = %s order by random()",
            destination_id, PER_SERIES, destination_id,
        )  # fmt: skip
    sql("vacuum analyze held_series")
    sql("vacuum analyze held_instance")
    return ids


def test_questions_touch_one_archives_partition_by_index_and_rows_are_narrow(
    ledger, many, sql, capsys, postgres_version
):
    def scans(statement: str, **parameters) -> set[tuple[str, str]]:
        row = ledger.fetch_one(f"explain (format json) {holdings.SQL[statement]}", parameters)
        assert row is not None
        found: set[tuple[str, str]] = set()

        def walk(node: dict) -> None:
            if "Relation Name" in node and node["Node Type"] != "ModifyTable":
                found.add((node["Relation Name"], node["Node Type"]))
            for child in node.get("Plans", []):
                walk(child)

        plan = row["QUERY PLAN"]
        walk((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        return found

    first = many[0]
    keys = [str(n) for n in range(1, 6)]
    for statement, parameters in {
        "of_studies": {"study_keys": keys},
        "instances_of_study": {"study_instance_uid": "1.2.840.113619.2.55.3.604688119.868.17"},
        "listing": {"study_instance_uid": "1.2.840.113619.2.55.3.604688119.868.17", "limit": 10},
        "forget": {"instance_keys": keys},
        "mark_verified": {"instance_keys": keys},
    }.items():
        touched = scans(statement, destination_id=first, **parameters)
        assert {table for table, _ in touched} <= {f"held_series_{first}", f"held_instance_{first}"}, statement
        instance_scans = {how for table, how in touched if table.startswith("held_instance")}
        assert "Seq Scan" not in instance_scans, (statement, touched)

    ((rows, table_bytes, index_bytes),) = sql(
        f"select count(*), pg_table_size('held_instance_{first}'), pg_indexes_size('held_instance_{first}')"
        f" from held_instance where destination_id = {first}"
    )
    assert rows == STUDIES * SERIES * PER_SERIES
    each = (table_bytes + index_bytes) / rows
    with capsys.disabled():
        print(
            f"\nPostgreSQL {postgres_version}: held_instance {table_bytes / rows:.0f} bytes a row"
            f" + {index_bytes / rows:.0f} of indexes; 10^9 rows: about {each * 1e9 / 2**30:.0f} GiB"
        )
    assert each < 300, "sized for 10^9 rows"
