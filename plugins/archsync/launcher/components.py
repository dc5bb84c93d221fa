"""Starts processes, watches them, and leaves none behind.

Each component runs in a session of its own with a log file. One that exits unexpectedly is started again; one that
keeps exiting ends the launcher, with the end of its log. Stopping is the guard's work (see ``guard.py``).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from archsync.errors import ArchsyncError
from archsync.launcher.guard import GRACE_S, stop_sessions
from archsync.launcher.postgres import EmbeddedPostgres

#: A component that ran at least this long before it exited is taken for one that works.
_STABLE_AFTER_S = 60.0
_MAX_QUICK_EXITS = 3
_LEFTOVERS_GRACE_S = 5.0


class ComponentFailed(ArchsyncError):
    """A component of the local installation can't be kept running, or a command failed."""

    code = "component-failed"
    next_step = "Read the log named in the message."


@dataclass(slots=True)
class _Component:
    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    started_s: float
    quick_exits: int = 0


class Supervisor:
    """The processes of one launcher.

    Args:
        environment: of every process.
        working_folder: where they run; not the checkout, whose folders would be importable.
        logs: folder of the log files, ``<name>.log``; those of the last start become ``<name>.log.1``.
        report: gets one line for each event a person should know.
        keep_open: a file the guard holds open until everything has stopped (the lock of the state folder).
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        working_folder: Path,
        logs: Path,
        report: Callable[[str], None],
        keep_open: IO[str],
    ) -> None:
        self._environment = dict(environment)
        self._working_folder = working_folder
        self._logs = logs
        self._report = report
        self._keep_open = keep_open
        self._components: dict[str, _Component] = {}
        self._servers: list[EmbeddedPostgres] = []
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._logs.chmod(0o700)
        for log in self._logs.glob("*.log"):
            log.replace(log.with_name(log.name + ".1"))
        with self._log_file("guard").open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "archsync.launcher.guard"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._working_folder,
                env=self._environment,
                start_new_session=True,
                pass_fds=[self._keep_open.fileno()],
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything and wait for it; a second Ctrl-C does not hurry it."""
        assert self._guard is not None
        if self._guard.poll() is None:
            # Waits too; closing the guard's input is what tells it to stop everything.
            self._guard.communicate()
        # Nothing is left to do here unless the guard itself was killed.
        stop_sessions([component.process.pid for component in self._components.values()], grace_s=GRACE_S)
        for component in self._components.values():
            component.process.wait()
        for component in self._components.values():
            component.process.wait()
        for server in self._servers:
            server.stop()

    def stop_at_exit(self, postgres: EmbeddedPostgres) -> None:
        """Have this server stopped after all components."""
        self._servers.append(postgres)
        self._tell_guard("postgres", str(postgres.data_dir), str(postgres.version))

    def start(self, name: str, *arguments: str) -> None:
        """Start ``python -m ARGUMENTS`` as a component that is to keep running."""
        command = [sys.executable, "-m", *arguments]
        self._components[name] = _Component(name, command, self._spawn(name, command), time.monotonic())

    def run(self, name: str, *arguments: str) -> None:
        """Run ``python -m ARGUMENTS`` to its end.

        Raises:
            ComponentFailed: it exits with another code than 0.
        """
        process = self._spawn(name, [sys.executable, "-m", *arguments])
        code = process.wait()
        self._tell_guard("ended", str(process.pid))
        if code != 0:
            raise ComponentFailed(f"{name} {_exit_text(code)}: {self.log_tail(name)}")

    def check(self) -> None:
        """Start again what has exited since the last call.

        Raises:
            ComponentFailed: a component exits again and again; the message ends with its log.
        """
        for component in self._components.values():
            code = component.process.poll()
            if code is None:
                continue
            # What it forked may still run, and would work beside its successor.
            stop_sessions([component.process.pid], grace_s=_LEFTOVERS_GRACE_S)
            self._tell_guard("ended", str(component.process.pid))
            lived_s = time.monotonic() - component.started_s
            component.quick_exits = component.quick_exits + 1 if lived_s < _STABLE_AFTER_S else 1
            if component.quick_exits >= _MAX_QUICK_EXITS:
                raise ComponentFailed(
                    f"{component.name} {_exit_text(code)} {_MAX_QUICK_EXITS} times in a row: "
                    f"{self.log_tail(component.name)}"
                )
            self._report(f"{component.name} {_exit_text(code)}; starting it again")
            component.process = self._spawn(component.name, component.command)
            component.started_s = time.monotonic()

    def pid(self, name: str) -> int:
        """The process id (and session id) of a component."""
        return self._components[name].process.pid

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The name of a component's log and its last lines."""
        log = self._log_file(name)
        tail = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
        return "\n  ".join([f"the end of {log}:", *tail])

    def _log_file(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log_file(name).open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  (our own modules and Airflow)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._working_folder,
                env=self._environment,
                start_new_session=True,
            )
        self._tell_guard("session", str(process.pid))
        return process

    def _tell_guard(self, *words: str) -> None:
        assert self._guard is not None, "used as a context manager"
        try:
            print(*words, sep="\t", file=self._guard.stdin, flush=True)
        except BrokenPipeError as exc:
            raise ComponentFailed(f"the guard was killed; {self.log_tail('guard')}") from exc


def _exit_text(code: int) -> str:
    return f"exited with code {code}" if code >= 0 else f"was killed by signal {-code}"
