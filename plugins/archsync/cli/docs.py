"""Writes the tables of settings in ``docs/destination.md``: ``python -m archsync.cli.docs docs/destination.md``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from archsync.core.destination import Destination
from archsync.core.settings import format_value
from archsync.core.settings_schema import SettingInfo, SettingKind, describe_settings
from archsync.services.gateways import GatewaySettings

_TABLES = {"destination": Destination, "gateway": GatewaySettings}
_MARKED = re.compile(r"(<!-- settings of (\w+): begin[^\n]*-->\n).*?(<!-- settings of \2: end -->)", re.DOTALL)


def refresh(text: str) -> str:
    """The page with its tables as the code has the settings now."""
    return _MARKED.sub(lambda match: f"{match[1]}{settings_table(_TABLES[match[2]])}{match[3]}", text)


def settings_table(cls: type) -> str:
    """All settings of a class as a Markdown table."""
    lines = ["| setting | meaning | default | unit | allowed | example |", "|---|---|---|---|---|---|"]
    for info in describe_settings(cls):
        default = "**needed**" if info.is_required else _code(_as_text(info.default)) or "none"
        cells = [f"`{info.name}`", info.meaning, default, info.unit, _allowed(info), _code(info.example)]
        lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def _as_text(default: Any) -> str:
    return format_value(tuple(default) if isinstance(default, list) else default)


def _allowed(info: SettingInfo) -> str:
    if info.range is not None:
        return str(info.range)
    if info.kind is SettingKind.BOOLEAN:
        return "`true`, `false`"
    if info.choices:
        return ", ".join(map(_code, info.choices))
    return "a list" if info.kind is SettingKind.LIST else ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(refresh(path.read_text(encoding="utf-8")), encoding="utf-8")
