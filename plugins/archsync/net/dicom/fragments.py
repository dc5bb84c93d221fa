"""Data sets as the P-DATA-TF PDUs that carry them, laid out so that few system calls move many PDUs (PS3.8 9.3.5).

One stretch of memory holds room for a command, then PDU after PDU, headers in place, about 1 MiB in all:

    | room for the command | head | fragment | head | fragment | ... | head | fragment |

One scatter read (preadv) fills the fragments between the heads from the file, one send takes the whole. Nothing is
copied in between, and memory does not grow with the instance. Only the head of the last fragment of a data set differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from archsync.messages.dul import IS_LAST, encode_fragments, encode_p_data_head, max_fragment_bytes

CHUNK_BYTES = 1 << 20
_MAX_PDU_BYTES = 1 << 17
"""Longest PDU sent, whatever the peer allows: DCMTK's limit, which every peer has met."""

_HEAD_BYTES = 12
_COMMAND_ROOM = 1024
"""A C-STORE command is about 200 bytes; cut into many fragments it needs more."""

_MAX_BUFFERS = 1024
"""The kernel's limit for one scatter read (IOV_MAX)."""

MIN_PDU_BYTES = 256
"""Shortest maximum length a peer may announce: below, commands alone would take several PDUs."""


class SourceFailed(Exception):
    """The data set can't be had to its end."""


class SourceChanged(SourceFailed):
    """It ends before the end it had when it was looked at."""


class Source(Protocol):
    """Where the bytes of a data set come from."""

    def read_into(self, buffers: Sequence[memoryview], position: int) -> int:
        """Fill the buffers, one after the other, from ``position`` of the data set on; gives the number of bytes.

        Fewer than fit only at the end, or where the rest is not there yet; none: the end.

        Raises:
            SourceFailed, OSError: it can't be read.
        """


class FileSource:
    """The data set in an open file, from ``offset`` on."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._offset = offset

    def read_into(self, buffers: Sequence[memoryview], position: int) -> int:
        """See :class:`Source`."""
        return os.preadv(self._descriptor, buffers, self._offset + position)


class FragmentBuffer:
    """The memory that data sets go out of, one at a time, for a peer that takes PDUs up to ``maximum_length``."""

    def __init__(self, maximum_length: int, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._fragment_bytes = max_fragment_bytes(maximum_length, at_most=_MAX_PDU_BYTES)
        self._step = _HEAD_BYTES + self._fragment_bytes
        self._count = min(max(1, chunk_bytes // self._step), _MAX_BUFFERS)
        self._bytes = bytearray(_COMMAND_ROOM + self._count * self._step)
        self._view = memoryview(self._bytes)
        self._context_id = 0  # of the heads in place; 0: there are none yet
        self._head = b""
        self._altered: int | None = None  # where a head differs from the others
        starts = range(_COMMAND_ROOM + _HEAD_BYTES, len(self._bytes), self._step)
        self._fragments = [self._view[start : start + self._fragment_bytes] for start in starts]
        self._source: Source
        self._position = self._size = self._end = 0

    def begin(self, source: Source, size_bytes: int, context_id: int) -> None:
        """Load the beginning of a data set. An odd one is made even by a zero byte (PS3.8 9.3.5.1).

        Raises:
            SourceFailed, OSError: as ``chunks``.
        """
        if context_id != self._context_id:
            self._context_id = context_id
            self._head = encode_p_data_head(context_id, 0, self._fragment_bytes)
            for start in range(_COMMAND_ROOM, len(self._bytes), self._step):
                self._bytes[start : start + _HEAD_BYTES] = self._head
            self._altered = None
        self._source, self._size, self._position = source, size_bytes, 0
        self._load()

    def chunks(self, command: bytes) -> Iterator[memoryview]:
        """All PDUs of the message: the command and, right behind it, the data set begun. Each piece is valid until the
        next is asked for.

        Raises:
            SourceFailed: the source ends early (SourceChanged) or fails.
            OSError: the source can't be read.
        """
        pdus = encode_fragments(self._context_id, command, is_command=True, fragment_bytes=self._fragment_bytes)
        start = _COMMAND_ROOM - len(pdus)
        self._bytes[start:_COMMAND_ROOM] = pdus
        yield self._view[start : self._end]
        while self._position < self._size:
            self._load()
            yield self._view[_COMMAND_ROOM : self._end]

    def _load(self) -> None:
        if self._altered is not None:
            self._bytes[self._altered : self._altered + _HEAD_BYTES] = self._head
            self._altered = None
        left = self._size - self._position
        padded = left + left % 2
        if padded > self._count * self._fragment_bytes:
            buffers, wanted = self._fragments, self._count * self._fragment_bytes
            self._end = len(self._bytes)
        else:
            buffers, wanted = self._last_fragments(padded, left), left
        got = self._source.read_into(buffers, self._position)
        if got != wanted:
            self._read_rest(buffers, got, wanted)
        self._position += wanted

    def _last_fragments(self, padded: int, left: int) -> list[memoryview]:
        """Room for the last ``left`` bytes, ``padded`` with the one that makes them even; marks the last fragment."""
        whole = (padded - 1) // self._fragment_bytes if padded else 0
        rest = padded - whole * self._fragment_bytes
        head_at = _COMMAND_ROOM + whole * self._step
        self._bytes[head_at : head_at + _HEAD_BYTES] = encode_p_data_head(self._context_id, IS_LAST, rest)
        self._altered = head_at
        start = head_at + _HEAD_BYTES
        self._end = start + rest
        if padded != left:
            self._bytes[self._end - 1] = 0
            rest -= 1
        buffers = self._fragments[:whole]
        buffers.append(self._view[start : start + rest])
        return buffers

    def _read_rest(self, buffers: list[memoryview], got: int, wanted: int) -> None:
        """Go on after a short read: some file systems give one in the middle of a file, and what is being made may."""
        while got < wanted:
            skip, rest = got, []
            for buffer in buffers:
                if skip < len(buffer):
                    rest.append(buffer[skip:])
                skip = max(0, skip - len(buffer))
            more = self._source.read_into(rest, self._position + got)
            if not more:
                raise SourceChanged
            got += more
