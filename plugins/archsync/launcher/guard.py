"""The process that outlives the launcher just long enough to stop everything it started.

The launcher writes to our standard input what there is to stop. When that input ends, for whatever reason (a normal
stop, an error, ``kill -9``), we stop it all. So there is one way to stop, and the launcher can't die without it.

    session PID             stop every process of this session (the launcher starts each component in its own)
    ended PID               forget that session
    postgres FOLDER VERSION stop this server, after all sessions
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

#: Airflow's components need up to 12 s on a busy machine.
GRACE_S = 20.0


def main() -> None:
    """Read what to stop until the launcher is gone, then stop it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: set[int] = set()
    servers: list[tuple[str, str]] = []
    for line in sys.stdin:
        kind, *arguments = line.rstrip("\n").split("\t")
        if kind == "session":
            sessions.add(int(arguments[0]))
        elif kind == "ended":
            sessions.discard(int(arguments[0]))
        else:
            servers.append((arguments[0], arguments[1]))
    stop_sessions(sessions, grace_s=GRACE_S)
    if servers:
        from archsync.launcher.postgres import EmbeddedPostgres

        for folder, version in servers:
            EmbeddedPostgres(Path(folder), version=int(version)).stop()


def stop_sessions(sessions: Iterable[int], *, grace_s: float) -> None:
    """End all processes of the sessions: SIGTERM, and SIGKILL for those still there after ``grace_s`` seconds."""
    wanted = frozenset(sessions)
    deadline = time.monotonic() + grace_s
    number = signal.SIGTERM
    told: set[int] = set()
    while alive := _members(wanted):
        if number == signal.SIGTERM and time.monotonic() > deadline:
            number = signal.SIGKILL
            told.clear()
        # A process forked since the last look is told too.
        for pid in alive - told:
            _send(pid, number)
        told |= alive
        time.sleep(0.05)


def _members(sessions: frozenset[int]) -> set[int]:
    members = set()
    for process in psutil.process_iter(["status"]):
        try:
            if process.info["status"] != psutil.STATUS_ZOMBIE and os.getsid(process.pid) in sessions:
                members.add(process.pid)
        except (ProcessLookupError, PermissionError):
            continue
    return members


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
