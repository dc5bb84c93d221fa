"""Trying a destination step by step, before or after it is made: what an administrator's **Test** shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from archsync.core.destination import Destination, Verification
from archsync.errors import ArchsyncError

if TYPE_CHECKING:
    from archsync.net.dicom.echo import ProbeStep

TITLES = {
    "tcp": "Connection",
    "tls": "TLS",
    "association": "Association",
    "echo": "C-ECHO",
    "storage": "Storage contexts",
    "notes": "Rejection notes (KOS)",
    "find": "C-FIND",
    "adt": "ADT receiver",
}
"""The steps in their order, each with its name for people."""

_DICOM_STEPS = tuple(name for name in TITLES if name != "adt")


class StepState(StrEnum):
    """What came of a step."""

    OK = "ok"
    WARNING = "warning"
    """Something is not offered that this destination can do without."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not tried: not set, or an earlier step failed."""


@dataclass(frozen=True, slots=True)
class TriedStep:
    """One step. ``code`` and ``next_step`` are empty where nothing is wrong; ``took_ms`` is None where skipped."""

    name: str
    state: StepState
    detail: str
    code: str = ""
    next_step: str = ""
    took_ms: int | None = None

    @property
    def title(self) -> str:
        """Its name for people."""
        return TITLES[self.name]


def try_destination(destination: Destination, *, limit_s: float | None = None) -> Iterator[TriedStep]:
    """Try a destination from here, step by step, giving each as it is done; nothing is stored, and no message sent.

    ``limit_s``: no single wait is longer than this, whatever the destination's own time-outs say.
    """
    if limit_s is not None:
        destination = _hurried(destination, limit_s)
    yield from _try_archive(destination)
    yield _try_adt_receiver(destination)


def where_from(destination: Destination) -> str | None:
    """What to bear in mind of a test made here: jobs leave from elsewhere; None: from here, too."""
    if destination.gateway is None:
        return None
    return f"jobs of {destination.name} leave through gateway {destination.gateway}; this tries it from here"


def _hurried(destination: Destination, limit_s: float) -> Destination:
    names = ("connect_timeout_s", "acse_timeout_s", "dimse_timeout_s", "network_timeout_s", "adt_connect_timeout_s")
    return replace(destination, **{name: min(getattr(destination, name), limit_s) for name in names})


def _try_archive(destination: Destination) -> Iterator[TriedStep]:
    # pynetdicom takes half a second that nothing else needs.
    from archsync.core.transfer import Endpoint
    from archsync.net.dicom.echo import diagnose

    expected = list(_DICOM_STEPS)
    steps = diagnose(Endpoint.of(destination), needs_notes=destination.iocm.supports_iocm)
    started_s = time.monotonic()
    for step in steps:
        took_ms = _since_ms(started_s)
        while expected[0] != step.name:
            yield TriedStep(expected.pop(0), StepState.SKIPPED, "TLS is off")
        expected.pop(0)
        yield _judged(step, destination, took_ms)
        started_s = time.monotonic()
    for name in expected:
        yield TriedStep(name, StepState.SKIPPED, "not tried, for an earlier step failed")


def _judged(step: ProbeStep, destination: Destination, took_ms: int) -> TriedStep:
    """A step with what it means for this destination."""
    if step.name == "notes" and step.ok and not destination.iocm.supports_iocm:
        detail = f"{step.message}; this destination is set to send none"
        return TriedStep(step.name, StepState.OK, detail, took_ms=took_ms)
    state = StepState.OK if step.ok else StepState.FAILED
    if step.code in ("echo-not-supported", "sop-class-not-accepted"):
        state = StepState.WARNING
    if step.code == "find-not-supported" and destination.verification is not Verification.C_FIND:
        state = StepState.WARNING
    return TriedStep(step.name, state, step.message, step.code, step.next_step or _ADVICE.get(step.code, ""), took_ms)


_ADVICE = {
    "echo-not-supported": "Nothing, unless the archive should answer C-ECHO.",
    "sop-class-not-accepted": "Nothing, unless such images are to go there: then have the archive accept them.",
    "no-sop-class-accepted": "Have the archive accept storage from this calling AE title.",
    "find-not-supported": "Have the archive accept C-FIND from this calling AE title, or leave verification at none.",
    "notes-not-accepted": "Have the archive accept Key Object Selection documents, or set supports_iocm to false.",
}


def _try_adt_receiver(destination: Destination) -> TriedStep:
    from archsync.net.mllp import MllpClient

    adt = destination.adt
    if adt is None:
        return TriedStep("adt", StepState.SKIPPED, "adt_host is empty: no ADT messages are sent")
    started_s = time.monotonic()
    client = MllpClient(adt.host, adt.port, tls=adt.tls, connect_timeout_s=adt.connect_timeout_s)
    try:
        with client:
            client.connect()
    except ArchsyncError as exc:
        return TriedStep("adt", StepState.FAILED, exc.message, exc.code, exc.next_step, _since_ms(started_s))
    detail = f"{adt.host} port {adt.port} takes connections for ADT messages"
    return TriedStep("adt", StepState.OK, detail, took_ms=_since_ms(started_s))


def _since_ms(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1000)
