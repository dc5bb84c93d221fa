"""A web server with a platform's images: plain files and DICOMweb answers, which can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_PIECE_BYTES = 1 << 16
_BOUNDARY = "simulated-boundary"


@dataclass(frozen=True, slots=True)
class ImageRudeness:
    """How to misbehave. ``times`` says how many answers are rude in that way; later ones are polite.

    ``status`` is answered instead of the image, with ``retry_after`` as it is; ``break_after`` bytes of the body the
    connection is closed; ``more_length`` is what the Content-Length claims beyond the truth; ``silent_after`` bytes
    nothing more comes while the server runs; ``location`` is where a redirect leads.
    """

    times: int = 1_000_000
    status: int | None = None
    retry_after: str | None = None
    break_after: int | None = None
    more_length: int = 0
    silent_after: int | None = None
    location: str | None = None


@dataclass(slots=True)
class SimulatedImageServer:
    """Serves ``folder``: ``/files/NAME`` as it is, with ranges, and ``/wado/NAME`` as multipart/related.

    ``authorization`` is the header that it demands, if any. ``keeps_ranges`` False: every answer is the whole.
    ``states_length`` False: neither length nor version, the body ends with the connection. ``delay_s`` comes before
    each answer.
    """

    folder: Path
    authorization: str | None = None
    keeps_ranges: bool = True
    states_length: bool = True
    delay_s: float = 0.0
    rudeness: ImageRudeness = ImageRudeness(times=0)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers, by lower-case name, of each request."""
    most_at_a_time: int = 0
    connections: int = 0
    tls: Any = None
    """An ``ssl.SSLContext`` of a server."""
    _server: ThreadingHTTPServer | None = None
    _running: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> SimulatedImageServer:
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def behave(self, rudeness: ImageRudeness) -> None:
        """Be rude in this way from now on."""
        with self._lock:
            self.rudeness = rudeness

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def url(self, name: str, *, kind: str = "files", userinfo: str = "") -> str:
        """The location of a file of the folder."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{userinfo}127.0.0.1:{self.port}/{kind}/{quote(name)}"

    def take_rudeness(self) -> ImageRudeness:
        """How to answer now."""
        with self._lock:
            rudeness = self.rudeness
            if rudeness.times <= 0:
                return ImageRudeness()
            self.rudeness = replace(rudeness, times=rudeness.times - 1)
            return rudeness

    @contextlib.contextmanager
    def answering(self, path: str, headers: dict[str, str]) -> Iterator[None]:
        """Note a request, and how many there are at a time; take the time that the server takes."""
        with self._lock:
            self.requests.append((path, headers))
            self._running += 1
            self.most_at_a_time = max(self.most_at_a_time, self._running)
        try:
            self._stopped.wait(self.delay_s)
            yield
        finally:
            with self._lock:
                self._running -= 1

    def fall_silent(self) -> None:
        """Say nothing until the server ends."""
        self._stopped.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are none of ours."""


def _handler_of(server: SimulatedImageServer) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(_Handler):
        site = server

    return Handler


class _Handler(BaseHTTPRequestHandler):
    site: SimulatedImageServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Count a connection."""
        super().setup()
        self.site.connections += 1

    def do_GET(self) -> None:
        """Answer a request."""
        with self.site.answering(self.path, {name.lower(): value for name, value in self.headers.items()}):
            self._answer(self.site.take_rudeness())

    def _answer(self, rudeness: ImageRudeness) -> None:
        if self.site.authorization not in (None, self.headers.get("Authorization")):
            self._end(401)
        elif rudeness.status is not None:
            self._end(rudeness.status, rudeness)
        else:
            _, kind, name = unquote(urlsplit(self.path).path).split("/", 2)
            path = self.site.folder / name
            if kind not in ("files", "wado") or not path.is_file():
                self._end(404)
            elif kind == "wado":
                head = f"\r\n--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
                tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}')
                self._send(head + path.read_bytes() + tail, rudeness)
            else:
                self._send_file(path, rudeness)

    def _send_file(self, path: Path, rudeness: ImageRudeness) -> None:
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        asked = self.headers.get("Range", "")
        start = 0
        if self.site.keeps_ranges and asked and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                self._end(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.site.states_length:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", "application/dicom")
        self._send(content[start:], rudeness)

    def _send(self, body: bytes, rudeness: ImageRudeness) -> None:
        if self.site.states_length:
            self.send_header("Content-Length", str(len(body) + rudeness.more_length))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        ends = (len(body), rudeness.break_after, rudeness.silent_after)
        end = min(end for end in ends if end is not None)
        for position in range(0, end, _PIECE_BYTES):
            self.wfile.write(body[position : min(end, position + _PIECE_BYTES)])
        if rudeness.silent_after is not None:
            self.site.fall_silent()
        if end < len(body) or rudeness.more_length or not self.site.states_length:
            self.close_connection = True

    def _end(self, status: int, rudeness: ImageRudeness | None = None) -> None:
        self.send_response(status)
        if rudeness is not None and rudeness.retry_after is not None:
            self.send_header("Retry-After", rudeness.retry_after)
        if rudeness is not None and rudeness.location is not None:
            self.send_header("Location", rudeness.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Requests are in ``requests``."""
