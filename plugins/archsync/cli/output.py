"""How answers look: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import Any, TypeVar

import click

from archsync.core.wording import count as count  # for the commands, with the rest of how answers look
from archsync.core.wording import moment as moment
from archsync.core.wording import size as size

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """The option ``--json`` of every listing."""
    option = click.option(
        "--json", "as_json", is_flag=True, help="Write JSON; its names stay the same, times are ISO in UTC."
    )
    return option(function)


def override_lock_option(function: F) -> F:
    """The option ``--override-lock`` of what is locked for a destination that is in use."""
    option = click.option(
        "--override-lock",
        "override_reason",
        metavar="REASON",
        callback=_check_reason,
        help="Do it though the destination holds studies, and why; for another AE title or host: the same archive has"
        " moved. The audit keeps the reason.",
    )
    return option(function)


def _check_reason(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter("say why.")
    return value


def write_json(items: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON array, one element a line, as the elements come."""
    separator = "["
    for item in items:
        click.echo(f"{separator}\n{_encode(item)}", nl=False)
        separator = ","
    click.echo("[]" if separator == "[" else "\n]")


def write_json_object(item: Mapping[str, Any]) -> None:
    """Write one JSON object."""
    click.echo(_encode(item, indent=2))


def _encode(item: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(item, default=_plain, ensure_ascii=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def plain(value: Any) -> Any:
    """An enum's member as its JSON value: the word, not the number; anything else as it is."""
    if isinstance(value, IntEnum):
        return value.name
    return value.value if isinstance(value, Enum) else value


def write_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write rows in columns as wide as their longest value; ``empty`` is said when there are none."""
    texts = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not texts:
        click.echo(empty)
        return
    lines = [list(headers), *texts]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Write names and values below each other; empty values are left out."""
    shown = [(name, str(value)) for name, value in facts if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {value}")
