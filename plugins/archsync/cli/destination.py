"""``archsync destination``: its options are made from the settings in ``core.destination``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from archsync.cli import pools
from archsync.cli.access import Site, pass_site
from archsync.cli.output import (
    count,
    json_option,
    moment,
    override_lock_option,
    plain,
    write_facts,
    write_json,
    write_json_object,
    write_table,
)
from archsync.core.destination import Destination
from archsync.core.job import JobStatus
from archsync.core.naming import PEERS, DagKind, pool_name
from archsync.core.retry import Health
from archsync.core.settings import format_value, setting_fields
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import DestinationHealth
from archsync.services import destinations
from archsync.services.destination_test import StepState, TriedStep, try_destination, where_from
from archsync.services.overview import DescribedDestination, describe_destinations

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def destination() -> None:
    """Destinations: archives that studies are sent to."""


def setting_options(function: F) -> F:
    """Add an option for every setting of a destination."""
    for field in reversed(setting_fields(Destination).values()):
        if field.name != "name":
            function = _setting_option(field)(function)
    return function


def _setting_option(field: dataclasses.Field[Any]) -> Callable[[F], F]:
    flag = "--" + field.name.replace("_", "-")
    if isinstance(field.default, bool):
        help_text = f"{field.metadata['meaning']} Default: {'--' if field.default else '--no-'}{flag[2:]}."
        return click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, help=help_text)
    names = ["--ae-title", flag] if field.name == "called_ae_title" else [flag]
    return click.option(*names, field.name, metavar="VALUE", help=describe(field))


def describe(field: dataclasses.Field[Any]) -> str:
    """A setting in a line: meaning, unit, default, example."""
    parts = [field.metadata["meaning"]]
    if field.default is dataclasses.MISSING:
        parts.append("Required.")
    elif field.default not in (None, ()):
        unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
        parts.append(f"Default: {format_value(field.default)}{unit}.")
    if field.metadata["example"]:
        parts.append(f"Example: {field.metadata['example']}.")
    return " ".join(parts)


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, str]:
    """Read ``key=value`` arguments.

    Raises:
        click.UsageError: one has no ``=``, or a key is given twice.
    """
    values: dict[str, str] = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or not key:
            raise click.UsageError(f"{assignment!r} is no setting; write it as key=value.")
        if key in values:
            raise click.UsageError(f"{key} is given twice.")
        values[key] = value
    return values


@destination.command()
@click.argument("name")
@setting_options
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, as `destination set` takes it."
)
@pass_site
def create(site: Site, /, name: str, assignments: tuple[str, ...], **options: Any) -> None:
    """Make the destination NAME. Studies that are due go there as soon as it is made; --no-enabled has them wait."""
    given = {key: value for key, value in options.items() if value is not None}
    more = parse_assignments(assignments)
    if twice := sorted(given.keys() & more.keys()):
        raise click.UsageError(f"{twice[0]} is given twice.")
    with site.open_ledger() as ledger:
        made = destinations.create(ledger, site.fetch_facilities, {"name": name, **given, **more}, actor=site.actor)
    click.echo(f"Destination {name} made: {made.called_ae_title} at {made.host} port {made.port}.")
    pools.sync_or_say([made])


@destination.command("list")
@json_option
@pass_site
def list_destinations(site: Site, as_json: bool) -> None:
    """List the destinations, how each of them is, and the jobs that are still to run or failed there."""
    with site.open_ledger() as ledger:
        found = describe_destinations(ledger, now=datetime.now(UTC))
        health = store.health(ledger)
    if as_json:
        write_json({**_as_json(item.destination, health), **_load_as_json(item)} for item in found)
        return
    write_table(
        ("NAME", "AE TITLE", "HOST", "PORT", "GATEWAY", "TRIGGER", "SCOPE", "STATE", "TO DO", "FAILED"),
        [
            (
                *(d.name, d.called_ae_title, d.host, d.port, d.gateway, d.trigger_status.value, _scope(d)),
                *(_state(d, health), item.load.queue_depth, item.load.by_status.get(JobStatus.FAILED, 0)),
            )
            for item in found
            for d in [item.destination]
        ],
        empty="There is no destination. `archsync destination create` makes one.",
    )


def _load_as_json(found: DescribedDestination) -> dict[str, Any]:
    rate = found.last_hour
    return {
        "queue_depth": found.load.queue_depth,
        "oldest_waiting_at": found.load.oldest_waiting_at,
        "running": found.load.by_status.get(JobStatus.RUNNING, 0),
        "failed": found.load.by_status.get(JobStatus.FAILED, 0),
        "last_hour": {"jobs": rate.succeeded, "instances": rate.instances, "bytes": rate.size_bytes},
        "holds_instances": found.holding.instances,
    }


@destination.command()
@click.argument("name")
@json_option
@pass_site
def show(site: Site, name: str, as_json: bool) -> None:
    """Show all settings of the destination NAME."""
    with site.open_ledger() as ledger:
        found = store.get(ledger, name)
        health = store.health(ledger)
    if as_json:
        write_json_object(_as_json(found, health))
        return
    fields = setting_fields(Destination).values()
    archive, adt = (health[found.destination_id or 0, kind].health for kind in (DagKind.ARCHIVE, DagKind.ADT))
    write_facts(
        [
            ("state", _state(found, health)),
            ("reason", archive.reason),
            ("ADT receiver", _down(adt) if adt.is_down else None),
            ("reason", adt.reason),
        ]
    )
    click.echo()
    write_table(
        ("SETTING", "VALUE", "", "MEANING"),
        [
            (f.name, _with_unit(f, found), "" if getattr(found, f.name) == f.default else "*", f.metadata["meaning"])
            for f in fields
        ],
        empty="",
    )
    click.echo("* differs from the default")


@destination.command("set")
@click.argument("name")
@click.argument("assignments", metavar="KEY=VALUE...", nargs=-1, required=True)
@override_lock_option
@pass_site
def set_settings(site: Site, name: str, assignments: tuple[str, ...], override_reason: str | None) -> None:
    """Change settings of the destination NAME; an empty value takes a setting away. `show` lists the keys."""
    values = parse_assignments(assignments)
    with site.open_ledger() as ledger:
        _change(site, ledger, name, values, override_reason=override_reason)


@destination.command()
@click.argument("name")
@override_lock_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def delete(site: Site, name: str, override_reason: str | None, yes: bool) -> None:
    """Delete the destination NAME with its jobs and what the ledger knows of it. Its archive keeps everything."""
    if not yes and not click.confirm(f"Delete {name}?"):
        click.echo("Nothing was changed.")
        click.get_current_context().exit(1)
    with site.open_ledger() as ledger:
        forgotten = destinations.delete(ledger, name, actor=site.actor, override_reason=override_reason)
    click.echo(
        f"Destination {name} deleted; {count(forgotten.studies, 'archived study', 'archived studies')} and"
        f" {count(forgotten.jobs, 'job')} forgotten. Its pools in Airflow, if any, are left:"
        f" {', '.join(pool_name(peer, name) for peer in PEERS)}."
    )


@destination.command()
@click.argument("name")
@pass_site
def enable(site: Site, name: str) -> None:
    """Let jobs of the destination NAME run."""
    with site.open_ledger() as ledger:
        _change(site, ledger, name, {"enabled": True})


@destination.command()
@click.argument("name")
@pass_site
def disable(site: Site, name: str) -> None:
    """Have jobs of the destination NAME wait; what runs is finished."""
    with site.open_ledger() as ledger:
        _change(site, ledger, name, {"enabled": False})


def _change(
    site: Site, ledger: Ledger, name: str, values: dict[str, Any], *, override_reason: str | None = None
) -> None:
    changes = destinations.change(
        ledger,
        site.fetch_facilities,
        name,
        values,
        actor=site.actor,
        now=datetime.now(UTC),
        override_reason=override_reason,
    )
    for change in changes:
        click.echo(f"{name}: {change}")
    if not changes:
        click.echo(f"{name}: nothing to change")
    elif any(change.name in ("concurrency", "adt_concurrency", "adt_host", "enabled") for change in changes):
        pools.sync_or_say([store.get(ledger, name)])


@destination.command("test")
@click.argument("name")
@json_option
@pass_site
def test_destination(site: Site, name: str, as_json: bool) -> None:
    """Try the destination NAME from here, step by step, up to C-ECHO, what it accepts, and its ADT receiver.

    Nothing is stored and no message sent. A destination behind a gateway is reached from there, not from here. A
    warning is about something the destination can do without. Exits with 1 when a step fails.
    """
    with site.open_ledger() as ledger:
        found = store.get(ledger, name)
    if note := where_from(found):
        click.echo(f"note: {note}", err=True)
    # What is not set, or can't be tried any more, says nothing that the other lines do not.
    steps = (step for step in try_destination(found) if step.state is not StepState.SKIPPED)
    failed = False
    if as_json:
        done = list(steps)
        failed = any(step.state is StepState.FAILED for step in done)
        write_json(map(_step_as_json, done))
    else:
        for step in steps:
            failed = failed or step.state is StepState.FAILED
            said = " ".join(filter(None, [step.detail + ("." if step.next_step else ""), step.next_step]))
            click.echo(f"{_STATES[step.state]:<8}{step.name:<13}{said}")
    if failed:
        click.get_current_context().exit(1)


_STATES = {StepState.OK: "ok", StepState.WARNING: "warning", StepState.FAILED: "FAILED"}


def _step_as_json(step: TriedStep) -> dict[str, Any]:
    return {
        "step": step.name,
        "ok": step.state is not StepState.FAILED,
        "state": step.state.value,
        "code": step.code,
        "message": step.detail,
        "next_step": step.next_step,
        "took_ms": step.took_ms,
    }


def _scope(found: Destination) -> str:
    parts = [*found.facilities, *(f"group {group}" for group in found.facility_groups)]
    return ", ".join(parts) or "all"


def _state(found: Destination, health: dict[tuple[int, DagKind], DestinationHealth]) -> str:
    known = health[found.destination_id or 0, DagKind.ARCHIVE]
    if not found.enabled:
        return "disabled"
    if known.is_suspended:
        return "suspended in Airflow"
    return _down(known.health) if known.health.is_down else "enabled"


def _down(health: Health) -> str:
    return f"down since {moment(health.down_since)} ({health.reason_code})"


def _with_unit(field: dataclasses.Field[Any], found: Destination) -> str:
    text = format_value(getattr(found, field.name))
    return f"{text} {field.metadata['unit']}" if text and field.metadata["unit"] else text


def _as_json(found: Destination, health: dict[tuple[int, DagKind], DestinationHealth]) -> dict[str, Any]:
    settings = {name: plain(getattr(found, name)) for name in setting_fields(Destination)}
    by_kind = {kind: health[found.destination_id or 0, kind] for kind in DagKind}
    return {
        **settings,
        **_health_as_json(by_kind[DagKind.ARCHIVE]),
        "health": {kind.value: _health_as_json(known) for kind, known in by_kind.items()},
    }


def _health_as_json(known: DestinationHealth) -> dict[str, Any]:
    return {
        "is_suspended": known.is_suspended,
        "down_since": known.health.down_since,
        "probe_at": known.health.probe_at,
        "reason_code": known.health.reason_code,
        "reason": known.health.reason,
    }
