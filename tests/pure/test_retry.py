"""What follows a failed attempt, and when a destination counts as down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.destination import Destination
from archsync.core.retry import HEALTHY, STORE_RETRY_S, After, Health, after_connection_failure, backoff_s, decide
from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    DestinationMisconfigured,
    InvalidInput,
    LedgerUnavailable,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
    PlatformUnavailable,
)

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def make_destination(**values) -> Destination:
    return Destination(name="vna", called_ae_title="VNA", host="vna.example", port=104, **values)


def decision(error: ArchsyncError, *, is_down: bool = False, attempts: int = 0, age_s: float | None = None, **settings):
    return decide(
        error,
        make_destination(**settings),
        attempts=attempts,
        first_attempt_at=None if age_s is None else NOW - timedelta(seconds=age_s),
        now=NOW,
        is_destination_down=is_down,
        dice=0.5,
    )


BUSY = PeerUnavailable("busy", reached_peer=True)
UNREACHABLE = PeerUnavailable("no route")


@pytest.mark.parametrize(
    ("error", "is_down", "after", "counts"),
    [
        (ArchsyncError("a fault of ours"), False, After.FAIL, True),
        (ConfigurationError("no such file"), False, After.FAIL, True),
        (InvalidInput("not DICOM"), False, After.FAIL, True),
        (PeerRefused("A900"), False, After.FAIL, True),
        (DestinationMisconfigured("called AE title not recognised"), False, After.WAIT, False),
        (DestinationMisconfigured("called AE title not recognised"), True, After.WAIT, False),
        (UNREACHABLE, False, After.RETRY, False),
        (UNREACHABLE, True, After.WAIT, False),
        (BUSY, False, After.RETRY, True),
        (BUSY, True, After.RETRY, True),
        (OutcomeUnknown("no answer"), False, After.RETRY, True),
        (OutcomeUnknown("no answer"), True, After.RETRY, True),
        (LedgerUnavailable("away"), False, After.RETRY, False),
        (PlatformUnavailable("away"), True, After.RETRY, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ArchsyncError) else str(value),
)
def test_each_kind_of_error_has_its_consequence(error, is_down, after, counts):
    outcome = decision(error, is_down=is_down)

    assert (outcome.after, outcome.counts) == (after, counts)
    assert (outcome.delay_s is not None) is (after is After.RETRY)


def test_a_database_that_is_away_is_asked_again_soon_whatever_the_settings():
    assert decision(LedgerUnavailable("away"), attempts=99, age_s=1e6, max_attempts=1).delay_s == STORE_RETRY_S


@pytest.mark.parametrize("error", [BUSY, OutcomeUnknown("no answer")], ids=["busy", "unknown"])
@pytest.mark.parametrize(("attempts", "after"), [(0, After.RETRY), (6, After.RETRY), (7, After.FAIL), (50, After.FAIL)])
def test_the_attempt_that_reaches_the_maximum_fails_the_job(error, attempts, after):
    assert decision(error, attempts=attempts, max_attempts=8).after is after


def test_an_archive_that_is_down_burns_no_attempt_however_long():
    assert decision(UNREACHABLE, attempts=7, age_s=1e9, max_attempts=8).after is After.RETRY


@pytest.mark.parametrize(
    ("age_s", "after"), [(None, After.RETRY), (900, After.RETRY), (970, After.RETRY), (971, After.FAIL)]
)
def test_a_job_is_given_up_when_its_next_attempt_would_come_too_late(age_s, after):
    outcome = decision(BUSY, attempts=0, age_s=age_s, give_up_after_s=1000, retry_delay_s=30)

    assert outcome.after is after


@given(
    failures=st.integers(0, 100),
    delay_s=st.floats(0, 86_400),
    multiplier=st.floats(1, 10),
    cap_s=st.floats(1, 604_800),
    jitter=st.floats(0, 0.9),
    dice=st.floats(0, 1),
)
def test_no_wait_is_longer_than_the_cap_or_outside_the_jitter(failures, delay_s, multiplier, cap_s, jitter, dice):
    destination = make_destination(
        retry_delay_s=delay_s, retry_multiplier=multiplier, retry_cap_s=cap_s, retry_jitter=jitter
    )
    middle = backoff_s(destination, failures, dice=0.5)
    wait_s = backoff_s(destination, failures, dice=dice)

    assert 0 <= wait_s <= cap_s * (1 + 1e-9)
    assert middle * (1 - jitter) * (1 - 1e-9) <= wait_s <= middle * (1 + jitter) * (1 + 1e-9)
    assert backoff_s(destination, failures + 1, dice=dice) >= wait_s * (1 - 1e-9)


def test_waits_grow_by_the_multiplier_up_to_the_cap():
    destination = make_destination(retry_delay_s=30, retry_multiplier=2, retry_cap_s=200, retry_jitter=0)

    assert [backoff_s(destination, n, dice=0.9) for n in (1, 2, 3, 4, 5)] == [30, 60, 120, 200, 200]


def test_waits_at_the_cap_are_spread_too():
    destination = make_destination(retry_delay_s=3600, retry_cap_s=3600, retry_jitter=0.1)

    waits = {backoff_s(destination, 9, dice=n / 10) for n in range(11)}

    assert len(waits) == 11


# -- circuit breaker ---------------------------------------------------------------------------------------------------


def failed(times: int, error: ArchsyncError = UNREACHABLE, **settings) -> Health:
    health = HEALTHY
    for n in range(times):
        health = after_connection_failure(health, make_destination(**settings), error, NOW + timedelta(seconds=n))
    return health


def test_the_breaker_opens_at_the_threshold_and_not_before():
    assert not failed(2, breaker_threshold=3).is_down
    opened = failed(3, breaker_threshold=3)
    assert opened.is_down
    assert opened.down_since == NOW + timedelta(seconds=2)
    assert (opened.reason_code, opened.reason) == ("peer-unavailable", "no route")


def test_one_refusal_of_us_as_such_opens_the_breaker():
    assert failed(1, DestinationMisconfigured("called AE title not recognised"), breaker_threshold=50).is_down


def test_an_outage_keeps_the_moment_it_began():
    assert failed(9, breaker_threshold=3).down_since == failed(3, breaker_threshold=3).down_since


def test_probes_come_at_doubling_intervals_up_to_the_cap():
    settings = {"breaker_threshold": 2, "probe_delay_s": 10, "probe_cap_s": 60}

    waits = [(failed(n, **settings).probe_at - NOW - timedelta(seconds=n - 1)).total_seconds() for n in range(2, 8)]

    assert waits == [10, 20, 40, 60, 60, 60]


def test_an_outage_of_any_length_has_a_next_probe():
    health = Health(failures=10**6, down_since=NOW, probe_at=NOW)

    later = after_connection_failure(health, make_destination(probe_cap_s=300), UNREACHABLE, NOW)

    assert later.probe_at == NOW + timedelta(seconds=300)


def test_a_probe_may_go_when_its_time_has_come():
    health = failed(3)

    assert not health.may_probe(health.probe_at - timedelta(seconds=1))
    assert health.may_probe(health.probe_at)
