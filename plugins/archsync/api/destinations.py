"""Destinations: list, settings, field-by-field check, test, make, change, switch, delete."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response

from archsync.api.access import Actor, Right, guarded_router, needs
from archsync.api.fields import Name
from archsync.api.models_destinations import (
    ChangeIn,
    CheckIn,
    CreateIn,
    DeleteIn,
    DestinationOut,
    DestinationSettingsOut,
    DestinationsOut,
    FieldOut,
    FindingsOut,
    ForgottenOut,
    GroupOut,
    HealthOut,
    LockOut,
    SchemaOut,
    StepOut,
    TestIn,
    TestOut,
    with_defaults,
)
from archsync.api.pages import UNCHANGED, revalidated
from archsync.api.sites import LedgerDep, Now, PlatformDep
from archsync.core.destination import SETTING_GROUPS, Destination
from archsync.core.settings_schema import describe_settings, group_settings, plain_settings
from archsync.errors import ArchsyncError, ConfigurationError
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.services import destinations, overview
from archsync.services.destination_test import try_destination, where_from

router = guarded_router("destinations")

_NO_DESTINATION: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such destination."}}
_LOCKED: dict[int | str, dict[str, Any]] = {
    409: {"description": "It is in use, and `override_reason` is not given; or the name is taken."}
}

#: No single wait of a test is longer, in seconds: somebody looks at the page meanwhile.
TEST_WAIT_S = 15.0
#: Tests at the same time; each keeps one of the server's threads.
MOST_TESTS = 4

_tests = threading.BoundedSemaphore(MOST_TESTS)

_DEFAULTS = {info.name: info.default for info in describe_settings(Destination)}


@router.get("/destinations", dependencies=[needs(Right.READ)], response_model=DestinationsOut, responses=UNCHANGED)
def list_destinations(request: Request, ledger: LedgerDep, now: Now) -> Response:
    """List the destinations, by name, with how each is and what it is up to."""
    found = overview.describe_destinations(ledger, now=now)
    return revalidated(request, DestinationsOut(items=[DestinationOut.of(item, request) for item in found]))


@router.get("/destinations/schema", dependencies=[needs(Right.READ)])
def read_schema() -> SchemaOut:
    """Describe every setting of a destination, for a form."""
    grouped = group_settings(Destination, SETTING_GROUPS)
    return SchemaOut(
        groups=[
            GroupOut(
                title=title,
                fields=[FieldOut.of(info, is_locked=info.name in destinations.IDENTITY) for info in infos],
            )
            for title, infos in grouped.items()
        ]
    )


@router.get(
    "/destinations/{name}",
    dependencies=[needs(Right.READ)],
    response_model=DestinationSettingsOut,
    responses=_NO_DESTINATION | UNCHANGED,
)
def read_destination(name: Name, request: Request, ledger: LedgerDep, now: Now) -> Response:
    """Read all settings of one destination, how it is, and what of it is locked."""
    return revalidated(request, _settings_of(name, request, ledger, now))


@router.post("/destinations/check", dependencies=[needs(Right.READ)], responses=_NO_DESTINATION)
def check_settings(body: CheckIn, ledger: LedgerDep, platform: PlatformDep) -> FindingsOut:
    """Say field by field what is wrong with settings, cross-field rules included. Writes nothing."""
    settings = with_defaults(body.settings, _DEFAULTS)
    found = destinations.check(ledger, platform.fetch_facilities, settings, name=body.name)
    return FindingsOut(fields=dict(found.fields), locked=dict(found.locked))


@router.post(
    "/destinations/test",
    dependencies=[needs(Right.CONFIGURE)],
    responses=_NO_DESTINATION | {429: {"description": "Too many tests are under way."}},
)
def test_destination(body: TestIn, request: Request, ledger: LedgerDep) -> TestOut:
    """Try a destination, made or not, from where Airflow's API server runs. Nothing is stored and no message sent."""
    if (body.settings is None) == (body.name is None):
        raise ConfigurationError("name a destination, or give settings", code="bad-request", next_step="Give one.")
    if body.settings is not None:
        target = destinations.build(with_defaults(body.settings, _DEFAULTS))
    else:
        target = store.get(ledger, body.name or "")
    ledger.close()  # a test takes longer than a connection should be kept
    with _slot():
        steps = [StepOut.of(step, request) for step in try_destination(target, limit_s=TEST_WAIT_S)]
    return TestOut(steps=steps, note=where_from(target))


class TooManyTests(ArchsyncError):
    """As many tests as may run at the same time are under way."""

    code = "too-many-tests"
    next_step = "Try again in a few seconds."


@contextmanager
def _slot() -> Iterator[None]:
    if not _tests.acquire(blocking=False):
        raise TooManyTests(f"{MOST_TESTS} destinations are being tested already")
    try:
        yield
    finally:
        _tests.release()


@router.post("/destinations", status_code=HTTPStatus.CREATED, dependencies=[needs(Right.CONFIGURE)], responses=_LOCKED)
def create_destination(
    body: CreateIn, request: Request, ledger: LedgerDep, platform: PlatformDep, actor: Actor, now: Now
) -> DestinationSettingsOut:
    """Make a destination. Unless it is disabled, studies that are due go there at once."""
    settings = with_defaults(body.settings, _DEFAULTS)
    made = destinations.create(ledger, platform.fetch_facilities, settings, actor=actor)
    return _settings_of(made.name, request, ledger, now, warnings=_sync_pools([made]))


@router.patch("/destinations/{name}", dependencies=[needs(Right.CONFIGURE)], responses=_NO_DESTINATION | _LOCKED)
def change_destination(
    name: Name, body: ChangeIn, request: Request, ledger: LedgerDep, platform: PlatformDep, actor: Actor, now: Now
) -> DestinationSettingsOut:
    """Change settings of a destination."""
    destinations.change(
        ledger,
        platform.fetch_facilities,
        name,
        with_defaults(body.settings, _DEFAULTS),
        actor=actor,
        now=now,
        override_reason=body.override_reason,
    )
    warnings = _sync_pools([store.get(ledger, name)])
    return _settings_of(name, request, ledger, now, warnings=warnings)


@router.post("/destinations/{name}/enable", dependencies=[needs(Right.CONFIGURE)], responses=_NO_DESTINATION)
def enable_destination(
    name: Name, request: Request, ledger: LedgerDep, platform: PlatformDep, actor: Actor, now: Now
) -> DestinationSettingsOut:
    """Let jobs of a destination run."""
    return _switch(name, True, request, ledger, platform, actor, now)


@router.post("/destinations/{name}/disable", dependencies=[needs(Right.CONFIGURE)], responses=_NO_DESTINATION)
def disable_destination(
    name: Name, request: Request, ledger: LedgerDep, platform: PlatformDep, actor: Actor, now: Now
) -> DestinationSettingsOut:
    """Have jobs of a destination wait; what runs is finished."""
    return _switch(name, False, request, ledger, platform, actor, now)


def _switch(
    name: str, enabled: bool, request: Request, ledger: LedgerDep, platform: PlatformDep, actor: str, now: Now
) -> DestinationSettingsOut:
    destinations.change(ledger, platform.fetch_facilities, name, {"enabled": enabled}, actor=actor, now=now)
    return _settings_of(name, request, ledger, now)


@router.delete("/destinations/{name}", dependencies=[needs(Right.CONFIGURE)], responses=_NO_DESTINATION | _LOCKED)
def delete_destination(name: Name, body: DeleteIn, ledger: LedgerDep, actor: Actor) -> ForgottenOut:
    """Delete a destination with its jobs and what is known of its archive, which itself keeps everything."""
    forgotten = destinations.delete(ledger, name, actor=actor, override_reason=body.override_reason)
    return ForgottenOut(studies=forgotten.studies, jobs=forgotten.jobs)


def _settings_of(
    name: Name, request: Request, ledger: Ledger, now: Any, *, warnings: Iterable[str] = ()
) -> DestinationSettingsOut:
    (found,) = overview.describe_destinations(ledger, now=now, name=name)
    lock = destinations.lock_of(ledger, found.destination)
    return DestinationSettingsOut(
        settings=plain_settings(found.destination),
        health=[HealthOut.of(health, request) for health in found.health],
        lock=LockOut(
            is_locked=lock.reason is not None,
            reason=lock.reason,
            settings=list(lock.settings),
            needs_reason_to_delete=lock.needs_reason_to_delete,
        ),
        warnings=list(warnings),
    )


def _sync_pools(changed: list[Destination]) -> list[str]:
    """Bring Airflow's pools in step; the change itself stands where that fails. Returns what to do then."""
    from archsync.airflow_glue.pools import sync_pools

    try:
        sync_pools(changed)
    except ArchsyncError as exc:
        return [f"{exc.message}. {exc.next_step}"]
    return []
