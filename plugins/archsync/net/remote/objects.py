"""Images in object stores, through fsspec and what Airflow's providers bring for it (s3, gs, abfs, sftp and others)."""

from __future__ import annotations

from inspect import signature
from typing import Any

from archsync.errors import ConfigurationError
from archsync.net.remote import access
from archsync.net.remote.copying import Copy, Interrupted, NoRoom, NotServed, is_no_room


class StoredObject:
    """An object. The file system streams it, with tries and ranges of its own."""

    def __init__(self, location: str) -> None:
        try:
            self._files, self._path = access.current().find_object(location)
        except ConfigurationError as exc:
            raise NotServed(f"{exc.message} (its location names it)", code=exc.code, next_step=exc.next_step) from None

    def copy_to(self, copy: Copy) -> None:
        """See :class:`~archsync.net.remote.copying.RemoteImage`."""
        size_bytes = self.size_bytes()
        copy.restart()
        copy.expect(size_bytes)
        try:
            self._files.get_file(self._path, str(copy.path), **_bounds(self._files))
        except Exception as exc:  # noqa: BLE001 - each file system has errors of its own
            if isinstance(exc, OSError) and is_no_room(exc):
                raise NoRoom(exc) from None
            raise _translated(exc) from None
        copy.adopt()
        if size_bytes not in (None, copy.size_bytes):
            raise Interrupted(f"its source gave {copy.size_bytes} of {size_bytes} bytes", code="image-incomplete")

    def size_bytes(self) -> int | None:
        """See :class:`~archsync.net.remote.copying.RemoteImage`."""
        try:
            facts: dict[str, Any] = self._files.info(self._path)
        except Exception as exc:  # noqa: BLE001 - each file system has errors of its own
            raise _translated(exc) from None
        if facts.get("type") == "directory":
            raise NotServed("its location is not a single object", code="file-not-regular")
        size = facts.get("size")
        return size if isinstance(size, int) else None


def _bounds(files: Any) -> dict[str, int]:
    """What keeps a file system from holding several large parts of an object in memory at a time (s3fs: of 50 MB)."""
    get_file = getattr(files, "_get_file", files.get_file)
    return {"max_concurrency": 1} if "max_concurrency" in signature(get_file).parameters else {}


def _translated(exc: Exception) -> Interrupted | NotServed:
    """By Python's own classes, which the file systems take where they can; texts would quote the path."""
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return NotServed("its object does not exist", code="file-missing")
    if isinstance(exc, IsADirectoryError):
        return NotServed("its location is not a single object", code="file-not-regular")
    if isinstance(exc, PermissionError) or type(exc).__name__ == "NoCredentialsError":
        return NotServed(
            "its object store refused us",
            code="image-access-denied",
            next_step="Correct the Airflow connection that the location names, or allow it to read.",
        )
    if isinstance(exc, TimeoutError):
        return Interrupted("its object store did not answer in time")
    return Interrupted(f"its object store failed ({type(exc).__name__})")
