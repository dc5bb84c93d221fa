"""Instances a second of the sender, beside DCMTK's, pynetdicom's and a raw socket pushing the same bytes.

    scripts/benchmark send [--scale 0.1] [--rounds 5] [--kinds ct,sr] [--receivers null,stock] [--link 0.5,10] [--tls]
                           [--planning] [--json FILE]

Interleaved A B A B in one run, medians of the rounds; trust the ratios, machines and their load differ. Files are made
anew in a temporary folder and are in the page cache. `--scale 1` is the full size (1 GB at a time).
docs/performance.md says more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sending.corpus import KINDS, make_corpus
from sending.links import LINKS_MS, measure_links, measure_parallel
from sending.planning import measure_planning
from sending.receivers import RECEIVERS, Receivers
from sending.runs import Run, Sender, run_dcmtk, run_own
from sending.tls import measure_tls

FEW = 30
"""DCMTK needs 45 to 90 ms for each instance against stock receivers: more would take minutes."""


def senders(*, with_floor: bool) -> dict[str, Sender]:
    """All that there are on this machine, by name."""
    found: dict[str, Sender] = {"archsync": lambda *where: run_own("archsync", *where)}
    for program in ("dcmsend", "storescu"):
        if shutil.which(program):
            found[program] = lambda *where, program=program: run_dcmtk(program, *where, no_delay=False)
            found[f"{program} TCP_NODELAY"] = lambda *where, program=program: run_dcmtk(program, *where, no_delay=True)
    if with_floor:
        found["pynetdicom"] = lambda *where: run_own("pynetdicom", *where)
        found["floor"] = lambda *where: run_own("floor", *where)
    return found


def measure(port: int, folders: dict[str, Path], kind: str, rounds: int, *, full: bool) -> dict[str, dict[str, float]]:
    """Medians of each sender; the few files for those that wait 40 ms for each, whose rate depends on nothing else."""
    chosen = senders(with_floor=full)
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, send in chosen.items():
            is_slow = name in ("dcmsend", "storescu") or (name != "archsync" and not full)
            folder = folders["few" if is_slow else "all"]
            run = send(port, folder, kind)
            if run.stored != len(list(folder.glob("*.dcm"))):
                raise SystemExit(f"{name} stored {run.stored} instances of {kind} only")
            runs[name].append(run)
    size_gb = statistics.mean(p.stat().st_size for p in folders["all"].glob("*.dcm")) / 1e9
    found = {
        name: {
            "instances_s": (rate := statistics.median(r.stored / r.seconds for r in of_sender)),
            "mb_s": rate * size_gb * 1000,
            "cpu_s_per_gb": statistics.median(r.cpu_seconds / r.stored for r in of_sender) / size_gb,
        }
        for name, of_sender in runs.items()
    }
    for name, of_sender in runs.items():
        if memory := [r.memory_mb for r in of_sender if r.memory_mb is not None]:
            found[name]["memory_mb"] = max(memory)
    return found


def best(medians: dict[str, dict[str, float]], *programs: str) -> float | None:
    """The highest rate of senders whose names begin so."""
    rates = [m["instances_s"] for name, m in medians.items() if name.startswith(programs)]
    return max(rates, default=None)


def ratio(mine: float, other: float | None) -> float | None:
    return None if not other else round(mine / other, 2)


def summarize(by_receiver: dict[str, dict[str, dict[str, float]]]) -> dict[str, float | None]:
    """The ratios of one kind of instances."""
    found: dict[str, float | None] = {}
    if null := by_receiver.get("null"):
        mine = null["archsync"]
        found["vs_dcmsend"] = ratio(mine["instances_s"], best(null, "dcmsend"))
        found["vs_storescu"] = ratio(mine["instances_s"], best(null, "storescu"))
        found["vs_pynetdicom"] = ratio(mine["instances_s"], best(null, "pynetdicom"))
        found["vs_floor"] = ratio(mine["instances_s"], best(null, "floor"))
        if "dcmsend" in null:
            found["cpu_vs_dcmsend"] = ratio(mine["cpu_s_per_gb"], null["dcmsend TCP_NODELAY"]["cpu_s_per_gb"])
    for name, medians in by_receiver.items():
        if name != "null":
            rate = medians["archsync"]["instances_s"]
            found[f"{name}_vs_dcmtk"] = ratio(rate, best(medians, "dcmsend", "storescu"))
    return found


def describe(medians: dict[str, float]) -> str:
    text = f"{medians['instances_s']:9.1f}/s {medians['mb_s']:8.1f} MB/s {medians['cpu_s_per_gb']:7.2f} CPU s/GB"
    return text + (f" {medians['memory_mb']:5.1f} MB" if "memory_mb" in medians else "")


@contextmanager
def corpus(kind: str, scale: float) -> Iterator[dict[str, Path]]:
    """All files of a kind, and a few."""
    count = max(4, round(KINDS[kind].count * scale))
    with tempfile.TemporaryDirectory(prefix="archsync-bench-") as temporary:
        folders = {"all": Path(temporary, "all"), "few": Path(temporary, "few")}
        make_corpus(folders["all"], kind, count)
        make_corpus(folders["few"], kind, min(FEW, count))
        yield folders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.1, help="share of the full number of files (default 0.1)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--receivers", default="null,stock", help=f"of {', '.join(RECEIVERS)}")
    parser.add_argument(
        "--link",
        nargs="?",
        const=",".join(f"{rtt_ms:g}" for rtt_ms in LINKS_MS),
        help="measure over ways of these round trips in ms, too (0.5,10,50), and eight associations against one",
    )
    parser.add_argument("--tls", action="store_true", help="measure with TLS, too")
    parser.add_argument(
        "--planning", action="store_true", help="measure the reading of 10,000 files, too, times --scale"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, object] = {}
    more: dict[str, dict[str, object]] = {"links": {}, "tls": {}, "parallel": {}}
    with Receivers() as receivers:
        for kind in arguments.kinds.split(","):
            by_receiver = {}
            with corpus(kind, arguments.scale) as folders:
                for name in arguments.receivers.split(","):
                    port = receivers.start(name)
                    by_receiver[name] = measure(port, folders, kind, arguments.rounds, full=name == "null")
                    for sender, medians in by_receiver[name].items():
                        print(f"{kind:4} to {name:8} {sender:20}", describe(medians), flush=True)
            results[kind] = {**summarize(by_receiver), "medians": by_receiver}
            print(f"{kind:4}", {k: v for k, v in summarize(by_receiver).items() if v is not None}, flush=True)
            for part, measured in more_of(kind, receivers, arguments):
                more[part][kind] = measured
                print(f"{kind:4} {part:8} {measured}", flush=True)
    if arguments.planning:
        more["planning"] = dict(measure_planning(arguments.scale, arguments.rounds))
        print("planning     ", more["planning"], flush=True)
    if arguments.json:
        settings = {"scale": arguments.scale, "rounds": arguments.rounds}
        arguments.json.write_text(json.dumps({"settings": settings, "classes": results, **more}, indent=2))


def more_of(kind: str, receivers: Receivers, arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """What was asked for beyond the fastest way: a long one, and a secure one."""
    with corpus(kind, arguments.scale) as folders:
        if arguments.link:
            links_ms = [float(text) for text in arguments.link.split(",")]
            yield "links", measure_links(receivers, folders["all"], kind, links_ms, arguments.rounds)
            yield "parallel", measure_parallel(receivers, folders["all"], kind, arguments.rounds)
        if arguments.tls:
            yield "tls", measure_tls(receivers, folders["all"], kind, arguments.rounds)


if __name__ == "__main__":
    main()
