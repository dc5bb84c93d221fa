"""Runs of one sender each, in a process of its own, timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Run:
    """What one sender did with the files of one kind."""

    stored: int
    seconds: float
    cpu_seconds: float
    memory_mb: float | None = None
    """What sending added; DCMTK's can't be told from that of the process that started it."""


def run_own(name: str, port: int, folder: Path, kind: str, *, associations: int = 1, ca_file: str = "") -> Run:
    """A sender of `sending/senders.py`, with TLS where an authority is named."""
    command = [sys.executable, "-m", "sending.senders", name, str(port), str(folder), kind, str(associations), ca_file]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    return Run(**json.loads(output.splitlines()[-1]))


def run_dcmtk(
    program: str, port: int, folder: Path, kind: str, *, no_delay: bool, more_options: tuple[str, ...] = ()
) -> Run:
    """`dcmsend` or `storescu` at their fastest."""
    options = ["-nuc", "-dn"] if program == "dcmsend" else ["-xv"] if kind == "j2k" else []
    options += more_options
    command = [program, "-ll", "error", *options, "-aec", "NULL", "127.0.0.1", str(port), "+sd", str(folder)]
    environment = {**os.environ, "TCP_NODELAY": "1"} if no_delay else os.environ
    begun = time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    count = len(list(folder.glob("*.dcm")))
    return Run(count, seconds, usage.ru_utime + usage.ru_stime)


Sender = Callable[[int, Path, str], Run]
