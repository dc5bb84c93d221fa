"""Moments as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from archsync.core.moments import parse_moment


class Moment(click.ParamType[datetime]):
    """A moment as text: ``2026-05-04``, ``2026-05-04T10:30`` (UTC, or with an offset), or ``90m``, ``12h``, ``7d``."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_moment(value, datetime.now(UTC))
        except ValueError:
            self.fail(f"{value!r} is no moment; write 2026-05-04, 2026-05-04T10:30 or 12h (m, h, d ago).", param, ctx)
