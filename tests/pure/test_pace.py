"""What a job may take of its destination, and how it keeps to that: arithmetic, by a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.destination import Destination
from archsync.core.transfer import MAX_ASSOCIATIONS, Share
from archsync.net.dicom.pace import Pace


class Clock:
    """Time passes while somebody sleeps, and when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pace(clock: Clock, bytes_per_s: float | None, associations: int = 1) -> Pace:
    return Pace(Share(associations, bytes_per_s), clock=clock, sleep=clock.sleep)


def destination(**settings: object) -> Destination:
    return Destination(name="vna1", called_ae_title="VNA1", host="h", port=104, **settings)


# -- the share ---------------------------------------------------------------------------------------------------------


@given(
    limit=st.integers(100_000, 10**11),
    concurrency=st.integers(1, 128),
    running_jobs=st.integers(1, 128),
)
def test_all_shares_together_are_what_the_destination_allows(limit, concurrency, running_jobs):
    share = Share.of(destination(max_bytes_per_s=limit, concurrency=concurrency), running_jobs=running_jobs)
    assert share.bytes_per_s * running_jobs == pytest.approx(limit)
    assert 1 <= share.associations <= MAX_ASSOCIATIONS
    assert share.associations * running_jobs <= max(concurrency, running_jobs)


@pytest.mark.parametrize(
    ("concurrency", "running_jobs", "associations"),
    [(1, 1, 1), (4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 4, 1), (4, 5, 1), (128, 1, 8), (128, 16, 8), (128, 32, 4)],
)
def test_jobs_get_equal_parts_of_the_associations_and_one_at_least(concurrency, running_jobs, associations):
    assert Share.of(destination(concurrency=concurrency), running_jobs=running_jobs) == Share(associations, None)


# -- the rate ----------------------------------------------------------------------------------------------------------


def test_what_has_no_limit_never_waits(clock):
    unlimited = pace(clock, None)
    for _ in range(100):
        unlimited.wait_for(1_000_000)
    assert clock.now == 1000.0
    assert unlimited.chunk_bytes(1 << 20) == 1 << 20


def test_each_piece_waits_for_those_before_it(clock):
    limited = pace(clock, 1000.0)
    began = []
    for count in (500, 1000, 250, 1):
        limited.wait_for(count)
        began.append(clock.now - 1000)
    assert began == [0.0, 0.5, 1.5, 1.75]


def test_silence_is_not_made_up_for(clock):
    limited = pace(clock, 1000.0)
    limited.wait_for(1000)
    clock.now += 60
    limited.wait_for(1000)
    assert clock.now == 1060.0
    limited.wait_for(1)
    assert clock.now == 1061.0


@given(
    pieces=st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 3), st.integers(1, 8)), min_size=2, max_size=60),
)
def test_in_no_span_of_time_is_more_sent_than_the_shares_of_that_span_and_one_piece(pieces):
    """Pieces come after pauses, and the number of jobs changes before each."""
    clock = Clock()
    limited = pace(clock, 8000.0)
    sent = []
    for count, pause_s, jobs in pieces:
        clock.now += pause_s
        limited.share = Share(1, 8000.0 / jobs)
        limited.wait_for(count)
        sent.append((clock.now, count, 8000.0 / jobs))
    for first in range(len(sent)):
        took_s = 0.0
        for last in range(first + 1, len(sent)):
            took_s += sent[last - 1][1] / sent[last - 1][2]  # what each piece before takes at the rate it was sent at
            assert sent[last][0] - sent[first][0] >= took_s - 1e-6


def test_a_smaller_share_counts_from_the_next_piece_on(clock):
    limited = pace(clock, 1000.0)
    limited.wait_for(1000)
    limited.share = Share(1, 100.0)
    limited.wait_for(100)
    limited.wait_for(1)
    assert clock.now == 1002.0
    limited.share = Share(1, 1000.0)
    limited.wait_for(999)
    limited.wait_for(1)
    assert clock.now == pytest.approx(1003.009)


def test_pieces_are_small_enough_to_be_heard_of_four_times_a_second(clock):
    assert pace(clock, 1000.0).chunk_bytes(1 << 20) == 250
    assert pace(clock, 1e9).chunk_bytes(1 << 20) == 1 << 20
    assert pace(clock, 0.5).chunk_bytes(1 << 20) == 1


def test_the_rate_is_that_since_it_was_last_asked_for(clock):
    measured = pace(clock, None)
    assert measured.bytes_per_s() == 0
    clock.now += 100  # comparing and opening files is not sending
    measured.wait_for(500)
    clock.now += 0.5
    measured.wait_for(500)
    assert measured.bytes_per_s() == 0, "too short to tell"
    clock.now += 0.5
    assert measured.bytes_per_s() == 1000
    measured.wait_for(9000)
    clock.now += 0.9
    assert measured.bytes_per_s() == 1000, "the same within a second"
    clock.now += 2.1
    assert measured.bytes_per_s() == 3000
    clock.now += 5
    assert measured.bytes_per_s() == 0


# -- associations ------------------------------------------------------------------------------------------------------


def test_as_many_associations_are_told_to_end_as_exceed_the_share(clock):
    shared = pace(clock, None, associations=3)
    with shared.association(), shared.association() as second, shared.association() as third:
        assert shared.associations == 3
        assert not second()
        shared.share = Share(2)
        assert second()
        assert second(), "told once, told for good"
        assert not third()
        shared.share = Share(1)
        assert third()
    assert shared.associations == 0


def test_an_association_that_ended_makes_room_for_another(clock):
    shared = pace(clock, None, associations=2)
    with shared.association():
        with shared.association() as second:
            shared.share = Share(1)
            assert second()
        shared.share = Share(2)
        with shared.association() as another:
            assert shared.associations == 2
            assert not another()
