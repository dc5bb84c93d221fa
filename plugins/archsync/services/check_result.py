"""One finding of a check, with its level and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is: with an error, studies are missed or refused."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finding. ``view`` and ``column`` are empty where it concerns no single one; ``hint`` says how to mend it."""

    view: str
    column: str
    level: Level
    message: str
    hint: str = ""
