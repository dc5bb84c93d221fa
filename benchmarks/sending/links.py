"""The sender over a way of some length: beside DCMTK's, and on several associations beside one."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sending.receivers import Receivers
from sending.runs import Run, run_dcmtk, run_own

LINKS_MS = (0.5, 10.0, 50.0)
ASSOCIATIONS = 8
PARALLEL_MS = 10.0
_SECONDS = 4.0
"""What a sender that does nothing but wait may take for its files."""


def measure_links(
    receivers: Receivers, folder: Path, kind: str, links_ms: list[float], rounds: int
) -> dict[str, dict[str, float]]:
    """By round trip in ms: instances a second of each sender on one association, and ours against the best of DCMTK."""
    senders: dict[str, Callable[[int, Path], Run]] = {"archsync": lambda *where: run_own("archsync", *where, kind)}
    for program in ("dcmsend", "storescu"):
        if shutil.which(program):
            senders[program] = lambda *where, p=program: run_dcmtk(p, *where, kind, no_delay=True)
    found = {}
    for rtt_ms in links_ms:
        port = receivers.start_far("null", rtt_ms)
        with some_of(folder, rtt_ms) as few:
            rates = _interleaved({name: partial(send, port, few) for name, send in senders.items()}, rounds)
        if best := max((rate for name, rate in rates.items() if name != "archsync"), default=None):
            rates["vs_dcmtk"] = round(rates["archsync"] / best, 2)
        found[f"{rtt_ms:g}"] = rates
    return found


def measure_parallel(receivers: Receivers, folder: Path, kind: str, rounds: int) -> dict[str, float]:
    """Instances a second over 10 ms on one association and on eight, and how many times faster that is.

    All files go, so that the time in which the associations become eight counts for what it is.
    """
    port = receivers.start_far("null", PARALLEL_MS)
    rates = _interleaved(
        {
            name: lambda n=associations: run_own("archsync", port, folder, kind, associations=n)
            for name, associations in (("one", 1), ("eight", ASSOCIATIONS))
        },
        rounds,
    )
    return {"rtt_ms": PARALLEL_MS, **rates, "ratio": round(rates["eight"] / rates["one"], 2)}


def _interleaved(senders: dict[str, Callable[[], Run]], rounds: int) -> dict[str, float]:
    runs: dict[str, list[Run]] = {name: [] for name in senders}
    for _ in range(rounds):
        for name, send in senders.items():
            runs[name].append(send())
    return {name: round(statistics.median(r.stored / r.seconds for r in done), 1) for name, done in runs.items()}


@contextmanager
def some_of(folder: Path, rtt_ms: float) -> Iterator[Path]:
    """As many of the files as take some seconds when each costs a round trip."""
    count = max(4, round(_SECONDS * 1000 / rtt_ms))
    with tempfile.TemporaryDirectory(prefix="archsync-bench-") as name:
        for path in sorted(folder.glob("*.dcm"))[:count]:
            Path(name, path.name).hardlink_to(path)
        yield Path(name)
