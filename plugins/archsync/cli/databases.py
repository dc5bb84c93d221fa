"""``archsync db`` and ``archsync platform``."""

from __future__ import annotations

import click

from archsync.cli.access import Site, images, pass_site
from archsync.cli.output import count, json_option, write_json


@click.group()
def db() -> None:
    """The ledger's database."""


@db.command()
@pass_site
def migrate(site: Site) -> None:
    """Bring the ledger's database up to date. Safe to run again, and from several machines at once."""
    from archsync.ledger.migrate import migrate as migrate_ledger

    applied = migrate_ledger(site.resolve_ledger_dsn())
    for name in applied:
        click.echo(f"applied {name}")
    click.echo("The ledger is up to date.")


@click.group()
def platform() -> None:
    """The platform (PACS) that studies come from."""


@platform.command()
@click.option(
    "--sample",
    "sample_size",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Newest rows looked at.",
)
@json_option
@pass_site
def check(site: Site, sample_size: int, as_json: bool) -> None:
    """Check that the platform's views are as archsync needs them, and say how to mend what is not.

    Exits with 1 when there is an error: studies would be missed or refused.
    """
    from archsync.services.check_result import Level
    from archsync.services.platform_check import check_platform

    with site.open_platform() as source, images():
        results = check_platform(source, sample_size=sample_size)
    if as_json:
        write_json(
            {"view": r.view, "column": r.column, "level": r.level.value, "message": r.message, "hint": r.hint}
            for r in results
        )
    else:
        for result in results:
            where = ".".join(filter(None, [result.view, result.column])) or "platform"
            click.echo(f"{result.level.value:<8}{where}: {result.message}")
            if result.hint:
                click.echo(f"{'':8}→ {result.hint}")
        errors = sum(r.level is Level.ERROR for r in results)
        warnings = sum(r.level is Level.WARNING for r in results)
        click.echo(f"{count(errors, 'error')}, {count(warnings, 'warning')}")
    if any(r.level is Level.ERROR for r in results):
        click.get_current_context().exit(1)
