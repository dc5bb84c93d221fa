"""Messages made fit to be shown: what says who the patient is gives way to stars, the structure stays."""

from __future__ import annotations

import re

from archsync.messages.hl7_text import decode_text

#: Fields about the patient as a person; of identifiers only the number (CX-1, with its check digit).
_PERSONAL = {"PID": (5, 7, 8, 11), "MRG": (7,)}
_IDENTIFIERS = {"PID": (2, 3, 4), "MRG": (1,)}
_CHECKED_NUMBER = 2
_LEAF = re.compile(r"[^~^&]+")
_MASK = "***"


def mask_patient(message: bytes) -> str:
    """A message of ours as text, one segment a line, without what says who the patient is.

    PID-5, 7, 8 and 11 and MRG-7 are masked leaf by leaf, of PID-3 and MRG-1 the number; the assigning authority stays.
    """
    return "\n".join(_mask_segment(line) for line in decode_text(message).split("\r") if line)


def show_patient(message: bytes) -> str:
    """A message of ours as text, one segment a line, with all it says."""
    return "\n".join(line for line in decode_text(message).split("\r") if line)


def _mask_segment(line: str) -> str:
    name, *values = line.split("|")
    for number in _PERSONAL.get(name, ()):
        if number <= len(values):
            values[number - 1] = _LEAF.sub(_MASK, values[number - 1])
    for number in _IDENTIFIERS.get(name, ()):
        if number <= len(values):
            values[number - 1] = "~".join(map(_mask_number, values[number - 1].split("~")))
    return "|".join([name, *values])


def _mask_number(identifier: str) -> str:
    components = identifier.split("^")
    masked = [_LEAF.sub(_MASK, component) for component in components[:_CHECKED_NUMBER]]
    return "^".join([*masked, *components[_CHECKED_NUMBER:]])
