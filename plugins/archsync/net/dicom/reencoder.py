"""Has a process of its own re-encode data sets (``reencode.py``), ahead of the wire and beside it.

A process, because codecs hold Python's lock for as long as a frame takes them (25 ms for a CT slice in JPEG 2000, a
second for a mammogram): a thread would stall the associations, time-outs included. It also keeps what a broken code
stream does to a codec written in C, and the codecs' memory, out of the job's process.

The two talk over a pair of sockets. A request is a line of JSON with the file's descriptor; the answer is a status and
a length, then that many bytes, which go straight into the send buffer. An answer that ends early has failed.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydicom.uid import UID

import archsync
from archsync.errors import InvalidInput
from archsync.net.dicom.fragments import SourceFailed
from archsync.net.dicom.part10 import FileFacts

_SILENCE_S = 300
"""A frame that takes longer will never come."""
_HEAD = struct.Struct(">BQ")
_DONE, _FAILED = 0, 1
_MAX_REQUEST_BYTES = 1 << 12


class ReencodingFailed(SourceFailed):
    """The rest of a data set can't be had in the other transfer syntax."""


class Reencoder:
    """A process that re-encodes one data set at a time; started when there is the first. Not for several threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._begun: tuple[FileFacts, str] | None = None

    def begin(self, facts: FileFacts, descriptor: int, target_syntax_uid: str) -> None:
        """Begin with a file's data set; :meth:`open` gives the result. Drops what was begun and not taken."""
        if self._begun is not None:
            self.close()
        request = {
            "offset": facts.data_set_offset,
            "syntax": facts.transfer_syntax_uid,
            "target": target_syntax_uid,
        }
        # A process that has died meanwhile shows when the result is asked for.
        with suppress(OSError):
            socket.send_fds(self._connection(), [json.dumps(request).encode()], [descriptor])
        self._begun = facts, target_syntax_uid

    def open(self, facts: FileFacts, descriptor: int, target_syntax_uid: str) -> ReencodedSource:
        """The result of re-encoding a file's data set, begun before or now; waits for its beginning.

        Raises:
            InvalidInput: ``transfer-syntax-not-accepted``: no codec here decodes it, or it can't be re-encoded.
        """
        if self._begun != (facts, target_syntax_uid):
            self.begin(facts, descriptor, target_syntax_uid)
        connection = self._connection()
        try:
            head = connection.recv(_HEAD.size, socket.MSG_WAITALL)
            if len(head) < _HEAD.size:
                self.close()
                raise not_reencodable(facts, target_syntax_uid, "the decoder crashed")
            status, size = _HEAD.unpack(head)
            if status == _FAILED:
                self._begun = None
                raise not_reencodable(facts, target_syntax_uid, connection.recv(size, socket.MSG_WAITALL).decode())
        except OSError:
            self.close()
            raise not_reencodable(facts, target_syntax_uid, "the decoder does not answer") from None
        return ReencodedSource(self, connection, size)

    @property
    def is_idle(self) -> bool:
        """True when all that was begun has been taken."""
        return self._begun is None

    def note_taken(self) -> None:
        """Note that a result was taken to its end, so that the process is free for the next."""
        self._begun = None

    def close(self) -> None:
        """End the process, whatever it does. Idempotent; it starts anew if need be."""
        self._begun = None
        if self._process is not None:
            assert self._socket is not None, "they come together"
            self._socket.close()
            self._process.kill()
            self._process.wait()
            self._process = self._socket = None

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SILENCE_S, 0))
                self._process = subprocess.Popen(  # noqa: S603  (our own module)
                    [sys.executable, "-m", __name__, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join([_root(), os.environ.get("PYTHONPATH", "")])},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # what codecs print may quote values
                )
        return self._socket


class ReencodedSource:
    """A re-encoded data set as it is made; a :class:`~archsync.net.dicom.fragments.Source`, read once in order."""

    def __init__(self, reencoder: Reencoder, connection: socket.socket, size_bytes: int) -> None:
        self._reencoder = reencoder
        self._connection = connection
        self.size_bytes = size_bytes

    def read_into(self, buffers: Sequence[memoryview], position: int) -> int:
        """See :class:`Source`. ReencodingFailed: it does not come to its end."""
        try:
            got = os.readv(self._connection.fileno(), buffers)
        except OSError:
            got = 0
        if not got:
            self._reencoder.close()
            raise ReencodingFailed
        if position + got == self.size_bytes:
            self._reencoder.note_taken()
        return got


def not_reencodable(facts: FileFacts, target_syntax_uid: str, why: str) -> InvalidInput:
    """The error for an instance that can't be sent in the syntax that the archive takes."""
    return InvalidInput(
        f"the archive does not take {uid_name(facts.transfer_syntax_uid)}, and the instance can't be turned "
        f"into {uid_name(target_syntax_uid)} here ({why})",
        code="transfer-syntax-not-accepted",
        next_step="Enable the transfer syntax at the archive, then retry the job.",
    )


def uid_name(uid: str) -> str:
    """A transfer syntax or SOP class by name and UID."""
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"


def _root() -> str:
    (package,) = archsync.__path__
    return str(Path(package).parent)


# -- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Serve requests until the other side is gone."""
    from archsync.net.dicom.reencode import NotReencodable, reencode  # codecs cost the job's process nothing

    with socket.socket(fileno=int(sys.argv[1])) as connection:
        while True:
            request, descriptors, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 1)
            if not request:
                return
            wanted = json.loads(request)
            with open(descriptors[0], "rb") as stream:  # noqa: PTH123 - a descriptor
                try:
                    result = reencode(stream, wanted["offset"], wanted["syntax"], wanted["target"])
                except NotReencodable as exc:
                    reason = str(exc).encode()
                    connection.sendall(_HEAD.pack(_FAILED, len(reason)) + reason)
                    continue
                connection.sendall(_HEAD.pack(_DONE, result.size_bytes))
                try:
                    for piece in result.pieces:
                        connection.sendall(piece)
                except NotReencodable:
                    return


if __name__ == "__main__":
    with suppress(OSError):  # the job has gone
        main()
