"""How destinations are, and what went on lately: what the list of destinations and the overview show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from archsync.core.destination import Destination
from archsync.core.job import UNDONE, JobStatus
from archsync.core.naming import PEERS, DagKind, dag_kind
from archsync.ledger import destinations as store
from archsync.ledger import overview
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import DestinationHealth
from archsync.ledger.overview import MOST, Holding, JobCount, Throughput

QUEUED = (JobStatus.WAITING, JobStatus.READY, JobStatus.RETRYING)
"""The statuses of jobs that are still to run."""


class Reach(StrEnum):
    """How the peer for one kind of job is, as far as is known."""

    REACHABLE = "reachable"
    DOWN = "down"
    SUSPENDED = "suspended"
    """Its DAG is paused in Airflow: nothing is sent, whether the peer is there or not."""
    UNKNOWN = "unknown"
    """Nothing of this kind was ever brought there."""


@dataclass(frozen=True, slots=True)
class KindHealth:
    """How a destination is for one kind of job. ``since`` and ``reason`` are of an outage, also of a suspended one."""

    kind: DagKind
    state: Reach
    since: datetime | None = None
    reason_code: str | None = None
    reason: str | None = None
    probe_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Undone jobs of a destination by status; ``is_capped``: a number is a lower bound."""

    by_status: Mapping[JobStatus, int] = field(default_factory=dict)
    oldest_waiting_at: datetime | None = None
    is_capped: bool = False

    @property
    def queue_depth(self) -> int:
        """Jobs that are still to run."""
        return sum(self.by_status.get(status, 0) for status in QUEUED)


@dataclass(frozen=True, slots=True)
class DescribedDestination:
    """A destination with how it is, what it is up to and what it holds; ``last_hour``: what went on within an hour."""

    destination: Destination
    health: tuple[KindHealth, ...]
    load: Load
    last_hour: Throughput
    holding: Holding


def describe_destinations(ledger: Ledger, *, now: datetime, name: str | None = None) -> list[DescribedDestination]:
    """Every destination, or the one called ``name``, with how it is; the same few queries however many there are.

    Raises:
        ConfigurationError: there is no destination ``name``.
    """
    targets = store.all_destinations(ledger) if name is None else [store.get(ledger, name)]
    health = store.health(ledger)
    answered = {(i, dag_kind(job_type)) for i, job_type in overview.answered(ledger)}
    holding = overview.holding(ledger)
    loads = _loads(overview.counts(ledger, UNDONE))
    rates = overview.throughput(ledger, now - timedelta(hours=1))
    described = []
    for target in targets:
        i = target.destination_id or 0
        held = holding.get(i, Holding())
        described.append(
            DescribedDestination(
                destination=target,
                health=tuple(
                    _kind_health(kind, health[i, kind], is_known=_is_known(i, kind, answered, held))
                    for kind in DagKind
                    if kind is not DagKind.ADT or target.adt_host
                ),
                load=loads.get(i, Load()),
                last_hour=rates.get(i, Throughput()),
                holding=held,
            )
        )
    return described


def _is_known(destination_id: int, kind: DagKind, answered: set[tuple[int, DagKind]], holding: Holding) -> bool:
    """Tell whether the peer of a kind ever took something; images and rejection notes go to the same one."""
    if kind is DagKind.ADT:
        return (destination_id, kind) in answered
    return holding.instances > 0 or any((destination_id, k) in answered for k in (DagKind.ARCHIVE, DagKind.IOCM))


def _kind_health(kind: DagKind, known: DestinationHealth, *, is_known: bool) -> KindHealth:
    health = known.health
    if known.is_suspended:
        state = Reach.SUSPENDED
    elif health.is_down:
        state = Reach.DOWN
    else:
        state = Reach.REACHABLE if is_known else Reach.UNKNOWN
    return KindHealth(kind, state, health.down_since, health.reason_code, health.reason, health.probe_at)


def _loads(counts: Iterable[JobCount]) -> dict[int, Load]:
    by_destination: dict[int, list[JobCount]] = {}
    for counted in counts:
        by_destination.setdefault(counted.destination_id, []).append(counted)
    return {
        destination_id: Load(
            by_status=_by_status(found),
            oldest_waiting_at=min((c.oldest_at for c in found if c.status is JobStatus.WAITING), default=None),
            is_capped=any(c.jobs >= MOST for c in found),
        )
        for destination_id, found in by_destination.items()
    }


def _by_status(counts: Sequence[JobCount]) -> dict[JobStatus, int]:
    totals: Counter[JobStatus] = Counter()
    for counted in counts:
        totals[counted.status] += counted.jobs
    return dict(totals)


# The overview

HOURS = 48


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour, from ``started_at``: jobs that were made in it, and those that ended in it by the status they have."""

    started_at: datetime
    made: int
    ended: Mapping[JobStatus, int]


@dataclass(frozen=True, slots=True)
class Outage:
    """A peer that is down."""

    destination: str
    kind: DagKind
    since: datetime
    reason_code: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What went on in the last 48 hours, what there is to do at each destination, and who is down."""

    hours: tuple[Hour, ...]
    destinations: tuple[DescribedDestination, ...]
    outages: tuple[Outage, ...]

    @property
    def totals(self) -> dict[JobStatus, int]:
        """Undone jobs of all destinations by status."""
        totals: Counter[JobStatus] = Counter({status: 0 for status in JobStatus if status in UNDONE})
        for described in self.destinations:
            totals.update(described.load.by_status)
        return dict(totals)


class HourMemory:
    """Remembers what was counted of hours that are over, so that each is counted once for all who look."""

    def __init__(self) -> None:
        self._known: dict[str, dict[datetime, Hour]] = {}

    def read(self, ledger: Ledger, *, now: datetime) -> tuple[Hour, ...]:
        """The last hours, the one that ``now`` is in last."""
        last = now.replace(minute=0, second=0, microsecond=0)
        wanted = [last - timedelta(hours=ago) for ago in reversed(range(HOURS))]
        known = self._known.get(ledger.key, {})
        since = next((hour for hour in wanted if hour not in known), last)
        ended, made = overview.finished_per_hour(ledger, since), overview.made_per_hour(ledger, since)
        counted = {
            hour: Hour(hour, made.get(hour, 0), {s: n for s in _ENDED if (n := ended.get((hour, s), 0))})
            for hour in wanted
            if hour >= since
        }
        hours = {hour: counted.get(hour) or known[hour] for hour in wanted}
        self._known[ledger.key] = {hour: h for hour, h in hours.items() if hour + _HOUR_IS_OVER <= now}
        return tuple(hours.values())


_HOUR_IS_OVER = timedelta(hours=1, minutes=5)
"""From an hour's beginning: then no transaction that began in it is still to come."""


def describe_all(ledger: Ledger, *, now: datetime, memory: HourMemory | None = None) -> Overview:
    """Put together the overview; with ``memory``, hours that are over are as they were when they were counted."""
    described = describe_destinations(ledger, now=now)
    return Overview(
        hours=(memory or HourMemory()).read(ledger, now=now),
        destinations=tuple(described),
        outages=_outages(described),
    )


_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.SUPPRESSED, JobStatus.CANCELLED)


def _outages(described: Sequence[DescribedDestination]) -> tuple[Outage, ...]:
    """The peers that are down, longest first. Images and rejection notes go to one peer: that is one outage."""
    found = [
        Outage(item.destination.name, health.kind, health.since, health.reason_code, health.reason)
        for item in described
        for health in item.health
        if health.since is not None and health.kind in PEERS
    ]
    return tuple(sorted(found, key=lambda outage: outage.since))
