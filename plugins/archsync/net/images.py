"""Where an instance's bytes are: turns the platform's ``location`` (a URI) into a file that can be read.

Only ``file://`` so far. Object storage and WADO-RS will join :func:`local_image` here; nothing else reads locations.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from archsync.errors import InvalidInput

_PLAIN = "file:///"


def local_image(location: str, *, sop_instance_uid: str) -> Path:
    """The readable, regular file behind ``location``.

    Paths may hold patient names, so errors name the instance by its UID and leave the location out, causes included.

    Raises:
        InvalidInput: ``unknown-location-scheme``, ``file-missing``, ``file-unreadable`` or ``file-not-regular``.
    """
    try:
        parts = urlsplit(location)
    except ValueError:
        raise InvalidInput(
            f"instance {sop_instance_uid}: its location is not a URI", code="unknown-location-scheme"
        ) from None
    if parts.scheme != "file":
        scheme = f"scheme {parts.scheme!r}" if parts.scheme else "no scheme"
        raise InvalidInput(
            f"instance {sop_instance_uid}: its location has {scheme}; only file:// is known",
            code="unknown-location-scheme",
            next_step="Correct the column `location` of the platform's instance view.",
        )
    if parts.netloc not in ("", "localhost"):
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file:// location names another host; mount the share and give its path",
            code="unknown-location-scheme",
            next_step="Correct the column `location` of the platform's instance view.",
        )
    # '?' and '#' are legal in file names; a file URI has neither query nor fragment
    path = Path(unquote(location[location.index(":") + 1 :].removeprefix("//").removeprefix(parts.netloc)))
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidInput(f"instance {sop_instance_uid}: its file does not exist", code="file-missing") from None
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file can't be looked at ({_reason(exc)})", code="file-unreadable"
        ) from None
    if not stat.S_ISREG(mode):
        raise InvalidInput(f"instance {sop_instance_uid}: its location is not a regular file", code="file-not-regular")
    if not os.access(path, os.R_OK):
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file may not be read by the user archsync runs as",
            code="file-unreadable",
        )
    return path


def open_image(location: str, *, sop_instance_uid: str) -> tuple[Path, int]:
    """The file behind ``location`` and a descriptor of it, open for reading. Raises as :func:`local_image`."""
    if location.startswith(_PLAIN) and "%" not in location:
        path = Path(location.removeprefix("file://"))  # the common case, without taking the URI apart
    else:
        path = local_image(location, sop_instance_uid=sop_instance_uid)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would keep us waiting
    except (OSError, ValueError) as exc:
        local_image(location, sop_instance_uid=sop_instance_uid)  # which says what is wrong with it
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file can't be opened ({_reason(exc)})", code="file-unreadable"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"instance {sop_instance_uid}: its location is not a regular file", code="file-not-regular")
    return path, descriptor


def _reason(exc: OSError | ValueError) -> str:
    """The system's reason without the path that ``str(exc)`` would add."""
    return (exc.strerror if isinstance(exc, OSError) else None) or "bad path"
