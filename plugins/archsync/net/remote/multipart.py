"""The one part of a ``multipart/related`` answer (RFC 2046 5.1, PS3.18 8.6.1.2), cut out while it comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_MAX_HEADER_BYTES = 65536


class NotOnePart(Exception):
    """The answer holds several parts, or is no multipart."""


class CutShort(Exception):
    """The answer ended before its last delimiter."""


def only_part(pieces: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    """The content of the part, in pieces; the last comes when its end was seen.

    Raises:
        NotOnePart, CutShort.
    """
    source = iter(pieces)
    delimiter = b"\r\n--" + boundary.encode("ascii", "replace")
    held = _skip_headers(source, delimiter)
    # a delimiter may be split over pieces, so as much as may be the beginning of one is kept back
    while (found := held.find(delimiter)) < 0:
        keep = len(delimiter) - 1
        if len(held) > keep:
            yield held[:-keep]
            held = held[-keep:]
        held += _next(source)
    content, held = held[:found], held[found + len(delimiter) :]
    while len(held) < 2:
        held += _next(source)
    if held[:2] != b"--":
        raise NotOnePart
    if content:
        yield content
    for _ in source:
        pass  # whatever follows is to be ignored, and read so that the connection can be kept


def _skip_headers(source: Iterator[bytes], delimiter: bytes) -> bytes:
    """Read up to the content of the first part; gives what was read of it."""
    held = b"\r\n"  # which makes the first delimiter one like any other, when nothing precedes it
    while True:
        if (start := held.find(delimiter)) >= 0:
            if held[start + len(delimiter) :].startswith(b"--"):
                raise NotOnePart
            if (end := held.find(b"\r\n\r\n", start + len(delimiter))) >= 0:
                return held[end + 4 :]
        if len(held) > _MAX_HEADER_BYTES:
            raise NotOnePart
        held += _next(source)


def _next(source: Iterator[bytes]) -> bytes:
    for piece in source:
        return piece
    raise CutShort
