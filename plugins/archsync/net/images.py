"""Where an instance's bytes are: turns the platform's ``location`` (a URI) into a file that can be read.

``file://`` is that file. Web servers (``http``, ``https``) and object stores (``s3`` and what else Airflow knows) are
copied to a temporary file by :mod:`archsync.net.remote`. Nothing else reads locations.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Event
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from archsync.errors import InvalidInput
from archsync.net.remote import access
from archsync.net.remote.copying import (
    Interrupted,
    NotServed,
    RemoteImage,
    copy_image,
    descriptor_path,
    explained,
)

_PLAIN = "file:///"
_WEB = ("http", "https")


class OpenFile(NamedTuple):
    """A file that is open for reading. ``path`` is good while it is; text, since a ``Path`` costs more than opening."""

    path: str
    descriptor: int
    status: os.stat_result


def is_readable(location: str) -> bool:
    """True if there is a way to read locations of this scheme."""
    scheme = _scheme(location)
    return scheme in ("file", *_WEB) or access.current().knows(scheme)


def is_remote(location: str) -> bool:
    """True if reading this location needs a copy."""
    return not location.startswith(_PLAIN) and _scheme(location) != "file" and is_readable(location)


def _scheme(location: str) -> str:
    scheme, separator, _ = location.partition("://")
    return scheme.lower() if separator else ""


def image_size_bytes(location: str, *, sop_instance_uid: str) -> int | None:
    """How long the image behind ``location`` is, None where its source does not say. Raises as :func:`open_image`."""
    if is_remote(location):
        try:
            return _remote_image(location).size_bytes()
        except (NotServed, Interrupted) as exc:
            raise explained(exc, sop_instance_uid) from None
    return local_image(location, sop_instance_uid=sop_instance_uid).stat().st_size


def copy_remote(location: str, *, sop_instance_uid: str, stopped: Event | None = None) -> int:
    """The descriptor of a copy of a remote image; the caller closes it.

    Raises:
        InvalidInput, PeerUnavailable, Stopped: as :func:`~archsync.net.remote.copying.copy_image`; and of the location
            ``location-with-password``, ``connection-missing``, ``image-connection-mismatch``.
    """
    try:
        image = _remote_image(location)
    except (NotServed, Interrupted) as exc:
        raise explained(exc, sop_instance_uid) from None
    return copy_image(image, sop_instance_uid=sop_instance_uid, stopped=stopped)


def _remote_image(location: str) -> RemoteImage:
    # What is imported costs some megabytes, which those who have files only should not pay.
    if _scheme(location) in _WEB:
        from archsync.net.remote.web import WebImage

        return WebImage(location)
    from archsync.net.remote.objects import StoredObject

    return StoredObject(location)


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
            f"instance {sop_instance_uid}: its location has {scheme}, which can't be read here",
            code="unknown-location-scheme",
            next_step="Correct the column `location` of the platform's instance view: file://, http:// or https://."
            " Object stores (s3:// and others) need their Airflow provider on the sending machine.",
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


def open_image(location: str, *, sop_instance_uid: str) -> OpenFile:
    """The file behind ``location``, open for reading; the caller closes its descriptor.

    Of a remote image it is a copy without a name.

    Raises as :func:`local_image`, or for a remote image as :func:`copy_remote`.
    """
    if is_remote(location):
        return opened_copy(copy_remote(location, sop_instance_uid=sop_instance_uid))
    if location.startswith(_PLAIN) and "%" not in location:
        path = location.removeprefix("file://")  # the common case, without taking the URI apart
    else:
        path = str(local_image(location, sop_instance_uid=sop_instance_uid))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would keep us waiting
    except (OSError, ValueError) as exc:
        local_image(location, sop_instance_uid=sop_instance_uid)  # which says what is wrong with it
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file can't be opened ({_reason(exc)})", code="file-unreadable"
        ) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InvalidInput(f"instance {sop_instance_uid}: its location is not a regular file", code="file-not-regular")
    return OpenFile(path, descriptor, status)


def opened_copy(descriptor: int) -> OpenFile:
    """A copy that :func:`copy_remote` made."""
    return OpenFile(str(descriptor_path(descriptor)), descriptor, os.fstat(descriptor))


def _reason(exc: OSError | ValueError) -> str:
    """The system's reason without the path that ``str(exc)`` would add."""
    return (exc.strerror if isinstance(exc, OSError) else None) or "bad path"
