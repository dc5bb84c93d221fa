"""Writes the tables of settings in ``docs/destination.md``: ``python -m archsync.cli.docs docs/destination.md``."""

from __future__ import annotations

import dataclasses
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from archsync.core.destination import Destination
from archsync.core.settings import Range, format_value, setting_fields
from archsync.services.gateways import GatewaySettings

_TABLES = {"destination": Destination, "gateway": GatewaySettings}
_MARKED = re.compile(r"(<!-- settings of (\w+): begin[^\n]*-->\n).*?(<!-- settings of \2: end -->)", re.DOTALL)


def refresh(text: str) -> str:
    """The page with its tables as the code has the settings now."""
    return _MARKED.sub(lambda match: f"{match[1]}{settings_table(_TABLES[match[2]])}{match[3]}", text)


def settings_table(cls: type) -> str:
    """All settings of a class as a Markdown table."""
    lines = ["| setting | meaning | default | unit | allowed | example |", "|---|---|---|---|---|---|"]
    hints = get_type_hints(cls)
    for name, field in setting_fields(cls).items():
        cells = [f"`{name}`", field.metadata["meaning"], _default(field), field.metadata["unit"]]
        cells += [_allowed(field, hints[name]), _code(field.metadata["example"])]
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "**needed**"
    return _code(format_value(field.default)) or "none"


def _allowed(field: dataclasses.Field[Any], wanted: Any) -> str:
    if isinstance(field.metadata["check"], Range):
        return str(field.metadata["check"])
    if type(None) in get_args(wanted):
        wanted = next(kind for kind in get_args(wanted) if kind is not type(None))
    if wanted is bool:
        return "`true`, `false`"
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return ", ".join(_code(member.value) for member in wanted)
    return "a list" if getattr(wanted, "__origin__", None) is tuple else ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(refresh(path.read_text(encoding="utf-8")), encoding="utf-8")
