"""What happens after a failed attempt: one decision, taken here and carried out by Airflow.

Errors are grouped in :mod:`archsync.errors` by what happens next; a destination's settings give the numbers. Only
attempts that reached the peer count against ``max_attempts``: an archive that is down burns none.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from archsync.core.destination import Destination
from archsync.errors import (
    ArchsyncError,
    DestinationMisconfigured,
    OutcomeUnknown,
    PeerUnavailable,
    StoreUnavailable,
)


class After(StrEnum):
    """What happens to the job."""

    RETRY = "retry"
    FAIL = "fail"
    WAIT = "wait"
    """Back to waiting: the destination is down; its circuit breaker decides when it goes on."""


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The outcome of :func:`decide`. ``delay_s`` is set for ``RETRY``; ``counts`` says whether an attempt is burnt."""

    after: After
    counts: bool
    delay_s: float | None = None
    why: str = ""


#: Wait between attempts while one of our own databases is away, in seconds.
STORE_RETRY_S = 15.0


def backoff_s(destination: Destination, failures: int, *, dice: float) -> float:
    """Wait before the next attempt after ``failures`` counted ones, in seconds; ``dice`` in 0..1 spreads the jitter."""
    # The cap holds for the longest throw of the dice, and waits at the cap are spread like any other.
    longest = destination.retry_cap_s / (1.0 + destination.retry_jitter)
    base = min(longest, destination.retry_delay_s * destination.retry_multiplier ** max(0, failures - 1))
    return base * (1.0 + destination.retry_jitter * (2.0 * dice - 1.0))


def decide(
    error: ArchsyncError,
    destination: Destination,
    *,
    attempts: int,
    first_attempt_at: datetime | None,
    now: datetime,
    is_destination_down: bool,
    dice: float,
) -> RetryDecision:
    """Decide what follows ``error``; ``attempts`` are the counted ones before this one."""
    if isinstance(error, StoreUnavailable):
        return RetryDecision(After.RETRY, counts=False, delay_s=STORE_RETRY_S, why="database unavailable")
    if isinstance(error, DestinationMisconfigured):
        # Every job would meet the same answer: the destination stops, its jobs keep (one outage, one incident).
        return RetryDecision(After.WAIT, counts=False, why="the destination refuses us")
    if isinstance(error, PeerUnavailable) and not error.reached_peer:
        if is_destination_down:
            return RetryDecision(After.WAIT, counts=False, why="destination down")
        return RetryDecision(After.RETRY, counts=False, delay_s=backoff_s(destination, 1, dice=dice), why="unreachable")
    if isinstance(error, PeerUnavailable | OutcomeUnknown):
        counted = attempts + 1
        if counted >= destination.max_attempts:
            return RetryDecision(After.FAIL, counts=True, why=f"attempt {counted} of {destination.max_attempts}")
        delay_s = backoff_s(destination, counted, dice=dice)
        age = (now - first_attempt_at) if first_attempt_at else timedelta(0)
        if age + timedelta(seconds=delay_s) > timedelta(seconds=destination.give_up_after_s):
            return RetryDecision(After.FAIL, counts=True, why="given up: it has been failing for too long")
        return RetryDecision(
            After.RETRY, counts=True, delay_s=delay_s, why=f"attempt {counted} of {destination.max_attempts}"
        )
    return RetryDecision(After.FAIL, counts=True, why="permanent")


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a destination's reachability: the state of its circuit breaker."""

    failures: int = 0
    down_since: datetime | None = None
    probe_at: datetime | None = None
    reason_code: str | None = None
    reason: str | None = None

    @property
    def is_down(self) -> bool:
        """True while the breaker is open: nothing is handed out but one job that probes."""
        return self.down_since is not None

    def may_probe(self, now: datetime) -> bool:
        """True when a destination that is down may be tried again."""
        return self.probe_at is None or now >= self.probe_at


HEALTHY = Health()


def after_connection_failure(health: Health, destination: Destination, error: ArchsyncError, now: datetime) -> Health:
    """The breaker after a failed connection: it opens at the threshold, or at once when we are refused as such."""
    failures = health.failures + 1
    opens = health.is_down or failures >= destination.breaker_threshold or isinstance(error, DestinationMisconfigured)
    if not opens:
        return Health(failures=failures, reason_code=error.code, reason=error.message)
    beyond = max(0, failures - destination.breaker_threshold)
    delay_s = min(destination.probe_cap_s, destination.probe_delay_s * 2.0 ** min(beyond, 16))
    return Health(
        failures=failures,
        down_since=health.down_since or now,
        probe_at=now + timedelta(seconds=delay_s),
        reason_code=error.code,
        reason=error.message,
    )
