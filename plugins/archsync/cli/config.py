"""``archsync config``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from archsync.cli import pools
from archsync.cli.access import Site, pass_site
from archsync.cli.output import count, json_option, override_lock_option, write_json_object
from archsync.errors import ConfigurationError
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.services import configuration
from archsync.services.configuration import Plan

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def config() -> None:
    """Gateways and destinations as one YAML file. What the file does not name is left as it is."""


@config.command("plan")
@file_argument
@override_lock_option
@json_option
@pass_site
def plan_file(site: Site, file: Path, override_reason: str | None, as_json: bool) -> None:
    """Show what `apply` would change; changes nothing."""
    with site.open_ledger() as ledger:
        plan = _compare(site, ledger, file, override_reason=override_reason)
    if as_json:
        write_json_object(_as_json(plan))
    else:
        _show(plan)


@config.command("apply")
@file_argument
@override_lock_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def apply_file(site: Site, file: Path, override_reason: str | None, yes: bool) -> None:
    """Show the difference, ask, and bring gateways and destinations to what the file says."""
    with site.open_ledger() as ledger:
        plan = _compare(site, ledger, file, override_reason=override_reason)
        _show(plan)
        if plan.changes_nothing:
            return
        if not yes and not click.confirm("Apply?"):
            click.echo("Nothing was changed.")
            click.get_current_context().exit(1)
        configuration.apply(
            ledger,
            site.fetch_facilities,
            plan,
            actor=site.actor,
            now=datetime.now(UTC),
            override_reason=override_reason,
        )
        click.echo("Applied.")
        named = {step.name for step in plan.steps if step.kind == "destination"}
        if named:
            pools.sync_or_say([d for d in store.all_destinations(ledger) if d.name in named])


def _compare(site: Site, ledger: Ledger, file: Path, *, override_reason: str | None) -> Plan:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise ConfigurationError(f"{file} can't be read: {why}", code="bad-configuration-file") from None
    document = configuration.read_document(text, source=str(file))
    return configuration.compare(ledger, site.fetch_facilities, document, override_reason=override_reason)


def _show(plan: Plan) -> None:
    for step in plan.steps:
        click.echo(f"{'+' if step.is_new else '~'} {step.kind} {step.name}")
        for change in step.changes:
            click.echo(f"    {change}")
    for name, settings in plan.kept.items():
        click.echo(f"Kept as they are, not in the file: {name}: {', '.join(settings)}")
    if plan.left_alone:
        click.echo(f"Left alone, not in the file: {', '.join(plan.left_alone)}")
    if plan.changes_nothing:
        click.echo("Nothing to change.")
        return
    new = sum(step.is_new for step in plan.steps)
    click.echo(f"{count(new, 'thing')} to make, {len(plan.steps) - new} to change.")


def _as_json(plan: Plan) -> dict[str, object]:
    return {
        "steps": [
            {
                "kind": step.kind,
                "name": step.name,
                "action": "create" if step.is_new else "change",
                "changes": [{"setting": c.name, "old": c.old, "new": c.new} for c in step.changes],
            }
            for step in plan.steps
        ],
        "left_alone": list(plan.left_alone),
        "kept": {name: list(settings) for name, settings in plan.kept.items()},
    }
