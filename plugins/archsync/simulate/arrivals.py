"""What came to a simulated archive, in order: the log that tests judge a sender by, and that a restart begins from."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

LOGGER = logging.getLogger(__name__)

_FILE = "arrivals.jsonl"


class ArrivalKind(StrEnum):
    """What came."""

    IMAGE = "image"
    """Any instance that is no rejection note."""
    NOTE = "note"
    ADT = "adt"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedArrival:
    """A C-STORE or a message, whatever became of it."""

    kind: ArrivalKind
    uid: str
    """SOP Instance UID or message control id."""
    status: str | None
    """``0000``, ``A771``; ``AA``, ``AR 204``; None: it was not answered."""
    digest: str
    """Of the bytes: equal for equal ones."""
    is_kept: bool
    """Whether it changed what the archive holds or shows."""
    trigger: str = ""
    """``A08`` and the like; of messages only."""
    names: tuple[str, ...] = field(default=(), repr=False)
    """SOP Instance UIDs that a note rejects; ``id^authority`` of PID-3 and MRG-1 of a message."""
    file: str = field(default="", repr=False)
    """Where it is kept, from the archive's folder."""


class ArrivalLog:
    """The log, in memory and in a file of the archive's folder. Not for several threads at once."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self.entries: list[LoggedArrival] = []

    def open(self) -> None:
        """Read what is there, and go on from it. A last line that was cut off is left out.

        Raises:
            OSError: the file can't be read or written.
        """
        text = self._path.read_text() if self._path.exists() else ""
        self.entries = []
        for line in text.splitlines():
            try:
                values = json.loads(line)
                values |= {"kind": ArrivalKind(values["kind"]), "names": tuple(values["names"])}
                self.entries.append(LoggedArrival(**values))
            except (ValueError, TypeError, KeyError):
                LOGGER.warning("a line of %s is skipped", _FILE)
        if text and not text.endswith("\n"):
            self._append("\n")

    def add(self, arrival: LoggedArrival) -> None:
        """Write it down.

        Raises:
            OSError: it can't be written.
        """
        self.entries.append(arrival)
        self._append(json.dumps(asdict(arrival)) + "\n")

    def _append(self, text: str) -> None:
        with self._path.open("a") as stream:
            stream.write(text)
