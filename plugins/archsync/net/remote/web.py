"""Images on web servers: a GET, of a file or as DICOMweb (WADO-RS), that goes on where it broke off.

``https://conn_id@host/path`` is read with the login of the Airflow connection ``conn_id``, as object stores are. The
connection names the host that may see it, so that a row of the platform can't send it elsewhere.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from functools import lru_cache
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.response import BaseHTTPResponse

from archsync.errors import ConfigurationError
from archsync.net.remote import access
from archsync.net.remote.copying import Copy, Interrupted, NotServed
from archsync.net.remote.multipart import CutShort, NotOnePart, only_part

# It logs addresses, which may hold a patient's name.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

SCHEMES = frozenset({"http", "https"})
CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 30.0
_SLOW_AFTER_S = 60.0
_MIN_BYTES_S = 16384
"""After a while, slower is as good as silent."""
_MAX_PAUSE_S = 10.0
_MAX_REDIRECTS = 5
_PIECE_BYTES = 1 << 18
_KEPT_CONNECTIONS = 8

# Without transfer-syntax=* a DICOMweb server would decompress what it has (PS3.18 8.7.3.5.2). Some (Orthanc) take one
# media type in a request and no more; servers of plain files ignore it.
_ACCEPTED = ('multipart/related; type="application/dicom"; transfer-syntax=*', "application/dicom; transfer-syntax=*")
_NOT_ACCEPTABLE = 406
_TRANSIENT = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})
_DENIED = frozenset({401, 403, 407})


class WebImage:
    """An image behind a URL."""

    def __init__(self, location: str) -> None:
        parts = _split(location)
        userinfo, _, host = parts.netloc.rpartition("@")
        if ":" in userinfo:
            raise NotServed(
                "its location holds a password",
                code="location-with-password",
                next_step="Put the login into an Airflow connection and name that in the location:"
                " https://conn_id@host/...",
            )
        if not parts.hostname:
            raise NotServed("its location names no host", code="unknown-location-scheme")
        self._url = urlunsplit(parts._replace(netloc=host, fragment=""))
        self._login_headers = _login_headers(userinfo, self._url) if userinfo else {}
        self._version = ""
        """The entity tag or date of what was read so far, if it can be asked for again."""
        self._total: int | None = None

    def copy_to(self, copy: Copy) -> None:
        """See :class:`~archsync.net.remote.copying.RemoteImage`."""
        if copy.size_bytes and not self._version:
            copy.restart()
        headers = {}
        if copy.size_bytes:
            headers = {"Range": f"bytes={copy.size_bytes}-", "If-Range": self._version}
        with self._answer(headers) as response:
            _acknowledge(response)
            boundary = _boundary(response)
            if response.status != 200:
                self._go_on(response, copy)
            else:
                self._begin(response, copy, is_resumable=boundary is None)
            pieces = _pieces(response)
            try:
                for piece in pieces if boundary is None else only_part(pieces, boundary):
                    copy.write(piece)
            except NotOnePart:
                raise NotServed("its source answered with several instances or none") from None
            except CutShort:
                raise _incomplete(copy.size_bytes, None) from None
            except urllib3.exceptions.ProtocolError:
                raise _incomplete(copy.size_bytes, self._total) from None
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                raise Interrupted(_describe(exc)) from None
        if self._total not in (None, copy.size_bytes):
            raise _incomplete(copy.size_bytes, self._total)

    def size_bytes(self) -> int | None:
        """See :class:`~archsync.net.remote.copying.RemoteImage`. By GET, hanging up: DICOMweb knows no HEAD."""
        with self._answer({}) as response:
            if _boundary(response) is not None:
                return None
            return _number(response.headers.get("Content-Length"))

    def _go_on(self, response: BaseHTTPResponse, copy: Copy) -> None:
        """See that the part comes that was asked for."""
        first, total = _content_range(response.headers.get("Content-Range", ""))
        if response.status != 206 or (first, total) != (copy.size_bytes, self._total):
            self._version = ""
            raise _incomplete(copy.size_bytes, self._total)

    def _begin(self, response: BaseHTTPResponse, copy: Copy, *, is_resumable: bool) -> None:
        """The whole comes; note what it takes to ask for the rest of it."""
        copy.restart()
        self._total = _number(response.headers.get("Content-Length")) if is_resumable else None
        tag = response.headers.get("ETag", "")
        # a weak tag may stand for other bytes (RFC 9110 13.1.5)
        version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        self._version = version if is_resumable and self._total is not None else ""

    @contextmanager
    def _answer(self, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        """The answer that holds the image, redirects followed; hangs up if it is not read to its end."""
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            login = self._login_headers if _origin(url) == _origin(self._url) else {}
            response = _get(url, {"Accept": _ACCEPTED[0], **headers, **login})
            if response.status == _NOT_ACCEPTABLE:
                response.close()
                response = _get(url, {"Accept": _ACCEPTED[1], **headers, **login})
            try:
                if target := response.get_redirect_location():
                    url = _redirected(url, target)
                    continue
                _judge(response)
                yield response
                return
            finally:
                response.close()
        raise NotServed("its source leads from one address to the next without end")


@lru_cache(maxsize=1)
def _pool(_process_id: int) -> urllib3.PoolManager:
    """Kept connections, of this process alone."""
    return urllib3.PoolManager(maxsize=_KEPT_CONNECTIONS, ssl_context=ssl.create_default_context())


def _get(url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
    try:
        return _pool(os.getpid()).request(
            "GET",
            url,
            headers={"Accept-Encoding": "identity", "User-Agent": "archsync", **headers},
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=SILENCE_TIMEOUT_S),
        )
    except urllib3.exceptions.SSLError as exc:
        cause = exc.args[0] if exc.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise NotServed(
                f"its source's certificate is not trusted ({cause.verify_message})",
                code="image-source-tls",
                next_step="Install the authority that signed it on the sending machine, or set SSL_CERT_FILE.",
            ) from None
        raise Interrupted("the TLS handshake with its source failed") from None
    except urllib3.exceptions.LocationValueError:
        raise NotServed("its location is not a URL", code="unknown-location-scheme") from None
    except (urllib3.exceptions.HTTPError, OSError) as exc:
        raise Interrupted(_describe(exc)) from None


def _judge(response: BaseHTTPResponse) -> None:
    """Raise unless the answer holds the image, or the part of it that was asked for."""
    status = response.status
    if status in _GONE:
        raise NotServed(f"its file does not exist (HTTP status {status})", code="file-missing")
    if status in _DENIED:
        raise NotServed(
            f"its source refused us (HTTP status {status})",
            code="image-access-denied",
            next_step="Correct the login in the Airflow connection that the location names, or allow it to read.",
        )
    if status >= 500 or status in _TRANSIENT:
        pause_s = min(_number(response.headers.get("Retry-After")) or 0, _MAX_PAUSE_S)
        raise Interrupted(f"its source answered with HTTP status {status}", pause_s=pause_s)
    if status not in (200, 206, 416):
        raise NotServed(f"its source answered with HTTP status {status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NotServed("its source compressed the answer, which was not asked for")


def _acknowledge(response: BaseHTTPResponse) -> None:
    """Have what has come of an answer acknowledged at once.

    A server that leaves Nagle's algorithm on holds the body back until its head is, which kernels put off by 40 ms.
    """
    connected = getattr(response.connection, "sock", None)
    if connected is not None and hasattr(socket, "TCP_QUICKACK"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _pieces(response: BaseHTTPResponse) -> Iterator[bytes]:
    """The body as it comes, as long as it comes."""
    begun, count = time.monotonic(), 0
    while piece := response.read1(_PIECE_BYTES, decode_content=False):
        yield piece
        count += len(piece)
        elapsed_s = time.monotonic() - begun
        if elapsed_s > _SLOW_AFTER_S and count < elapsed_s * _MIN_BYTES_S:
            raise Interrupted(f"its source sends less than {_MIN_BYTES_S} bytes a second")


def _incomplete(got: int, total: int | None) -> Interrupted:
    of_total = "" if total is None else f" of {total}"
    return Interrupted(f"its source ended after {got}{of_total} bytes", code="image-incomplete")


def _describe(exc: Exception) -> str:
    """What kind of failure it is; its text would quote the address."""
    if isinstance(exc, urllib3.exceptions.NameResolutionError):
        return "the name of its source's host is not known"
    if isinstance(exc, urllib3.exceptions.ConnectTimeoutError):
        return f"its source took no connection within {CONNECT_TIMEOUT_S:g} s"
    if isinstance(exc, urllib3.exceptions.NewConnectionError):
        return "the connection to its source failed"
    if isinstance(exc, urllib3.exceptions.TimeoutError):
        return f"its source was silent for {SILENCE_TIMEOUT_S:g} s"
    return "its source hung up"


def _login_headers(conn_id: str, url: str) -> dict[str, str]:
    try:
        login = access.current().login(conn_id)
    except ConfigurationError as exc:
        raise NotServed(f"{exc.message} (its location names it)", code=exc.code, next_step=exc.next_step) from None
    scheme, host, port = _origin(url)
    if login.host.lower() != host or login.scheme not in (None, scheme) or login.port not in (None, port):
        raise NotServed(
            f"the Airflow connection {conn_id!r}, which its location names, is for another server",
            code="image-connection-mismatch",
            next_step="Correct host, port or schema of the connection, or the location: they have to be the same.",
        )
    if login.user is None:
        return {"Authorization": f"Bearer {login.secret}"}
    return urllib3.make_headers(basic_auth=f"{login.user}:{login.secret}")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked when it is asked for
    except ValueError:
        raise NotServed("its location is not a URL", code="unknown-location-scheme") from None
    return parts


def _origin(url: str) -> tuple[str, str, int]:
    parts = _split(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _redirected(url: str, target: str) -> str:
    try:
        new = urljoin(url, target)
    except ValueError:
        raise NotServed("its source leads to an address that is none") from None
    scheme = _split(new).scheme
    if scheme not in SCHEMES or (urlsplit(url).scheme == "https" and scheme != "https"):
        raise NotServed("its source leads to an address that is not secure, or not on the web")
    return new


def _boundary(response: BaseHTTPResponse) -> str | None:
    """What delimits the parts of a multipart answer; None: it is the image itself."""
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    return header.get_boundary() if header.get_content_maintype() == "multipart" else None


def _content_range(value: str) -> tuple[int | None, int | None]:
    """First byte and whole length of ``bytes 0-9/100`` (RFC 9110 14.4)."""
    unit, _, rest = value.partition(" ")
    span, _, total = rest.partition("/")
    return (_number(span.partition("-")[0]), _number(total)) if unit == "bytes" else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
