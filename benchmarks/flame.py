"""A flame graph of one process: sampled by py-spy, drawn as a small SVG without scripts."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

RATE_HZ = 250
WIDTH, ROW, MARGIN = 1200, 17, 8
SHORTEST_PX = 1.5
CHARACTER_PX = 6.1

#: Part of a frame's text → the colour and the name of what it belongs to; the innermost frame that has one counts.
PARTS = {
    "archsync/net/": ("#e8743b", "reading files and sending"),
    "archsync/ledger/": ("#4a7fb5", "ledger"),
    "archsync/platformdb/": ("#5fa75f", "platform"),
    "archsync/": ("#e0b040", "archsync's decisions"),
    "airflow/": ("#9a86b8", "Airflow"),
}
_OTHER = "#b0b0b0"

Stack = tuple[str, ...]


class Recording:
    """Samples a process from shortly after its start to its end. ``find_pid`` is asked for it again and again."""

    def __init__(self, find_pid: Callable[[], int | None]) -> None:
        self._program = shutil.which("py-spy") or ""
        if not self._program:
            raise SystemExit("a flame graph needs py-spy (pip install py-spy)")
        self._find_pid = find_pid
        self._folder = tempfile.TemporaryDirectory(prefix="archsync-bench-")
        self._raw = Path(self._folder.name, "raw")
        self._thread = threading.Thread(target=self._record)
        self._stop = threading.Event()
        self._said = ""

    def __enter__(self) -> Recording:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        pid = None
        while pid is None and not self._stop.is_set():
            pid = self._find_pid()
            time.sleep(0.005)
        if pid is not None:
            # --idle: the whole of its time, that in which it waits as well.
            options = ["--format", "raw", "--function", "--idle", "--threads", "--rate", str(RATE_HZ)]
            command = [self._program, "record", *options, "--output", str(self._raw), "--pid", str(pid)]
            self._said = subprocess.run(command, capture_output=True, text=True, check=False).stderr

    def stacks(self) -> dict[Stack, int]:
        """Samples of the main thread by stack, outermost function first."""
        if not self._raw.exists():
            raise SystemExit(f"py-spy recorded nothing (may it trace processes?): {self._said[-500:]}")
        found: Counter[Stack] = Counter()
        for line in self._raw.read_text().splitlines():
            text, _, count = line.rpartition(" ")
            thread, *frames = text.split(";")
            if "MainThread" in thread:
                found[tuple(frames)] += int(count)
        return dict(found)


@dataclass(slots=True)
class _Frame:
    samples: int = 0
    called: dict[str, _Frame] = field(default_factory=dict)


def draw(stacks: dict[Stack, int], *, title: str, below: str) -> str:
    """An SVG in which a function lies under the one that called it, as wide as the time it took.

    ``below``: the function whose time is drawn; what leads to it is left out.
    """
    root = _Frame()
    for stack, samples in stacks.items():
        start = next((n for n, frame in enumerate(stack) if frame.startswith(below)), None)
        if start is None:
            continue
        frame = root
        frame.samples += samples
        for text in stack[start:]:
            frame = frame.called.setdefault(text, _Frame())
            frame.samples += samples
    if not root.samples:
        raise SystemExit(f"no sample was taken below {below}")
    scale = (WIDTH - 2 * MARGIN) / root.samples
    boxes = list(_boxes(root, 0, 0, _OTHER, scale))
    top = 3 * ROW
    height = top + (max(depth for depth, _ in boxes) + 1) * ROW + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        f' font-size="11"><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{MARGIN}" y="16" font-size="14">{escape(title)}: {root.samples / RATE_HZ:.1f} s</text>'
    )
    legend, x = [], MARGIN
    for colour, name in PARTS.values():
        legend.append(f'<rect x="{x}" y="25" width="12" height="12" fill="{colour}"/>')
        legend.append(f'<text x="{x + 17}" y="35">{escape(name)}</text>')
        x += 40 + round(len(name) * CHARACTER_PX)
    drawn = [f'<g transform="translate(0 {top + depth * ROW})">{box}</g>' for depth, box in boxes]
    return "\n".join([head, *legend, *drawn, "</svg>", ""])


def _boxes(frame: _Frame, depth: int, start: int, colour: str, scale: float) -> Iterator[tuple[int, str]]:
    """The boxes of what a frame called, each with its row."""
    for text, called in sorted(frame.called.items(), key=lambda item: -item[1].samples):
        width = called.samples * scale
        if width >= SHORTEST_PX:
            own = next((of for part, (of, _) in PARTS.items() if part in text), colour)
            share = f"{called.samples / RATE_HZ:.2f} s"
            yield depth, _box(MARGIN + start * scale, width, own, text, share)
            yield from _boxes(called, depth + 1, start, own, scale)
        start += called.samples


def _box(x: float, width: float, colour: str, text: str, share: str) -> str:
    name = text.partition(" (")[0].replace("<locals>.", "")
    room = int((width - 4) / CHARACTER_PX)
    label = name if len(name) <= room else f"{name[: room - 1]}…" if room > 3 else ""
    shown = f'<text x="{x + 3:.1f}" y="12">{escape(label)}</text>' if label else ""
    rectangle = f'<rect x="{x:.1f}" width="{width - 0.5:.1f}" height="{ROW - 1}" fill="{colour}">'
    return f"{rectangle}<title>{escape(text)}: {share}</title></rect>{shown}"
