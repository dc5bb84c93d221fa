"""What it costs to know files before they are sent, beside pydicom."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread

from archsync.core.transfer import OutgoingInstance
from archsync.net.dicom.opened import open_instance
from sending.corpus import describe_corpus, make_corpus

KINDS = ("ct", "mr", "j2k", "sr")
FILES = 10_000


def measure_planning(scale: float, rounds: int) -> dict[str, float]:
    """Microseconds a file for opening, reading and checking as the sender does, and for pydicom's shortest reading.

    The files of all kinds are mixed, so that no two of a kind come one after the other more often than by chance.
    """
    with tempfile.TemporaryDirectory(prefix="archsync-bench-") as temporary:
        instances: list[OutgoingInstance] = []
        for kind in KINDS:
            folder = Path(temporary, kind)
            make_corpus(folder, kind, max(10, round(FILES * scale / len(KINDS))))
            instances += describe_corpus(folder, kind)
        random.Random(1).shuffle(instances)
        paths = [instance.location.removeprefix("file://") for instance in instances]
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(_seconds(lambda: [open_instance(instance).close() for instance in instances]))
            theirs.append(_seconds(lambda: [dcmread(path, stop_before_pixels=True) for path in paths]))
    mine, reading = statistics.median(ours), statistics.median(theirs)
    return {
        "files": len(instances),
        "us_per_file": round(mine / len(instances) * 1e6, 1),
        "dcmread_us_per_file": round(reading / len(instances) * 1e6, 1),
        "vs_dcmread": round(mine / reading, 3),
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
