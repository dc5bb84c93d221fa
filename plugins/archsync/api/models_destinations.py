"""Destinations and gateways as the API gives and takes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from archsync.api.fields import Name, Text
from archsync.api.links import troubleshooting_url
from archsync.core.job import JobStatus
from archsync.core.naming import DagKind
from archsync.core.settings_schema import SettingInfo, SettingKind
from archsync.services.destination_test import StepState, TriedStep
from archsync.services.overview import DescribedDestination, KindHealth, Reach

Value = bool | int | float | Text | list[Text] | None
"""A setting's value: as its kind says, or as text."""

Settings = Annotated[dict[Annotated[str, StringConstraints(max_length=100)], Value], Field(max_length=200)]
"""Settings by name, as :mod:`archsync.core.destination` has them."""

Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class Body(BaseModel):
    """What is sent to the API: fields that it does not know are refused."""

    model_config = ConfigDict(extra="forbid")


# Out


class HealthOut(BaseModel):
    """How a destination is for one kind of job."""

    kind: DagKind
    state: Reach
    since: datetime | None
    reason: str | None
    reason_code: str | None
    probe_at: datetime | None
    troubleshooting_url: str | None

    @classmethod
    def of(cls, health: KindHealth, request: Request) -> HealthOut:
        """As the services describe it."""
        return cls(
            kind=health.kind,
            state=health.state,
            since=health.since,
            reason=health.reason,
            reason_code=health.reason_code,
            probe_at=health.probe_at,
            troubleshooting_url=troubleshooting_url(request, health.reason_code) if health.reason_code else None,
        )


class ThroughputOut(BaseModel):
    """What went on within the last hour."""

    jobs: int = Field(description="Jobs that succeeded.")
    failed: int
    instances: int
    bytes: int
    bytes_per_s: int = Field(description="How fast it is sent to right now.")


class DestinationOut(BaseModel):
    """A destination with how it is."""

    name: str
    called_ae_title: str
    host: str
    port: int
    gateway: str | None
    enabled: bool
    trigger_status: str
    facilities: list[str]
    facility_groups: list[str]
    health: list[HealthOut]
    queue_depth: int = Field(description="Jobs that are waiting, ready or retrying.")
    oldest_waiting_at: datetime | None
    running: int
    failed: int
    is_capped: bool = Field(description="The numbers of jobs are lower bounds: there are 10,000 or more.")
    throughput_last_hour: ThroughputOut
    holds_instances: int = Field(description="Instances it holds, or may hold.")
    holds_is_estimate: bool

    @classmethod
    def of(cls, found: DescribedDestination, request: Request) -> DestinationOut:
        """As the services describe it."""
        destination, load, rate = found.destination, found.load, found.last_hour
        return cls(
            name=destination.name,
            called_ae_title=destination.called_ae_title,
            host=destination.host,
            port=destination.port,
            gateway=destination.gateway,
            enabled=destination.enabled,
            trigger_status=destination.trigger_status.value,
            facilities=list(destination.facilities),
            facility_groups=list(destination.facility_groups),
            health=[HealthOut.of(health, request) for health in found.health],
            queue_depth=load.queue_depth,
            oldest_waiting_at=load.oldest_waiting_at,
            running=load.by_status.get(JobStatus.RUNNING, 0),
            failed=load.by_status.get(JobStatus.FAILED, 0),
            is_capped=load.is_capped,
            throughput_last_hour=ThroughputOut(
                jobs=rate.succeeded,
                failed=rate.failed,
                instances=rate.instances,
                bytes=rate.size_bytes,
                bytes_per_s=rate.bytes_per_s,
            ),
            holds_instances=found.holding.instances,
            holds_is_estimate=found.holding.is_estimate,
        )


class DestinationsOut(BaseModel):
    """All destinations, by name."""

    items: list[DestinationOut]
    next_cursor: None = None


class LockOut(BaseModel):
    """What can be changed only with ``override_reason``, since facts are tied to it."""

    is_locked: bool
    reason: str | None
    settings: list[str]
    needs_reason_to_delete: bool


class DestinationSettingsOut(BaseModel):
    """All settings of a destination, how it is, and what of it is locked."""

    settings: dict[str, Value]
    health: list[HealthOut]
    lock: LockOut
    warnings: list[str] = Field(default=[], description="What is still to be done elsewhere.")


class FieldOut(BaseModel):
    """A setting, for a form."""

    name: str
    label: str
    type: SettingKind
    meaning: str
    default: Value
    unit: str
    example: str
    choices: list[str] | None
    minimum: float | None
    maximum: float | None
    required: bool
    locked_by_facts: bool

    @classmethod
    def of(cls, info: SettingInfo, *, is_locked: bool) -> FieldOut:
        """As the setting describes itself."""
        return cls(
            name=info.name,
            label=info.label,
            type=info.kind,
            meaning=info.meaning,
            default=info.default,
            unit=info.unit,
            example=info.example,
            choices=list(info.choices) or None,
            minimum=info.range.low if info.range else None,
            maximum=info.range.high if info.range else None,
            required=info.is_required,
            locked_by_facts=is_locked,
        )


class GroupOut(BaseModel):
    """Settings that belong together."""

    title: str
    fields: list[FieldOut]


class SchemaOut(BaseModel):
    """All settings, in groups."""

    groups: list[GroupOut]


class FindingsOut(BaseModel):
    """What is wrong with settings; nothing, where ``fields`` is empty."""

    fields: dict[str, str]
    locked: dict[str, str] = Field(description="Changed settings that need an `override_reason`, and why.")


class StepOut(BaseModel):
    """One step of a test."""

    step: str
    title: str
    state: StepState
    detail: str
    code: str | None
    next_step: str | None
    took_ms: int | None
    troubleshooting_url: str | None

    @classmethod
    def of(cls, step: TriedStep, request: Request) -> StepOut:
        """As the test gives it."""
        return cls(
            step=step.name,
            title=step.title,
            state=step.state,
            detail=step.detail,
            code=step.code or None,
            next_step=step.next_step or None,
            took_ms=step.took_ms,
            troubleshooting_url=troubleshooting_url(request, step.code) if step.code else None,
        )


class TestOut(BaseModel):
    """A destination's test, step by step."""

    __test__ = False  # no test of pytest's

    steps: list[StepOut]
    note: str | None = Field(description="What to bear in mind of where it was tried from.")


class ForgottenOut(BaseModel):
    """How much went with a destination."""

    studies: int
    jobs: int


# In


class CheckIn(Body):
    """Settings to check; with ``name``, as changes to that destination."""

    settings: Settings
    name: Name | None = None


class CreateIn(Body):
    """The settings of a new destination; null: the default."""

    settings: Settings


class ChangeIn(Body):
    """The settings to change; null: the default. ``override_reason``: why a locked one is changed all the same."""

    settings: Settings
    override_reason: Reason | None = None


class DeleteIn(Body):
    """``override_reason``: why what is known of the destination may be forgotten."""

    override_reason: Reason | None = None


class TestIn(Body):
    """What to test: settings, or the destination called ``name``."""

    __test__ = False  # no test of pytest's

    settings: Settings | None = None
    name: Name | None = None


def with_defaults(settings: dict[str, Value], defaults: dict[str, Any]) -> dict[str, Any]:
    """Settings with their defaults where null was sent; what has no default stays null, which is refused."""
    return {name: defaults.get(name) if value is None else value for name, value in settings.items()}
