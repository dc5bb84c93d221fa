"""How a simulated archive misbehaves: values, and the JSON file that changes them while it runs.

{"refuse_associations": 3, "refuse_result": 2, "refuse_source": 3, "refuse_reason": 1,
 "statuses": [{"status": "A700", "nth": 5, "times": 2}], "store_delay_s": 0.1}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any

from archsync.errors import ConfigurationError

RUDENESS_FILE = "rudeness.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenStatus:
    """Answer a C-STORE with ``status`` instead of storing (Bxxx: after storing).

    Applies to the ``nth`` C-STORE from now on (1 is the next) or to those of one SOP Instance UID, ``times`` times.
    """

    status: int
    nth: int | None = None
    sop_instance_uid: str | None = None
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rudeness:
    """How the archive misbehaves. Counts begin when the rudeness is set; the default is to be polite."""

    refuse_associations: int = 0
    """Refuse this many association requests with A-ASSOCIATE-RJ, result/source/reason as below."""
    refuse_result: int = 2
    refuse_source: int = 3
    refuse_reason: int = 1
    known_calling_ae_titles: tuple[str, ...] = ()
    """Refuse other calling AE titles (1/1/3); empty: any is welcome."""
    check_called_ae_title: bool = False
    """Refuse associations for another called AE title (1/1/7)."""
    statuses: tuple[ChosenStatus, ...] = ()
    abort_after_stores: int | None = None
    """Abort instead of answering the C-STORE after this many, once."""
    lose_answer_of_store: int | None = None
    """Store this C-STORE (1 is the next), then abort instead of answering, once."""
    answer_every_store: int | None = None
    """Answer each C-STORE with this status and store nothing."""
    stall_at_store: int | None = None
    """Wait ``stall_s`` before the response to this C-STORE (1 is the next), once."""
    stall_s: float = 0.0
    accept_transfer_syntaxes: tuple[str, ...] = ()
    """Accept only these transfer syntaxes for storage; empty: all."""
    accept_sop_classes: tuple[str, ...] = ()
    """Accept only these SOP classes for storage; empty: all."""
    refuse_sop_classes: tuple[str, ...] = ()
    """Accept these SOP classes in no association."""
    store_delay_s: float = 0.0
    """Wait before each C-STORE response."""

    @classmethod
    def from_json(cls, text: str) -> Rudeness:
        """Read rudeness from JSON: an object with the field names of this class; ``statuses`` is a list of objects.

        Raises:
            ConfigurationError: not JSON, or an unknown name.
        """
        try:
            values = json.loads(text)
            statuses = tuple(_as_status(status) for status in values.pop("statuses", ()))
            rudeness: Rudeness = replace(_checked(cls(), values), statuses=statuses)
            return rudeness
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ConfigurationError(f"{RUDENESS_FILE}: {exc}", code="bad-setting") from exc


def _as_status(values: dict[str, Any]) -> ChosenStatus:
    """One of the statuses."""
    code = _as_code(values.pop("status"))
    chosen: ChosenStatus = _checked(ChosenStatus(status=code), values)
    return chosen


def _as_code(status: Any) -> int:
    """A DIMSE status, which may be written "A700" as well as 42752."""
    return int(status, 16) if isinstance(status, str) else int(status)


def _checked(default: Any, values: dict[str, Any]) -> Any:
    """``default`` with ``values``, which must have the types of the fields they replace (None: a whole number)."""
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in {f.name for f in fields(default)}:
            raise ValueError(f"unknown name {name!r}")
        now = getattr(default, name)
        if isinstance(now, tuple):
            checked[name] = tuple(str(part) for part in value)
        elif name == "sop_instance_uid":
            checked[name] = str(value)
        elif name == "answer_every_store":
            checked[name] = _as_code(value)
        elif isinstance(value, bool) is not isinstance(now, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: bad value {value!r}")
        else:
            checked[name] = value
    return replace(default, **checked)
