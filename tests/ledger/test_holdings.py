"""What UIDs stand for, what each archive provably holds, and how the tables behave when there is much of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from archsync.core.comparison import HeldInstance
from archsync.core.identity import HeldPatient
from archsync.core.placing import Decision, NewPlacement
from archsync.core.uid_map import InstanceUids
from archsync.errors import ArchsyncError
from archsync.ledger import holdings, holds, patients

STUDIES, SERIES, PER_SERIES = 500, 2, 100


@pytest.fixture
def place(ledger):
    """Place the instances of a study as they are; gives their placements."""

    def make(study, *, number: int = 1, suffix: str = ""):
        new = [
            NewPlacement(
                i, number, InstanceUids(study.study_instance_uid, i.series_instance_uid, i.sop_instance_uid + suffix)
            )
            for i in study.instances
        ]
        holdings.insert_placements(ledger, study, new)
        placed = holdings.placements(ledger, study_keys=[study.study_key], instance_keys=[])
        return [p for p in placed if p.placement_no == number]

    return make


@pytest.fixture
def store(ledger):
    """Have a destination acknowledge placements."""

    def record(destination, placed, *, status: int = 0) -> None:
        ids = [p.placement_id for p in placed]
        holdings.offer(ledger, destination.destination_id, ids)
        holdings.record_stored(ledger, destination.destination_id, [(i, status) for i in ids])

    return record


def held(ledger, destination, placed) -> dict[str, HeldInstance]:
    found = holdings.held(ledger, [destination.destination_id], {p.placement_id: p for p in placed})
    return {h.placed.instance_key: h for h in found[destination.destination_id].values()}


def test_what_was_stored_is_held_as_that_archive_knows_it(ledger, destination, make_study, place, store):
    study = make_study(instances=4, series=2)
    placed = place(study)
    store(destination, placed[:3], status=0xB000)

    assert {
        key: (h.is_stored, h.is_verified, h.rejected_by) for key, h in held(ledger, destination, placed).items()
    } == {p.instance_key: (True, False, None) for p in placed[:3]}
    details = holdings.instances_of_study(ledger, destination.destination_id, "1.2.1")
    assert [d.store_status for d in details] == [0xB000] * 3
    (total,), _ = holdings.listing(ledger, destination.destination_id)
    assert (total.study_key, total.instances, total.verified, total.rejected) == ("s1", 3, 0, 0)


def test_studies_come_in_pages_last_archived_first(ledger, destination, make_study, place, store):
    keys = [f"s{n}" for n in range(1, 6)]
    for key in keys:
        store(destination, place(make_study(key, instances=3)))
    seen: list[str] = []
    before, pages = None, 0
    while before is not None or not pages:
        page, before = holdings.listing(ledger, destination.destination_id, before=before, limit=2)
        seen += [study.study_key for study in page]
        pages += 1
    assert (seen, pages) == (keys[::-1], 3)


def test_what_was_only_offered_is_not_claimed(ledger, destination, make_study, place):
    placed = place(make_study(instances=2))
    holdings.offer(ledger, destination.destination_id, [placed[0].placement_id])

    (offered,) = held(ledger, destination, placed).values()
    assert not offered.is_stored
    assert holdings.listing(ledger, destination.destination_id) == ([], None)
    assert holdings.instances_of_study(ledger, destination.destination_id, "1.2.1") == []


def test_offering_again_takes_nothing_back(ledger, destination, make_study, place, store):
    placed = place(make_study(instances=2))
    store(destination, placed)
    holdings.offer(ledger, destination.destination_id, [p.placement_id for p in placed])

    assert all(h.is_stored for h in held(ledger, destination, placed).values())


def test_a_resent_instance_has_to_be_checked_again(ledger, destination, make_study, place, store):
    placed = place(make_study(instances=2))
    store(destination, placed)
    holdings.mark_verified(ledger, destination.destination_id, [p.placement_id for p in placed])
    store(destination, placed[1:])

    assert {key: h.is_verified for key, h in held(ledger, destination, placed).items()} == {
        "s1/0": True,
        "s1/1": False,
    }


def test_an_instance_the_archive_lists_is_stored_though_its_answer_was_lost(ledger, destination, make_study, place):
    placed = place(make_study(instances=1))
    holdings.offer(ledger, destination.destination_id, [placed[0].placement_id])
    holdings.mark_verified(ledger, destination.destination_id, [placed[0].placement_id])

    (found,) = held(ledger, destination, placed).values()
    assert (found.is_stored, found.is_verified) == (True, True)


def test_what_the_archive_does_not_list_is_forgotten(ledger, destination, make_study, place, store):
    placed = place(make_study(instances=2))
    store(destination, placed)
    holdings.forget(ledger, destination.destination_id, [placed[0].placement_id])

    assert set(held(ledger, destination, placed)) == {"s1/1"}


def test_each_archive_holds_its_own(ledger, destination, add_destination, make_study, place, store):
    other = add_destination("other")
    placed = place(make_study())
    store(destination, placed)
    holdings.set_archived(ledger, destination.destination_id, "s1")

    assert held(ledger, other, placed) == {}
    both = [destination.destination_id, other.destination_id]
    assert set(holdings.archived_studies(ledger, both, ["s1"])) == {(destination.destination_id, "s1")}
    assert not holdings.holds_anything(ledger, other.destination_id)
    assert holdings.holds_anything(ledger, destination.destination_id)
    holdings.forget(ledger, other.destination_id, [placed[0].placement_id])
    assert len(held(ledger, destination, placed)) == len(placed)


def test_a_study_is_archived_for_the_first_time_once(ledger, destination):
    assert holdings.set_archived(ledger, destination.destination_id, "s1")
    assert not holdings.set_archived(ledger, destination.destination_id, "s1")
    assert set(holdings.archived_studies(ledger, [destination.destination_id], ["s1", "s2"])) == {
        (destination.destination_id, "s1")
    }


# -- UIDs --------------------------------------------------------------------------------------------------------------


def test_a_sop_instance_uid_never_stands_for_two_contents(ledger, make_study, place):
    study = make_study(instances=1)
    place(study)
    with pytest.raises(ArchsyncError, match="23P01"):
        place(study, number=2)


def test_the_places_of_an_instance_are_found_by_its_key_in_their_order(ledger, make_study, place):
    study = make_study(instances=1)
    place(study)
    place(study, number=2, suffix=".2")

    found = holdings.placements(ledger, study_keys=[], instance_keys=["s1/0"])
    assert [(p.placement_no, p.is_minted) for p in found] == [(1, False), (2, True)]
    assert found[1].source_sop_instance_uid == study.instances[0].sop_instance_uid


def test_uids_are_bound_to_what_they_were_first_sent_as(ledger, make_study, place):
    study = make_study(instances=1)
    (placed,) = place(study)

    bound = holdings.bound(
        ledger,
        study_uids=[study.study_instance_uid, "9.9"],
        series_uids=[placed.uids.series_instance_uid, "9.8"],
        sop_uids=[placed.uids.sop_instance_uid, "9.7"],
    )
    assert bound.patient_of_study == {study.study_instance_uid: study.patient.patient_key}
    assert bound.study_of_series == {placed.uids.series_instance_uid: study.study_instance_uid}
    assert bound.used_sop_uids == {placed.uids.sop_instance_uid}


def test_a_decision_about_a_dependant_can_be_revised(ledger, make_study, place):
    (placed,) = place(make_study(instances=1))
    for decision in (Decision.REPLACE, Decision.WITHDRAW):
        holdings.decide_dependants(ledger, [placed.placement_id], decision)

    (found,) = holdings.placements(ledger, study_keys=["s1"], instance_keys=[])
    assert found.decision is Decision.WITHDRAW


# -- notes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def note(sql, destination, add_job):
    """A rejection note that was built."""
    ((note_id,),) = sql(
        "insert into rejection_note (job_id, destination_id, study_key, study_instance_uid, sop_instance_uid, title,"
        " scope, part, instances) values (%s, %s, 's1', '1.2.1', '2.25.1', '113001', 1, 1, 1) returning note_id",
        add_job(), destination.destination_id,
    )  # fmt: skip
    return note_id


def test_a_uid_is_burnt_everywhere_from_the_moment_a_note_names_it(
    ledger, destination, make_study, place, store, note, sql
):
    placed = place(make_study(instances=2))
    store(destination, placed)
    holdings.claim(ledger, destination.destination_id, note, [placed[0].placement_id])

    found = holdings.placements(ledger, study_keys=["s1"], instance_keys=[])
    assert [p.is_burnt for p in found] == [True, False]
    claimed = held(ledger, destination, placed)["s1/0"]
    assert (claimed.rejected_by, claimed.is_hidden) == (note, False)
    holdings.forget(ledger, destination.destination_id, [placed[0].placement_id])
    assert "s1/0" in held(ledger, destination, placed), "what a note names is kept"
    sql("update rejection_note set stored_at = now() where note_id = %s", note)
    assert held(ledger, destination, placed)["s1/0"].is_hidden


def test_a_note_that_was_given_up_names_nothing(ledger, destination, make_study, place, store, note):
    placed = place(make_study(instances=2))
    store(destination, placed)
    ids = [p.placement_id for p in placed]
    holdings.claim(ledger, destination.destination_id, note, ids)
    holdings.release(ledger, destination.destination_id, note, ids[:1])
    assert [h.rejected_by for h in held(ledger, destination, placed).values()] == [None, note]
    holdings.release(ledger, destination.destination_id, note)
    assert [h.rejected_by for h in held(ledger, destination, placed).values()] == [None, None]


# -- patients and holds ------------------------------------------------------------------------------------------------


def test_an_archive_knows_a_patient_as_first_sent_until_it_is_told(ledger, destination, add_destination):
    other = add_destination("other")
    first = HeldPatient("p1", "MRN1", "CITY", "Doe^John")
    patients.learn(ledger, destination.destination_id, first)
    patients.learn(ledger, destination.destination_id, HeldPatient("p1", "MRN2", "CITY", "Doe^Jane"))
    both = [destination.destination_id, other.destination_id]
    offered = replace(first, is_introduced=False)
    assert patients.held(ledger, both, ["p1", "p2"])[destination.destination_id] == {"p1": offered}
    patients.file(ledger, destination.destination_id, "1.2.1", "p1")
    patients.introduce(ledger, destination.destination_id, ["1.2.1"])
    assert patients.held(ledger, both, ["p1", "p2"]) == {
        destination.destination_id: {"p1": first},
        other.destination_id: {},
    }

    told = HeldPatient("p1", "MRN2", "CITY", "Doe^Jane", datetime(1970, 1, 1, tzinfo=UTC).date(), "F")
    patients.tell(ledger, destination.destination_id, told)
    assert patients.held(ledger, both, ["p1"])[destination.destination_id] == {"p1": told}


def test_who_gave_way_no_longer_has_their_identifier(ledger, destination):
    prior, survivor = HeldPatient("p1", "MRN1", None, ""), HeldPatient("p2", "MRN2", None, "")
    patients.tell(ledger, destination.destination_id, prior)
    patients.file(ledger, destination.destination_id, "1.2.1", "p1")
    assert patients.holders(ledger, destination.destination_id, "MRN1", None) == {"p1"}
    patients.tell(ledger, destination.destination_id, survivor, prior_patient_key="p1")

    assert patients.holders(ledger, destination.destination_id, "MRN1", None) == set()
    known = patients.held(ledger, [destination.destination_id], ["p1", "p2"])[destination.destination_id]
    assert (known["p1"].merged_into, known["p2"].merged_into) == ("p2", None)
    assert patients.filed_under(ledger, destination.destination_id, "1.2.1") == known["p2"]
    assert patients.filed_under(ledger, destination.destination_id, "9.9") is None


def test_a_study_is_held_back_until_it_is_released(ledger):
    assert holds.add(ledger, study_key="s1", study_instance_uid="1.2.1", held_by="anna", reason="legal hold")
    assert not holds.add(ledger, study_key="s1", study_instance_uid="1.2.1", held_by="ben", reason="another")
    assert holds.held_back(ledger, ["s1", "s2"]) == {"s1"}
    assert [(h.held_by, h.reason) for h in holds.listing(ledger)] == [("anna", "legal hold")]
    assert holds.remove(ledger, "s1")
    assert not holds.remove(ledger, "s1")
    assert holds.held_back(ledger, ["s1"]) == set()


# -- with many rows ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(destination, add_destination, sql) -> list[int]:
    """100 000 placements, held at each of two archives, with UIDs and keys as long as real ones."""
    root = "1.2.840.113619.2.55.3.604688119.868."
    sql(
        "insert into placed_series (study_key, patient_key, study_instance_uid, series_instance_uid, sop_class_uid)"
        " select st::text, (st / 3)::text, %s || st, %s || st || '.' || se, '1.2.840.10008.5.1.4.1.1.2'"
        " from generate_series(1, %s) st, generate_series(1, %s) se",
        root, root, STUDIES, SERIES,
    )  # fmt: skip
    sql(
        "insert into placement (placed_series_id, content_version, placement_no, instance_key, sop_instance_uid)"
        " select placed_series_id, 1, 1, (1000000000 + placed_series_id * 1000 + i)::text,"
        " series_instance_uid || '.' || 100000 + i from placed_series, generate_series(1, %s) i order by random()",
        PER_SERIES,
    )  # fmt: skip
    ids = [destination.destination_id, add_destination("other").destination_id]
    for destination_id in ids:
        sql(
            "insert into held_instance (destination_id, placement_id, stored_at, verified_at, store_status)"
            " select %s, placement_id, now(), now(), 0 from placement order by random()",
            destination_id,
        )  # fmt: skip
    for table in ("placed_series", "placement", "held_instance"):
        sql(f"vacuum analyze {table}")
    return ids


def test_questions_go_by_index_and_rows_are_narrow(ledger, many, sql, capsys, postgres_version):
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

    first, second = many
    keys = [str(n) for n in range(1, 6)]
    ids = [row[0] for row in sql("select placement_id from placement limit 20")]
    uid = "1.2.840.113619.2.55.3.604688119.868.17"
    big = {"placement", f"held_instance_{first}", f"held_instance_{second}"}
    for statement, parameters in {
        "placements": {"study_keys": keys, "instance_keys": ["1000001001", "1000002001"]},
        "held": {"placement_ids": ids, "destination_ids": [first]},
        "instances_of_study": {"destination_id": first, "study_instance_uid": uid},
        "latest_studies": {"destination_id": first, "rejected_only": False, "before": None, "limit": 10},
        "totals": {"destination_id": first, "study_keys": keys},
        "forget": {"destination_id": first, "placement_ids": ids},
        "mark_verified": {"destination_id": first, "placement_ids": ids},
        "bound_series": {"uids": [uid + ".1"]},
        "used_sop_uids": {"uids": [uid + ".1.100001"]},
    }.items():
        touched = scans(statement, **parameters)
        assert not {(table, how) for table, how in touched if table in big and how == "Seq Scan"}, (statement, touched)
        if "destination_id" in parameters:
            assert f"held_instance_{second}" not in {table for table, _ in touched}, (statement, touched)

    each = {}
    for table in ("placement", f"held_instance_{first}"):
        ((rows, table_bytes, index_bytes),) = sql(
            f"select count(*), pg_table_size('{table}'), pg_indexes_size('{table}') from {table}"
        )
        assert rows == STUDIES * SERIES * PER_SERIES
        each[table] = (table_bytes / rows, index_bytes / rows)
    placement, held_instance = each.values()
    with capsys.disabled():
        print(
            f"\nPostgreSQL {postgres_version}: placement {placement[0]:.0f} bytes a row + {placement[1]:.0f} indexes,"
            f" held_instance {held_instance[0]:.0f} + {held_instance[1]:.0f}; 10^9 instances: about"
            f" {sum(placement) * 1e9 / 2**30:.0f} GiB and {sum(held_instance) * 1e9 / 2**30:.0f} GiB an archive"
        )
    assert sum(placement) < 400
    assert sum(held_instance) < 150, "sized for 10^9 rows an archive"
