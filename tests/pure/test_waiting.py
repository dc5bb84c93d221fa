"""Why a job waits: lanes, gates of the destination, send windows with their midnight and summer time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.destination import Destination
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind
from archsync.core.retry import HEALTHY, Health
from archsync.core.waiting import blocks, destination_gate, quota, wait_reason
from archsync.errors import ConfigurationError

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)
DOWN = Health(failures=3, down_since=NOON, probe_at=LATER)
BERLIN = ZoneInfo("Europe/Berlin")


def make_destination(**values) -> Destination:
    return Destination(name="vna", called_ae_title="VNA", host="vna.example", port=104, **values)


@pytest.mark.parametrize(
    ("settings", "health", "is_suspended", "expected"),
    [
        ({}, HEALTHY, False, None),
        ({"enabled": False}, HEALTHY, False, WaitReason.DISABLED),
        ({"enabled": False, "send_window": "22:00-06:00"}, DOWN, True, WaitReason.DISABLED),
        ({}, HEALTHY, True, WaitReason.SUSPENDED),
        ({"send_window": "22:00-06:00"}, HEALTHY, False, WaitReason.SEND_WINDOW),
        ({"send_window": "11:00-13:00"}, HEALTHY, False, None),
        ({}, DOWN, False, WaitReason.DESTINATION_DOWN),
        ({}, Health(failures=3, down_since=NOON, probe_at=NOON), False, None),
        ({}, Health(failures=2), False, None),
    ],
)
def test_a_destination_takes_jobs_only_when_nothing_closes_it(settings, health, is_suspended, expected):
    gate = destination_gate(make_destination(**settings), DagKind.ARCHIVE, health, is_suspended=is_suspended, now=NOON)

    assert gate is expected


def test_the_send_window_holds_back_rejection_notes_and_not_adt_messages():
    destination = make_destination(send_window="22:00-06:00")

    def gate(kind: DagKind) -> WaitReason | None:
        return destination_gate(destination, kind, HEALTHY, is_suspended=False, now=NOON)

    assert gate(DagKind.IOCM) is WaitReason.SEND_WINDOW
    assert gate(DagKind.ADT) is None


@pytest.mark.parametrize(
    ("health", "handed_out", "free"),
    [(HEALTHY, 0, 8), (HEALTHY, 5, 3), (HEALTHY, 8, 0), (HEALTHY, 99, 0), (DOWN, 0, 1), (DOWN, 1, 0), (DOWN, 7, 0)],
)
def test_a_destination_gets_a_few_jobs_for_each_slot_and_one_while_it_is_down(health, handed_out, free):
    destination = make_destination(concurrency=2, adt_concurrency=50)

    assert quota(destination, DagKind.ARCHIVE, health, handed_out=handed_out) == free
    assert quota(destination, DagKind.IOCM, health, handed_out=handed_out) == free


def test_adt_messages_have_slots_of_their_own():
    assert quota(make_destination(concurrency=50, adt_concurrency=1), DagKind.ADT, HEALTHY, handed_out=0) == 4


@pytest.mark.parametrize(
    ("earlier", "later", "same_study", "expected"),
    [
        (JobType.ARCHIVE, JobType.DICOM, True, True),
        (JobType.ARCHIVE, JobType.DICOM, False, False),
        (JobType.ADT, JobType.ARCHIVE, False, True),
        (JobType.ARCHIVE, JobType.ADT, False, True),
        (JobType.ADT, JobType.ADT, False, True),
        (JobType.KOS, JobType.DICOM, True, True),
        (JobType.KOS, JobType.DICOM, False, False),
        (JobType.IOCM, JobType.KOS, True, False),
        (JobType.IOCM, JobType.ADT, False, False),
    ],
)
def test_a_lane_orders_one_study_and_everything_around_an_adt(earlier, later, same_study, expected):
    assert blocks(earlier, later, same_study=same_study) is expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, WaitReason.QUEUE),
        ({"status": JobStatus.RUNNING, "stored": WaitReason.HOLD, "blocked_by": 1}, None),
        ({"stored": WaitReason.HOLD, "blocked_by": 1, "gate": WaitReason.DISABLED}, WaitReason.HOLD),
        ({"stored": WaitReason.EXAM_STATUS, "gate": WaitReason.DISABLED}, WaitReason.EXAM_STATUS),
        ({"blocked_by": 1, "gate": WaitReason.DISABLED}, WaitReason.LANE),
        ({"gate": WaitReason.DESTINATION_DOWN, "not_before": LATER}, WaitReason.DESTINATION_DOWN),
        ({"stored": WaitReason.SETTLING, "not_before": LATER}, WaitReason.SETTLING),
        ({"not_before": LATER}, WaitReason.SETTLING),
        ({"stored": WaitReason.SETTLING}, WaitReason.QUEUE),
    ],
)
def test_a_waiting_job_tells_its_most_telling_reason(facts, expected):
    known = {"status": JobStatus.WAITING, "stored": None, "not_before": NOON, "gate": None, "blocked_by": None}

    assert wait_reason(**{**known, **facts}, now=NOON) is expected


# -- send windows ------------------------------------------------------------------------------------------------------


def opening(window: str, now: datetime, zone: str = "Europe/Berlin") -> datetime:
    return make_destination(send_window=window, time_zone=zone).next_opening(now)


@pytest.mark.parametrize(
    ("window", "at", "opens"),
    [
        ("22:00-06:00", "12:00", "22:00"),
        ("22:00-06:00", "21:59", "22:00"),
        ("22:00-06:00", "22:00", "22:00"),
        ("22:00-06:00", "23:59", "23:59"),
        ("22:00-06:00", "00:00", "00:00"),
        ("22:00-06:00", "05:59", "05:59"),
        ("22:00-06:00", "06:00", "22:00"),
        ("08:00-12:30", "07:00", "08:00"),
        ("08:00-12:30", "12:29", "12:29"),
        ("00:00-06:00", "00:00", "00:00"),
        ("09:00-09:00", "03:00", "03:00"),
    ],
)
def test_a_window_opens_at_its_start_and_closes_at_its_end(window, at, opens):
    hour, minute = map(int, at.split(":"))
    now = datetime(2026, 3, 2, hour, minute, tzinfo=BERLIN)

    assert f"{opening(window, now).astimezone(BERLIN):%d %H:%M}" == f"02 {opens}"


def test_a_window_that_has_passed_opens_tomorrow():
    now = datetime(2026, 3, 2, 13, 0, 30, tzinfo=BERLIN)

    assert opening("08:00-12:00", now) == datetime(2026, 3, 3, 8, tzinfo=BERLIN)


def test_without_a_window_it_is_always_open():
    assert make_destination().next_opening(NOON) == NOON


@pytest.mark.parametrize(
    ("day", "opens_utc"),
    [
        (datetime(2026, 3, 28, 12, tzinfo=UTC), "28 21:00"),  # the night to summer time
        (datetime(2026, 3, 29, 12, tzinfo=UTC), "29 20:00"),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), "24 20:00"),  # the night to winter time
        (datetime(2026, 10, 25, 12, tzinfo=UTC), "25 21:00"),
    ],
)
def test_a_window_follows_the_clocks_of_its_time_zone(day, opens_utc):
    assert f"{opening('22:00-06:00', day).astimezone(UTC):%d %H:%M}" == opens_utc


def test_a_window_ends_by_the_clock_on_the_wall_in_the_night_of_the_change():
    summer = datetime(2026, 3, 29, 3, 59, tzinfo=UTC)  # 05:59 by the new time

    assert opening("22:00-06:00", summer) == summer
    assert opening("22:00-06:00", summer + timedelta(minutes=1)) > summer + timedelta(hours=12)


def test_a_start_that_the_clocks_skip_is_the_moment_after_the_gap():
    before = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # 01:30; at 02:00 the clocks go to 03:00

    opens = opening("02:30-05:00", before)

    assert f"{opens.astimezone(UTC).astimezone(BERLIN):%H:%M}" == "03:30"
    assert opening("02:30-05:00", opens) == opens


@given(
    now=st.integers(0, 10**6).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    start=st.times(),
    end=st.times(),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/Phoenix"]),
)
def test_an_opening_is_open_never_past_and_at_most_a_day_away(now, start, end, zone):
    window = f"{start:%H:%M}-{end:%H:%M}"

    opens = opening(window, now, zone)

    assert now <= opens <= now + timedelta(days=1)
    assert opening(window, opens, zone) == opens
    if opens > now:
        assert opening(window, opens - timedelta(microseconds=1), zone) == opens


@pytest.mark.parametrize(
    "values",
    [
        {"settle_s": 60.0, "settle_max_s": 30.0},
        {"tls_certificate_file": "a.pem"},
        {"tls_private_key_file": "a.key"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(values):
    with pytest.raises(ConfigurationError, match=next(iter(values)).split("_")[0]):
        make_destination(**values)
