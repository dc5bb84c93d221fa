"""The command ``archsync``: finds the subcommand's module, and turns every expected error into one line.

Modules are imported when their command is called, so that help and completion answer at once.
"""

from __future__ import annotations

import getpass
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from archsync.cli.access import Site
from archsync.errors import ArchsyncError

#: Subcommand → module and its one line of help. The module holds the command under the subcommand's name.
COMMANDS = {
    "db": ("archsync.cli.databases", "The ledger's database: migrate it."),
    "platform": ("archsync.cli.databases", "The platform (PACS) that studies come from: check its views."),
    "gateway": ("archsync.cli.gateway", "Gateways: ways out of a facility group."),
    "destination": ("archsync.cli.destination", "Destinations: archives that studies are sent to."),
    "config": ("archsync.cli.config", "Gateways and destinations as one YAML file."),
    "plan": ("archsync.cli.plan", "Say what would be sent where, and why; changes nothing."),
    "jobs": ("archsync.cli.jobs", "Jobs: list, show, retry, cancel, move to the front."),
    "push": ("archsync.cli.push", "Send a study to archives now, whatever their triggers say."),
    "held": ("archsync.cli.held", "Say what an archive holds."),
    "hold": ("archsync.cli.hold", "Hold studies back, and release them."),
    "audit": ("archsync.cli.audit", "The audit trail: who did what, and who looked at a patient."),
    "pools": ("archsync.cli.pools", "Airflow's pools, which bound what runs at the same time."),
    "simulate": ("archsync.cli.simulate", "A platform and an archive to try things with."),
}

#: Errors that say that what was typed is wrong: exit status 2, as for a mistyped option.
_MISTYPED = frozenset(
    {
        "bad-setting",
        "unknown-setting",
        "unknown-destination",
        "duplicate-destination",
        "unknown-gateway",
        "duplicate-gateway",
        "unknown-facility",
        "unknown-job",
        "unknown-study",
        "identity-locked",
        "destination-in-use",
        "bad-configuration-file",
        "no-connection-named",
    }
)


class ArchsyncGroup(click.Group):
    """The top command: loads its subcommands late, and says what went wrong in one line on stderr."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  (click's)
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  (click's)
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def main(  # type: ignore[override]  # always exits, whatever standalone_mode says
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command line and exit: 0 done, 1 it failed, 2 it was not understood, 130 interrupted."""
        extra["standalone_mode"] = False
        try:
            status = super().main(args, prog_name, **extra)
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()
            sys.exit(exc.exit_code)
        except click.UsageError as exc:
            _say(f"{_one_line(exc.format_message())} {_where_help_is(exc.ctx)}")
            sys.exit(2)
        except click.ClickException as exc:
            _say(_one_line(exc.format_message()))
            sys.exit(exc.exit_code)
        except click.Abort:
            click.echo("stopped", err=True)
            sys.exit(130)
        except ArchsyncError as exc:
            _report(exc)
            sys.exit(2 if exc.code in _MISTYPED else 1)
        sys.exit(status if isinstance(status, int) else 0)


def _report(error: ArchsyncError) -> None:
    """One line: what is wrong and what to do; a configuration file gets one for each of its problems."""
    problems = getattr(error, "problems", ())
    if not problems:
        _say(f"{_one_line(error.message)} {error.next_step}")
        return
    for problem in problems:
        click.echo(f"{error.source}:{problem.line}: {problem.message}", err=True)  # type: ignore[attr-defined]
    _say(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {error.source}. {error.next_step}")  # type: ignore[attr-defined]


def _say(message: str) -> None:
    click.echo(f"error: {message}", err=True)


def _one_line(message: str) -> str:
    sentence = " ".join(message.split()).replace("'?.", "'?")
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


def _where_help_is(ctx: click.Context | None) -> str:
    path = ctx.command_path if ctx is not None else "archsync"
    return f"Try '{path} --help'."


def _default_actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return f"uid {os.getuid()}"


@click.group(
    cls=ArchsyncGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Times are UTC. Every listing takes --json. Exit status: 0 done, 1 failed, 2 not understood.",
)
@click.option(
    "--ledger-dsn",
    envvar="ARCHSYNC_LEDGER_DSN",
    metavar="URI",
    help="PostgreSQL of the ledger; else ARCHSYNC_LEDGER_DSN, else Airflow's connection archsync_ledger.",
)
@click.option(
    "--platform-dsn",
    envvar="ARCHSYNC_PLATFORM_DSN",
    metavar="URI",
    help="PostgreSQL of the platform; may carry ?schema=, revision= and overlap=. Else ARCHSYNC_PLATFORM_DSN, else"
    " Airflow's connection archsync_platform.",
)
@click.option("--actor", help="Who does this, for the audit; else the name you are logged in with.")
@click.pass_context
def archsync(ctx: click.Context, ledger_dsn: str | None, platform_dsn: str | None, actor: str | None) -> None:
    """Keep external imaging archives in step with the PACS."""
    ctx.obj = Site(ledger_dsn, platform_dsn, actor or _default_actor())
