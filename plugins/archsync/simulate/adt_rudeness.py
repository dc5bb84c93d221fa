"""The JSON file that has a simulated ADT receiver misbehave while it runs.

{"replies": [{"ack_code": "AR", "error_code": "207"}, {"is_missing": true}],
 "otherwise": {"pieces": 3, "piece_delay_s": 0.2},
 "idle_close_s": 2}
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from archsync.errors import ConfigurationError
from archsync.simulate.adt_script import AdtScript, Hangup, Reply

ADT_RUDENESS_FILE = "adt-rudeness.json"

_ACK_CODES = ("AA", "AE", "AR", "CA", "CE", "CR")


def read_adt_script(text: str, base: AdtScript | None = None) -> AdtScript:
    """Read a script from JSON: an object with the field names of :class:`AdtScript`, replies with those of Reply.

    What it does not name is as in ``base``.

    Raises:
        ConfigurationError: not JSON, an unknown name, or a value that a name can't have.
    """
    try:
        script: AdtScript = replace(base or AdtScript(), **_checked(json.loads(text), _SCRIPT))
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise ConfigurationError(f"{ADT_RUDENESS_FILE}: {exc}", code="bad-setting") from exc
    return script


def _checked(values: dict[str, Any], readers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    unknown = values.keys() - readers.keys()
    if unknown:
        raise ValueError(f"unknown name {min(unknown)!r}")
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = readers[name](value)
        except (ValueError, TypeError, LookupError) as exc:
            raise ValueError(f"{name}: {exc}") from exc
    return checked


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"must be a number of seconds, not {value!r}")
    return float(value)


def _pieces(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"must be a whole number from 1 on, not {value!r}")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {value!r}")
    return value


def _ack_code(value: Any) -> str:
    if value not in _ACK_CODES:
        raise ValueError(f"must be one of {', '.join(_ACK_CODES)}, not {value!r}")
    return str(value)


def _reply(values: Any) -> Reply:
    reply = Reply(**_checked(values, _REPLY))
    reply.text.encode(reply.encoding)
    return reply


_REPLY: Mapping[str, Callable[[Any], Any]] = {
    "ack_code": _ack_code,
    "error_code": _word,
    "error_location": _word,
    "severity": _word,
    "is_applied": _flag,
    "delay_s": _seconds,
    "pieces": _pieces,
    "piece_delay_s": _seconds,
    "is_missing": _flag,
    "hangup": lambda value: Hangup(value),
    "control_id": _word,
    "noise": lambda value: _word(value).encode("latin-1"),
    "text": _word,
    "encoding": lambda value: codecs.lookup(_word(value)).name,
    "has_message_structure": _flag,
}

_SCRIPT: Mapping[str, Callable[[Any], Any]] = {
    "replies": lambda values: tuple(_reply(value) for value in values),
    "otherwise": _reply,
    "idle_close_s": _seconds,
    "is_enhanced": _flag,
    "creates_patients": _flag,
    "refuses_unknown_merges": _flag,
}
