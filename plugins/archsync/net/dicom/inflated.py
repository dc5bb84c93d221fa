"""The inflated content of a deflated data set (PS3.5 A.5) as a stream, of which memory never holds more than a window.

It can be gone over again: seeking back begins anew.
"""

from __future__ import annotations

import io
import os
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer

_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 16


class CutShort(EOFError):
    """The deflated stream ends before its end mark."""


def open_inflated(stream: BinaryIO, offset: int) -> BinaryIO:
    """What is deflated in ``stream`` from ``offset`` on.

    Reading raises CutShort, and zlib.error where it is not deflated data.
    """
    return cast(BinaryIO, io.BufferedReader(_Inflated(stream, offset), _OUTPUT_BYTES))


class _Inflated(io.RawIOBase):
    """As io.RawIOBase has it."""

    def __init__(self, stream: BinaryIO, offset: int) -> None:
        self._stream = stream
        self._offset = offset
        self._size: int | None = None
        self._begin()

    def _begin(self) -> None:
        self._read_to = self._offset
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # a raw stream
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer).cast("B")
        data = self._next(len(target))
        target[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._find_size()
        if offset < self._position:
            self._begin()
        while self._position < offset and self._next(min(offset - self._position, _OUTPUT_BYTES)):
            pass
        self._position = offset  # perhaps beyond the end, as with any file
        return offset

    def _find_size(self) -> int:
        if self._size is None:
            while self._next(_OUTPUT_BYTES):
                pass
            self._size = self._position
        return self._size

    def _next(self, count: int) -> bytes:
        """Up to ``count`` bytes more; none at the end."""
        inflater = self._inflater
        while count and not inflater.eof:
            pending = inflater.unconsumed_tail
            if not pending:
                self._stream.seek(self._read_to)
                pending = self._stream.read(_INPUT_BYTES)
                self._read_to += len(pending)
            data = inflater.decompress(pending, count)
            if data:
                self._position += len(data)
                return data
            if not pending:
                raise CutShort
        return b""
