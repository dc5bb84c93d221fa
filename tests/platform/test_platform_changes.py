"""Which studies changed since a watermark: nothing is missed, however transactions interleave."""

from __future__ import annotations

import random
from dataclasses import replace

import psycopg
import pytest

from archsync.errors import ConfigurationError
from archsync.platformdb.reader import Platform
from archsync.platformdb.watermark import Position


def changed(platform: Platform, watermark: str) -> tuple[set[str], str]:
    changes = platform.fetch_changes(watermark)
    assert not changes.is_full, changes.full_reason
    return set(changes.study_keys), changes.watermark


def start(platform: Platform) -> str:
    return platform.fetch_changes(None).watermark


def test_the_first_read_asks_for_a_comparison_of_everything(platform, add_studies):
    add_studies(3)
    changes = platform.fetch_changes(None)
    assert changes.is_full
    assert changes.study_keys == ()
    assert [key for batch in platform.walk_study_keys(2) for key in batch] == ["1", "2", "3"]
    assert changed(platform, changes.watermark)[0] == set()


@pytest.mark.parametrize(
    ("statement", "studies"),
    [
        ("update pacs.study set exam_status = 'Completed' where study_key = 2", {"2"}),
        ("update pacs.study set on_hold = true where study_key in (1, 3)", {"1", "3"}),
        ("update pacs.instance set content_version = 2 where study_key = 3", {"3"}),
        ("update pacs.instance set removed_at = now(), removal_reason = 'quality' where instance_key = 1", {"1"}),
        ("update pacs.patient set name = 'Doe^Joan' where patient_key = 2", {"2"}),
        ("update pacs.study set patient_key = 1 where study_key = 2", {"2"}),
        ("update pacs.instance set study_key = 1 where study_key = 2", {"1", "2"}),
        ("delete from pacs.instance where study_key = 2", {"2"}),
        ("insert into pacs.patient (patient_id) values ('new, without studies')", set()),
        ("update pacs.facility set name = 'Renamed'", set()),
    ],
)
def test_a_change_of_a_study_its_instances_or_its_patient_is_read_once(platform, add_studies, dba, statement, studies):
    add_studies(3)
    watermark = start(platform)
    dba.execute(statement)
    assert platform.has_changes(watermark) is bool(studies) or "patient (patient_id)" in statement
    keys, later = changed(platform, watermark)
    assert keys == studies
    assert changed(platform, later)[0] == set()
    assert not platform.has_changes(later)


def test_a_patient_change_touches_all_their_studies(platform, add_studies, dba):
    add_studies(4)
    dba.execute("update pacs.study set patient_key = 1 where study_key in (2, 4)")
    watermark = start(platform)
    dba.execute("update pacs.patient set birth_date = '1971-01-01' where patient_key = 1")
    assert changed(platform, watermark)[0] == {"1", "2", "4"}


def test_a_transaction_that_committed_late_is_not_missed(platform, platform_dsn, add_studies):
    add_studies(2)
    watermark = start(platform)
    with psycopg.connect(platform_dsn) as early, psycopg.connect(platform_dsn) as late:
        early.execute("update pacs.study set exam_status = 'Completed' where study_key = 1")
        late.execute("update pacs.study set exam_status = 'Completed' where study_key = 2")
        revisions = [
            session.execute("select revision from pacs.study where exam_status = 'Completed'").fetchone()[0]
            for session in (early, late)
        ]
        assert revisions[0] < revisions[1]

        late.commit()
        keys, watermark = changed(platform, watermark)
        assert keys == {"2"}, "the higher revision is read while the lower one is still open"

        early.commit()
        assert platform.has_changes(watermark)
        keys, watermark = changed(platform, watermark)
        assert keys == {"1"}, "the lower revision is read although a higher one was read before"
    assert changed(platform, watermark)[0] == set()


def test_a_long_transaction_delays_no_other_change_and_repeats_none(platform, platform_dsn, add_studies, dba):
    add_studies(3)
    watermark = start(platform)
    with psycopg.connect(platform_dsn) as long:
        long.execute("update pacs.study set description = 'slow' where study_key = 1")
        for study_key in ("2", "3", "2"):
            dba.execute("update pacs.study set description = clock_timestamp()::text where study_key = %s", [study_key])
            keys, watermark = changed(platform, watermark)
            assert keys == {study_key}
        long.rollback()
    assert changed(platform, watermark)[0] == set()


def test_changes_in_savepoints_are_read_and_rolled_back_ones_are_not(platform, platform_dsn, add_studies):
    add_studies(3)
    watermark = start(platform)
    with psycopg.connect(platform_dsn) as session:
        session.execute("select 1")  # the transaction begins here, so that those below are savepoints
        with session.transaction():
            session.execute("update pacs.study set description = 'kept' where study_key = 1")
        with session.transaction() as savepoint:
            session.execute("update pacs.study set description = 'undone' where study_key = 2")
            raise psycopg.Rollback(savepoint)
        keys, watermark = changed(platform, watermark)
        assert keys == set()
    assert changed(platform, watermark)[0] == {"1"}


@pytest.mark.parametrize("seed", range(6))
def test_the_reads_together_see_every_committed_change(platform, platform_dsn, add_studies, seed):
    """Several writers begin, write, commit and roll back in any order, with reads at any point between."""
    add_studies(40)
    dice = random.Random(seed)
    watermark = start(platform)
    writers = [psycopg.connect(platform_dsn) for _ in range(5)]
    # Every study has one writer, so that none waits for another's row lock.
    own = {number: [str(key) for key in range(1, 41) if key % 5 == number] for number in range(5)}
    written: dict[int, set[str]] = {number: set() for number in own}
    committed: set[str] = set()
    seen: set[str] = set()
    try:
        for step in range(250):
            number = dice.randrange(5)
            action = dice.choice(["study", "instance", "patient", "move", "commit", "commit", "rollback", "read"])
            if action == "read":
                keys, watermark = changed(platform, watermark)
                assert keys <= committed | set().union(*written.values())
                seen |= keys
            elif action == "commit":
                writers[number].commit()
                committed |= written[number]
                written[number] = set()
            elif action == "rollback":
                writers[number].rollback()
                written[number] = set()
            else:
                key, other = dice.sample(own[number], 2)
                write(writers[number], action, key, other, step)
                written[number] |= {key, other} if action == "move" else {key}
            if action == "commit":
                # What is committed and not yet seen is read now or later, but the last read after it has it.
                keys, watermark = changed(platform, watermark)
                seen |= keys
                assert committed <= seen
    finally:
        for writer in writers:
            writer.close()
    assert len(committed) > 20, "the dice made too few changes to prove anything"
    assert changed(platform, watermark)[0] == set(), "unfinished transactions were rolled back"


def write(session: psycopg.Connection, action: str, key: str, other: str, step: int) -> None:
    if action == "study":
        session.execute("update pacs.study set description = %s where study_key = %s", [str(step), key])
    elif action == "instance":
        session.execute("update pacs.instance set content_version = %s where study_key = %s", [step + 2, key])
    elif action == "patient":
        session.execute("update pacs.patient set name = %s where patient_key = %s", [f"N^{step}", key])
    else:
        session.execute(
            "insert into pacs.instance (study_key, series_instance_uid, sop_instance_uid, sop_class_uid,"
            " transfer_syntax_uid, location, size_bytes) values (%s, '1.3', %s, '1.4', '1.5', 'file:///x', 1)",
            [key, f"1.3.{step}"],
        )
        session.execute(
            "update pacs.instance set study_key = %s where study_key = %s and sop_instance_uid = %s",
            [other, key, f"1.3.{step}"],
        )


def test_too_many_changes_for_one_read_become_a_full_comparison(platform, add_studies, dba):
    add_studies(5)
    watermark = start(platform)
    dba.execute("update pacs.study set on_hold = true")
    assert len(platform.fetch_changes(watermark, limit=5).study_keys) == 5
    changes = platform.fetch_changes(watermark, limit=4)
    assert changes.is_full
    assert changes.full_reason == "more than 4 studies changed"


def test_a_database_restored_to_an_earlier_state_is_compared_as_a_whole(platform, add_studies):
    add_studies(1)
    now = Position.decode(start(platform))
    ahead = now.ceiling + 1000
    from_the_future = replace(now, snapshot=f"{ahead}:{ahead}:", ceiling=ahead).encode()
    assert platform.has_changes(from_the_future)
    changes = platform.fetch_changes(from_the_future)
    assert changes.full_reason == "the platform's database was restored to an earlier state"
    assert not platform.fetch_changes(changes.watermark).is_full


def test_views_made_anew_are_compared_as_a_whole(platform, add_studies, dba):
    add_studies(1)
    watermark = start(platform)
    dba.execute("create or replace view archsync_platform.study as select * from pacs.study where true")
    assert not platform.fetch_changes(watermark).is_full, "the same view, replaced in place"
    dba.execute("drop view archsync_platform.study; create view archsync_platform.study as select * from pacs.study")
    assert platform.fetch_changes(watermark).full_reason == "the platform's database or views were replaced"


def test_another_database_is_compared_as_a_whole(platform, platform_dsn, postgres, add_studies):
    """A dump restored under another name, in a cluster whose transaction count is not behind."""
    add_studies(1)
    watermark = start(platform)
    platform.close()
    source = psycopg.conninfo.conninfo_to_dict(platform_dsn)["dbname"]
    copy = f"copy_of_{source}"
    with psycopg.connect(postgres.dsn(), autocommit=True) as session:
        session.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [source])
    postgres.create_database(copy, template=source)
    try:
        with Platform.from_dsn(postgres.dsn(copy)) as other:
            assert other.fetch_changes(watermark).full_reason == "the platform's database or views were replaced"
    finally:
        postgres.drop_database(copy)


def test_rows_of_a_restored_dump_with_another_servers_numbers_are_not_read_again_and_again(platform, add_studies, dba):
    add_studies(3)
    dba.execute("alter table pacs.study disable trigger stamp_revision")
    dba.execute("update pacs.study set revision = 4000000000")
    dba.execute("alter table pacs.study enable trigger stamp_revision")
    watermark = start(platform)
    assert changed(platform, watermark)[0] == set()
    dba.execute("update pacs.study set on_hold = true where study_key = 2")
    keys, watermark = changed(platform, watermark)
    assert keys == {"2"}
    assert changed(platform, watermark)[0] == set()


def test_numbers_of_a_sequence_read_in_transaction_mode_are_an_error_not_silence(platform, add_studies, dba):
    add_studies(2)
    watermark = start(platform)
    dba.execute("alter table pacs.study disable trigger stamp_revision")
    dba.execute("update pacs.study set revision = 4000000000 where study_key = 1")
    with pytest.raises(ConfigurationError, match="view study: revision 4000000000 is not the number of a transaction"):
        platform.fetch_changes(watermark)


@pytest.mark.parametrize(
    "watermark", ["nonsense", "transaction;;;", "transaction;1;abc:def:;9;1,2,3", "transaction;1;5:9:;9;1"]
)
def test_a_watermark_that_can_not_be_read_leads_to_a_comparison_of_everything(platform, add_studies, watermark):
    add_studies(1)
    assert platform.fetch_changes(watermark).is_full
    assert platform.has_changes(watermark)


def test_a_change_is_announced_once_a_transaction_without_saying_what(platform_dsn, add_studies, dba):
    add_studies(2)
    with psycopg.connect(platform_dsn, autocommit=True) as listener:
        listener.execute("listen archsync_platform")
        with dba.transaction():
            dba.execute("update pacs.study set on_hold = true")
            dba.execute("update pacs.instance set content_version = 2")
        (notice,) = listener.notifies(timeout=10, stop_after=1)
        assert (notice.channel, notice.payload) == ("archsync_platform", "")
        assert list(listener.notifies(timeout=0)) == []
