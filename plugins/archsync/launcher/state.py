"""The state folder of a local installation: what a second start finds again.

Holds the databases, Airflow's home, logs, and ``state.json`` with the secrets and ports that were chosen once. All for
the owner only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from archsync.errors import ConfigurationError
from archsync.launcher.postgres import free_port, is_free, postgres_can_enter

#: The folder that holds plugins/, dags/, include/ and scripts/.
CHECKOUT = Path(__file__).resolve().parents[3]
_LOCK_TIMEOUT_S = 45


class State:
    """The state folder, locked for this process until :meth:`unlock` or its end.

    Raises:
        ConfigurationError: the folder can't be made, or another launcher runs on it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or Path(os.environ.get("ARCHSYNC_STATE") or CHECKOUT / ".archsync")).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # PostgreSQL's own system user passes through when root starts it; the files inside stay the owner's.
            self.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self.lock_file = (self.folder / "lock").open("a+")
        except OSError as exc:
            raise ConfigurationError(
                f"the state folder {self.folder} can't be used: {exc.strerror}",
                code="state-folder",
                next_step="Name another one in the environment variable ARCHSYNC_STATE.",
            ) from exc
        self._lock()
        self._file = self.folder / "state.json"
        self._values: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    @property
    def airflow_home(self) -> Path:
        """Airflow's home folder."""
        return self.folder / "airflow"

    @property
    def logs(self) -> Path:
        """One log file for each process we start."""
        return self.folder / "logs"

    @property
    def postgres_folder(self) -> Path:
        """The databases: in the state folder, unless root started us and PostgreSQL's user can't get there."""
        if postgres_can_enter(self.folder):
            return self.folder / "postgres"
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path("/var/lib/archsync") / name

    def _lock(self) -> None:
        # A launcher that is being stopped holds the lock until its last process has gone: wait for it.
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self.lock_file.seek(0)
                holder = self.lock_file.read().strip()
                if time.monotonic() > deadline or (holder.isdigit() and psutil.pid_exists(int(holder))):
                    self.lock_file.close()
                    raise ConfigurationError(
                        f"archsync already runs on {self.folder} (process {holder or 'unknown'})",
                        code="already-running",
                        next_step="Stop it first (Ctrl-C in its terminal, or SIGTERM).",
                    ) from None
                time.sleep(0.1)
        self.lock_file.truncate(0)
        self.lock_file.write(f"{os.getpid()}\n")
        self.lock_file.flush()

    def unlock(self) -> None:
        """Let the next launcher in, once every process that inherited the lock has ended too."""
        self.lock_file.close()

    def wipe(self) -> None:
        """Remove everything but the lock; nothing of it may be running."""
        shutil.rmtree(self.postgres_folder, ignore_errors=True)
        for entry in self.folder.iterdir():
            if entry.name == "lock":
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._values = {}

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(64)) -> str:
        """A secret that is made once and kept."""
        return str(self._remember("secrets", name, make))

    def port(self, name: str, *, wanted: int | None = None, preferred: int | None = None) -> int:
        """A TCP port on 127.0.0.1: the wanted one; else the one used last, the preferred, or any that is free.

        Raises:
            ConfigurationError: the wanted port is in use.
        """
        if wanted is not None and not is_free(wanted):
            raise ConfigurationError(
                f"port {wanted} on 127.0.0.1 is in use",
                code="port-in-use",
                next_step="Name another port, or none to take a free one.",
            )
        last = self._values.get("ports", {}).get(name)
        port = wanted or next((p for p in (last, preferred) if p and is_free(p)), None) or free_port()
        if port != last:
            self._values.setdefault("ports", {})[name] = port
            self._write()
        return port

    def _remember(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        known = self._values.setdefault(kind, {})
        if name not in known:
            known[name] = make()
            self._write()
        return known[name]

    def _write(self) -> None:
        write_private(self._file, json.dumps(self._values, indent=2) + "\n")

    def write_environment(self, environment: Mapping[str, str]) -> None:
        """Write the variables as shell assignments, for ``scripts/archsync``."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environment.items())]
        write_private(self.folder / "env", "".join(lines))


def write_private(path: Path, text: str) -> None:
    """Write a file for the owner only, all of it or nothing."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(0o600)
    unfinished.write_text(text)
    unfinished.replace(path)
