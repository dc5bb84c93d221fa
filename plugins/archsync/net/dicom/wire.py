"""A connection to a peer that neither waits for delayed ACKs nor blocks for ever: TCP, bare or under TLS.

(1) Nagle at the peer (DCMTK's default) holds the rest of a response back until our kernel acknowledges its first bytes,
which it delays by 40 ms. TCP_QUICKACK before each read makes it acknowledge at once; Linux forgets the option, so it is
set anew every time; other systems lack it. TCP_NODELAY does the same for what we send.
(2) Calls into the kernel come back after a quarter of a second at the latest (SO_SNDTIMEO, SO_RCVTIMEO; under TLS the
time-out of Python's socket), so time-outs are kept to that precision and a peer that aborts while we send to it is
noticed. A blocking call costs less than a poll and a call.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress

_SLICE_S = 0.25
_RECEIVE_BYTES = 1 << 16
_TLS_PIECE_BYTES = 1 << 17
"""Some records (of 16 KiB, RFC 8446 5.1) at a time. A peer that takes less than this within a time-out has stopped
reading: OpenSSL does not tell how much of a piece has left."""


class Wire(ABC):
    """A connection. Sending and receiving raise OSError when it is lost, and TimeoutError."""

    _socket: socket.socket

    def __init__(self) -> None:
        self._received = memoryview(bytearray(_RECEIVE_BYTES))

    @abstractmethod
    def _send_some(self, data: memoryview) -> int:
        """Send what can be sent within a slice of time; gives the number of bytes, perhaps 0."""

    @abstractmethod
    def _receive_some(self) -> memoryview | None:
        """What came within a slice of time; empty at the end of the stream."""

    @abstractmethod
    def receive_now(self) -> memoryview | None:
        """What came already; empty at the end of the stream."""

    def send(self, data: memoryview, *, timeout_s: float, while_waiting: Callable[[], None]) -> None:
        """Send all of it. TimeoutError: not one byte was taken for ``timeout_s``.

        Calls ``while_waiting`` whenever it has to wait, about every quarter of a second.
        """
        sent = self._send_some(data)
        if sent == len(data):
            return
        moved_at = time.monotonic()
        while True:
            data = data[sent:]
            while_waiting()
            sent = self._send_some(data)
            if sent == len(data):
                return
            now = time.monotonic()
            if sent:
                moved_at = now
            elif now - moved_at >= timeout_s:
                raise TimeoutError

    def send_now(self, data: bytes) -> None:
        """Send as much as goes out without waiting: a last word."""
        with suppress(OSError):
            self._socket.settimeout(0)
            self._socket.send(data)

    def receive(self, deadline: float) -> memoryview:
        """What comes next, valid until the next call; empty at the end of the stream.

        TimeoutError: nothing until ``deadline`` (of ``time.monotonic``). After it, only what is there already counts:
        a peer that goes on bit by bit is not waited for.
        """
        while True:
            is_late = time.monotonic() >= deadline
            received = self.receive_now() if is_late else self._receive_some()
            if received is not None:
                return received
            if is_late:
                raise TimeoutError

    def acknowledge(self) -> None:
        """Have the kernel acknowledge at once what comes next or came already."""
        if hasattr(socket, "TCP_QUICKACK"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def wait_for_end(self, timeout_s: float) -> None:
        """Give the peer a moment to close the connection; what it still says is dropped.

        Closing it first would answer that with a reset, which may overtake our last word.
        """
        deadline = time.monotonic() + timeout_s
        with suppress(OSError):
            self._socket.settimeout(timeout_s)
            while self._socket.recv_into(self._received) and time.monotonic() < deadline:
                pass

    def close(self) -> None:
        """Close it, after what was sent has left."""
        with suppress(OSError):  # the peer was first
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()

    def hang_up(self) -> None:
        """Drop it with what was not sent yet."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def interrupt(self) -> None:
        """End it for the thread that uses it, from another one; it is still to be closed."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class PlainWire(Wire):
    """TCP alone."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._socket = connection
        connection.settimeout(None)
        span = struct.pack("ll", 0, int(_SLICE_S * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def _receive_some(self) -> memoryview | None:
        self.acknowledge()
        try:
            return self._received[: self._socket.recv_into(self._received)]
        except BlockingIOError:
            return None

    def receive_now(self) -> memoryview | None:
        try:
            return self._received[: self._socket.recv_into(self._received, 0, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return None


class TlsWire(Wire):
    """TLS over TCP. Sent in pieces, so that a time-out starts anew with each."""

    _socket: ssl.SSLSocket

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__()
        self._socket = connection
        connection.settimeout(_SLICE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _send_some(self, data: memoryview) -> int:
        try:
            # OpenSSL goes on where it was when it gets the same bytes again, as they do.
            return self._socket.send(data[:_TLS_PIECE_BYTES])
        except TimeoutError:
            return 0

    def _receive_some(self) -> memoryview | None:
        self.acknowledge()
        try:
            return self._received[: self._socket.recv_into(self._received)]
        except TimeoutError:
            return None

    def receive_now(self) -> memoryview | None:
        self._socket.settimeout(0)
        try:
            return self._received[: self._socket.recv_into(self._received)]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        finally:
            self._socket.settimeout(_SLICE_S)
