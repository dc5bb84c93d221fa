"""Copies remote images to files without a name, again where that broke off; says what went wrong, without locations.

Whatever a location is, a copy ends in one of three ways: it is whole; the image can't be had and asking again would not
change that (``InvalidInput``, that instance fails); or its source has no time for us (``PeerUnavailable``, later).
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from threading import Event
from typing import Protocol

from archsync.errors import InvalidInput, PeerUnavailable

PAUSES_S = (0.0, 0.5, 2.0)
"""Before the second and further tries; the first mends kept connections that the server closed."""
_PROGRESS_BYTES = 1 << 20
"""Whoever gives us that much before it breaks off again may do so as often as it likes."""
SMALL_BYTES = 1 << 20
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class Interrupted(Exception):
    """The source gave no answer, or not the whole of it; ``code`` and the sentence say which. Another try may help."""

    code = "image-source-unavailable"

    def __init__(self, why: str, *, code: str | None = None, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.code = code or self.code
        self.pause_s = pause_s


class NotServed(Exception):
    """The source answered, and the image is not to be had. The sentence begins with what "its ..." can stand before."""

    code = "image-not-served"

    def __init__(self, why: str, *, code: str | None = None, next_step: str | None = None) -> None:
        super().__init__(why)
        self.code = code or self.code
        self.next_step = next_step


class Stopped(Exception):
    """Nobody wants the copy any more."""


class NoRoom(Exception):
    """The copy can't be written."""

    def __init__(self, exc: OSError) -> None:
        super().__init__(exc.strerror)


class Copy:
    """A file without a name, written from its beginning to its end: in memory while it is small, then on disk.

    ``size_bytes`` is what it has so far. The descriptor stays the same.
    """

    def __init__(self, stopped: Event) -> None:
        # An image of usual size costs a file system more than all the rest of its way through us.
        self.descriptor = os.memfd_create("archsync-image", os.MFD_CLOEXEC)
        self.size_bytes = 0
        self._is_in_memory = True
        self._stopped = stopped

    @property
    def path(self) -> Path:
        """A name for it while it is open; for this process only."""
        return descriptor_path(self.descriptor)

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        if self._stopped.is_set():
            raise Stopped
        self.expect(self.size_bytes + len(piece))
        try:
            _write_all(self.descriptor, piece, self.size_bytes)
        except OSError as exc:
            raise NoRoom(exc) from None
        self.size_bytes += len(piece)

    def expect(self, size_bytes: int | None) -> None:
        """Be where so many bytes may be; None: any number."""
        if not self._is_in_memory or (size_bytes is not None and size_bytes <= SMALL_BYTES):
            return
        try:
            with tempfile.TemporaryFile(buffering=0, prefix="archsync-image-") as stream:
                _write_all(stream.fileno(), os.pread(self.descriptor, SMALL_BYTES, 0), 0)
                os.dup2(stream.fileno(), self.descriptor, inheritable=False)
        except OSError as exc:
            raise NoRoom(exc) from None
        self._is_in_memory = False

    def restart(self) -> None:
        """Forget what was written."""
        os.ftruncate(self.descriptor, 0)
        self.size_bytes = 0

    def adopt(self) -> None:
        """Take what somebody else has written to ``path`` as the content."""
        self.size_bytes = os.fstat(self.descriptor).st_size


def _write_all(descriptor: int, piece: bytes, position: int) -> None:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        position += written
        rest = rest[written:]


class RemoteImage(Protocol):
    """An image at its source."""

    def copy_to(self, copy: Copy) -> None:
        """Write what the copy lacks, or all of it after a restart. Raises Interrupted, NotServed."""

    def size_bytes(self) -> int | None:
        """What the source says how long it is, None: nothing. Raises as ``copy_to``."""


def descriptor_path(descriptor: int) -> Path:
    """A path that leads to an open file of this process, whether it has a name or not."""
    return Path(f"/proc/self/fd/{descriptor}")


def copy_image(image: RemoteImage, *, sop_instance_uid: str, stopped: Event | None = None) -> int:
    """Copy an image; gives the descriptor of the copy, which the caller closes.

    Raises:
        InvalidInput: ``file-missing``, ``image-access-denied``, ``image-source-tls``, ``image-not-served``.
        PeerUnavailable: ``image-source-unavailable``, ``image-incomplete`` or ``no-room-for-copy``, after some tries.
        Stopped: ``stopped`` is set.
    """
    stopped = stopped or Event()
    try:
        copy = Copy(stopped)
        try:
            _copy_patiently(image, copy, stopped)
        except BaseException:
            os.close(copy.descriptor)
            raise
    except NoRoom as exc:
        raise PeerUnavailable(
            f"instance {sop_instance_uid}: it can't be copied to the folder for temporary files ({exc})",
            reached_peer=True,
            code="no-room-for-copy",
            next_step="Make room in the folder for temporary files of the sending machine, or set TMPDIR to another.",
        ) from None
    except (NotServed, Interrupted) as exc:
        raise explained(exc, sop_instance_uid) from None
    return copy.descriptor


def explained(exc: NotServed | Interrupted, sop_instance_uid: str) -> InvalidInput | PeerUnavailable:
    """The error for the instance. Causes are left out: they quote the location."""
    sentence = f"instance {sop_instance_uid}: {exc}"
    if isinstance(exc, NotServed):
        return InvalidInput(sentence, code=exc.code, next_step=exc.next_step)
    return PeerUnavailable(
        sentence,
        reached_peer=True,
        code=exc.code,
        next_step="Nothing to do: archsync tries again by itself. If it lasts, check the server that has the images.",
    )


def _copy_patiently(image: RemoteImage, copy: Copy, stopped: Event) -> None:
    tries, best = 0, 0
    while True:
        try:
            image.copy_to(copy)
            return
        except Interrupted as exc:
            if copy.size_bytes >= best + _PROGRESS_BYTES:
                tries = 0
            best = max(best, copy.size_bytes)
            if tries == len(PAUSES_S):
                raise
            pause_s = max(PAUSES_S[tries], exc.pause_s)
            tries += 1
        if stopped.wait(pause_s):
            raise Stopped


def is_no_room(exc: OSError) -> bool:
    """True if a file can't be written for want of room."""
    return exc.errno in _NO_ROOM
