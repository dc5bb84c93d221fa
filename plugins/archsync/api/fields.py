"""Kinds of values that requests carry, with the bounds within which the databases take them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints, WithJsonSchema

from archsync.core import moments

JobId = Annotated[int, Field(ge=1, le=2**63 - 1, description="A job's number.")]

Uid = Annotated[str, StringConstraints(pattern=r"^[0-9.]{1,64}$")]

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
"""A name of the ledger or the platform: on one line."""

Text = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
"""What somebody writes."""


def _read_moment(value: Any) -> Any:
    """``90m``, ``12h`` or ``7d`` ago, or a date; anything else is left to be understood as a moment."""
    if not isinstance(value, str):
        return value
    try:
        return moments.parse_moment(value, datetime.now(UTC))
    except ValueError:
        raise ValueError("write 2026-05-04, 2026-05-04T10:30Z or 12h (m, h, d ago)") from None


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_read_moment),
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), le=datetime(9998, 12, 31, tzinfo=UTC)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "string", "pattern": "^[0-9]{1,4}[mhd]$"},
            ],
            "description": "A moment: ISO 8601 (UTC unless it says otherwise), or 90m, 12h, 7d ago.",
            "examples": ["24h"],
        }
    ),
]
