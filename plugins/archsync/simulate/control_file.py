"""A JSON file that says how a simulator misbehaves while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from archsync.errors import ConfigurationError

LOGGER = logging.getLogger(__name__)

Behaviour = TypeVar("Behaviour")


class ControlFile(Generic[Behaviour]):
    """The file, read when it changes. ``polite``: how the simulator behaves without one."""

    def __init__(self, path: Path, *, read: Callable[[str], Behaviour], polite: Behaviour) -> None:
        self._path = path
        self._read = read
        self._polite = polite
        self._seen: tuple[int, int] | None = None

    def apply_to(self, behave: Callable[[Behaviour], None]) -> None:
        """Hand what the file says to ``behave`` if it has changed; one with mistakes is reported and left alone."""
        try:
            status = self._path.stat()
            now = (status.st_mtime_ns, status.st_size)
            if now == self._seen:
                return
            behaviour = self._read(self._path.read_text())
        except FileNotFoundError:
            if self._seen is not None:
                behave(self._polite)
            self._seen = None
            return
        except (ConfigurationError, OSError, UnicodeDecodeError) as exc:
            LOGGER.warning("%s is ignored: %s", self._path.name, exc)
            self._seen = now
            return
        behave(behaviour)
        self._seen = now
