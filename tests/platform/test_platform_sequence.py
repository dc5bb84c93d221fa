"""Sites that number changes from a sequence: a weaker guarantee, stated and kept."""

from __future__ import annotations

import psycopg
import pytest

from archsync.platformdb.reader import Platform
from archsync.platformdb.watermark import RevisionMode

SCHEMA = """
create sequence pacs.revision;
select setval('pacs.revision', 100);
create or replace function pacs.stamp_revision() returns trigger language plpgsql as $$
begin
    new.revision := nextval('pacs.revision');
    return new;
end
$$;
"""


@pytest.fixture
def sequence_site(dba, add_studies):
    dba.execute(SCHEMA)
    add_studies(3, instances=1)
    return dba


def reader(dsn: str, overlap: int) -> Platform:
    return Platform.from_dsn(dsn, revision=RevisionMode.SEQUENCE, overlap=overlap)


def test_changes_above_the_last_number_are_read(sequence_site, platform_dsn):
    with reader(platform_dsn, overlap=0) as platform:
        first = platform.fetch_changes(None)
        assert first.is_full
        assert not platform.has_changes(first.watermark)
        sequence_site.execute("update pacs.study set on_hold = true where study_key = 2")
        assert platform.has_changes(first.watermark)
        second = platform.fetch_changes(first.watermark)
        assert (second.study_keys, second.is_full) == (("2",), False)
        assert platform.fetch_changes(second.watermark).study_keys == ()


def test_the_overlap_catches_a_transaction_that_committed_late(sequence_site, platform_dsn):
    with reader(platform_dsn, overlap=5) as platform, psycopg.connect(platform_dsn) as slow:
        watermark = platform.fetch_changes(None).watermark
        slow.execute("update pacs.study set description = 'slow' where study_key = 1")
        sequence_site.execute("update pacs.study set description = 'quick' where study_key = 3")
        changes = platform.fetch_changes(watermark)
        assert "3" in changes.study_keys
        slow.commit()
        assert "1" in platform.fetch_changes(changes.watermark).study_keys


def test_without_overlap_the_same_transaction_is_missed_as_documented(sequence_site, platform_dsn):
    with reader(platform_dsn, overlap=0) as platform, psycopg.connect(platform_dsn) as slow:
        watermark = platform.fetch_changes(None).watermark
        slow.execute("update pacs.study set description = 'slow' where study_key = 1")
        sequence_site.execute("update pacs.study set description = 'quick' where study_key = 3")
        changes = platform.fetch_changes(watermark)
        slow.commit()
        assert platform.fetch_changes(changes.watermark).study_keys == ()


def test_numbers_that_went_back_lead_to_a_comparison_of_everything(sequence_site, platform_dsn):
    with reader(platform_dsn, overlap=0) as platform:
        watermark = platform.fetch_changes(None).watermark
        sequence_site.execute("select setval('pacs.revision', 1)")
        sequence_site.execute("update pacs.instance set content_version = 2")
        changes = platform.fetch_changes(watermark)
        assert changes.full_reason == "the platform's database was restored to an earlier state"


def test_a_watermark_of_the_other_mode_is_not_trusted(sequence_site, platform_dsn, platform):
    watermark = platform.fetch_changes(None).watermark
    with reader(platform_dsn, overlap=0) as by_sequence:
        assert by_sequence.fetch_changes(watermark).full_reason == "the revision mode was changed"
