"""A small HL7 receiver for tests and demos: applies A08, A31, A40 and A47, answers, and can be told to be rude.

It answers as dcm4chee-arc does: 204 for a patient it does not know or that was merged away, 205 for an identifier in
use. It has its own framing, parsing and escaping and shares no code with the sender, so that one's mistakes don't hide
in the other. It logs triggers, control ids and answers only.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from archsync.errors import ConfigurationError
from archsync.simulate.adt_registry import ParsedMessage, PatientRegistry, Refusal, RegisteredPatient
from archsync.simulate.adt_rudeness import read_adt_script
from archsync.simulate.adt_script import AdtScript, Hangup, Reply
from archsync.simulate.control_file import ControlFile

LOGGER = logging.getLogger(__name__)

__all__ = [
    "AdtScript",
    "Hangup",
    "ReceivedMessage",
    "RegisteredPatient",
    "Reply",
    "SimulatedAdtReceiver",
    "run_adt_receiver",
]

_VT, _FS_CR = b"\x0b", b"\x1c\r"
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One message, byte for byte as it came, and the MSA-1 it was given (None: no answer)."""

    data: bytes = field(repr=False)
    control_id: str = ""
    trigger: str = ""
    answer: str | None = None
    error_code: str | None = None
    is_applied: bool = False


class SimulatedAdtReceiver:
    """An HL7 receiver on ``host``; ``port`` 0 takes a free one. Use as a context manager or start and stop.

    Patients are known by ``id^authority``, such as ``12345^HOSP``, where the authority is CX-4.1 or else CX-4.2.
    ``registry`` may be an archive's; ``on_message`` is told of each message before it is answered.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        script: AdtScript | None = None,
        host: str = "127.0.0.1",
        ssl_context: ssl.SSLContext | None = None,
        registry: PatientRegistry | None = None,
        on_message: Callable[[ReceivedMessage], None] | None = None,
    ) -> None:
        self._bind = (host, port)
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._script = script or AdtScript()
        self._replies_given = 0
        self._registry = registry or PatientRegistry()
        self._on_message = on_message
        self._received: list[ReceivedMessage] = []
        self._connection_count = 0
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._acceptor = threading.Thread()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._is_listening = threading.Event()

    def __enter__(self) -> SimulatedAdtReceiver:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on; only while started."""
        assert self._listener is not None, "the receiver is not started"
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def patients(self) -> Mapping[str, RegisteredPatient]:
        """The registry, by ``id^authority``; merged ones stay with ``merged_into``."""
        with self._lock:
            return self._registry.patients

    @property
    def received(self) -> list[ReceivedMessage]:
        """Every message since the start, in order of arrival."""
        with self._lock:
            return list(self._received)

    @property
    def duplicate_control_ids(self) -> list[str]:
        """The control ids that came more than once, in order of their second arrival."""
        return [control_id for control_id, _ in self._repetitions()]

    @property
    def changed_resends(self) -> list[str]:
        """The control ids that came again with other bytes, which no sender may do."""
        return [control_id for control_id, is_same in self._repetitions() if not is_same]

    @property
    def connection_count(self) -> int:
        """Connections accepted since the start."""
        with self._lock:
            return self._connection_count

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._connections)

    def register(self, key: str, patient: RegisteredPatient | None = None) -> None:
        """Let the receiver know a patient, as if images had brought them."""
        with self._lock:
            self._registry.register(key, patient or RegisteredPatient())

    def behave(self, script: AdtScript | None = None) -> None:
        """Change the script from now on; without one, be polite."""
        with self._lock:
            self._script = script or AdtScript()
            self._replies_given = 0

    def hang_up(self) -> None:
        """Close every open connection now, as a restart would."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection)

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: the port can't be listened on.
        """
        self._stopping.clear()
        try:
            self._listener = socket.create_server(self._bind)
        except OSError as exc:
            raise ConfigurationError(
                f"port: can't listen on {self._bind[0]} port {self._bind[1]} ({exc.strerror})", code="bad-setting"
            ) from exc
        self._listener.settimeout(_POLL_S)
        self._is_listening.set()
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Stop listening and end open connections. Idempotent."""
        self._stopping.set()
        self.stop_listening()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    def stop_listening(self) -> None:
        """Take no new connections, as an overloaded receiver; those that are open go on. Idempotent."""
        if self._listener is None:
            return
        self._is_listening.clear()
        self._acceptor.join()
        self._listener.close()
        self._listener = None

    def _repetitions(self) -> list[tuple[str, bool]]:
        first: dict[str, bytes] = {}
        again: dict[str, bool] = {}
        for message in self.received:
            if message.control_id in first:
                is_same = first[message.control_id] == message.data
                again[message.control_id] = again.get(message.control_id, True) and is_same
            first.setdefault(message.control_id, message.data)
        return list(again.items())

    # -- connections -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while self._is_listening.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with self._lock:
                self._connection_count += 1
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:  # the sender may hang up at any time
            plain.settimeout(10)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = plain
            if self._ssl_context is not None:
                connection = self._ssl_context.wrap_socket(plain, server_side=True)
            with self._lock:
                self._connections.add(connection)
            try:
                self._talk(connection)
            finally:
                with self._lock:
                    self._connections.discard(connection)
                _shut(connection)
                connection.close()

    def _talk(self, connection: socket.socket) -> None:
        buffer = bytearray()
        idle_s = 0.0
        connection.settimeout(_POLL_S)
        while not self._stopping.is_set():
            try:
                data = connection.recv(65536)
            except TimeoutError:
                idle_s += _POLL_S
                limit_s = self._script.idle_close_s
                if limit_s is not None and idle_s >= limit_s:
                    return
                continue
            if not data:
                return
            idle_s = 0.0
            buffer += data
            while (end := buffer.find(_FS_CR)) >= 0:
                message = bytes(buffer[buffer.find(_VT) + 1 : end])
                del buffer[: end + 2]
                if not self._handle(connection, message):
                    return

    def _handle(self, connection: socket.socket, message: bytes) -> bool:
        """Take one message and answer it; False: hang up now."""
        with self._lock:
            script = self._script
            is_scripted = self._replies_given < len(script.replies)
            reply = script.replies[self._replies_given] if is_scripted else script.otherwise
            self._replies_given += 1
            parsed = ParsedMessage.of(message)
            outcome, is_applied = self._apply(reply, parsed, script)
            is_silent = reply.is_missing or reply.hangup is Hangup.BEFORE_ACK
            received = ReceivedMessage(
                message,
                parsed.control_id,
                parsed.trigger,
                None if is_silent else outcome.ack_code,
                None if is_silent else outcome.error_code,
                is_applied,
            )
            self._received.append(received)
            if self._on_message is not None:
                self._on_message(received)
        LOGGER.info("ADT^%s %s: %s", _plain(parsed.trigger), _plain(parsed.control_id), received.answer or "no answer")
        self._stopping.wait(reply.delay_s)
        if reply.hangup is Hangup.BEFORE_ACK:
            return False
        if reply.is_missing:
            return True
        answers = [outcome]
        if script.is_enhanced and str(outcome.ack_code).startswith("A"):
            answers.insert(0, replace(outcome, ack_code="CA", error_code=None, error_location=""))
        for answer in answers:
            frame = reply.noise + _VT + _build_ack(parsed, answer) + _FS_CR
            if reply.hangup is Hangup.DURING_ACK:
                connection.sendall(frame[: len(frame) // 2])
                return False
            self._send(connection, frame, reply)
        return reply.hangup is Hangup.NEVER

    def _send(self, connection: socket.socket, frame: bytes, reply: Reply) -> None:
        size = -(-len(frame) // reply.pieces)
        for start in range(0, len(frame), size):
            if start:
                self._stopping.wait(reply.piece_delay_s)
            connection.sendall(frame[start : start + size])

    def _apply(self, reply: Reply, message: ParsedMessage, script: AdtScript) -> tuple[Reply, bool]:
        """Take the message into the registry, unless the reply says otherwise.

        Gives what to answer, with an MSA-1, and whether the message was taken.
        """
        is_positive = reply.ack_code is None or reply.ack_code[1] == "A"
        is_applied = is_positive if reply.is_applied is None else reply.is_applied
        try:
            if is_applied:
                self._registry.take(
                    message,
                    creates_patients=script.creates_patients,
                    refuses_unknown_merges=script.refuses_unknown_merges,
                )
        except Refusal as refusal:
            is_applied = False
            if reply.ack_code is None:
                reply = replace(
                    reply,
                    ack_code=refusal.ack_code,
                    error_code=refusal.error_code,
                    error_location=refusal.location,
                )
        return replace(reply, ack_code=reply.ack_code or "AA"), is_applied


def _build_ack(message: ParsedMessage, reply: Reply) -> bytes:
    kind = f"ACK^{message.trigger}^ACK" if reply.has_message_structure else "ACK"
    version = message.version or "2.5.1"
    control_id = message.control_id if reply.control_id is None else reply.control_id
    lines = [
        f"MSH|^~\\&|SIMULATOR|SITE|ARCHSYNC|SITE|20260101000000+0000||{kind}|R{control_id}|P|{version}",
        f"MSA|{reply.ack_code}|{control_id}|{reply.text}".rstrip("|"),
    ]
    if reply.error_code or reply.error_location:
        if version.startswith("2.5"):
            error = f"ERR||{reply.error_location}|{reply.error_code or ''}^^HL70357|{reply.severity}||||{reply.text}"
        else:
            place = [*reply.error_location.split("^"), "", "", ""][:3]
            error = f"ERR|{'^'.join(place)}^{reply.error_code or ''}&&HL70357"
        lines.append(error.rstrip("|"))
    return "".join(f"{line}\r" for line in lines).encode(reply.encoding)


def _plain(value: str) -> str:
    """A value of the peer's that is fit for a log: control ids and triggers, nothing else."""
    return value if re.fullmatch(r"[A-Za-z0-9.-]{1,20}", value) else "?"


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def run_adt_receiver(
    port: int,
    *,
    host: str = "127.0.0.1",
    script: AdtScript | None = None,
    rudeness: Path | None = None,
    announce: Callable[[str], None],
    poll_s: float = 0.5,
) -> None:
    """Run a receiver until SIGTERM or SIGINT; ``announce`` gets one line when it listens. For the main thread.

    ``rudeness`` is a file as :func:`read_adt_script` reads it, once it is there and whenever it changes. What it does
    not name is as in ``script``.

    Raises:
        ConfigurationError: the port can't be listened on.
    """
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    polite = script or AdtScript()
    with SimulatedAdtReceiver(port, host=host, script=polite) as receiver:
        control = rudeness and ControlFile(rudeness, read=partial(read_adt_script, base=polite), polite=polite)
        if control:
            control.apply_to(receiver.behave)
        announce(f"ADT receiver listens on {receiver.address[0]} port {receiver.address[1]}")
        while not done.wait(poll_s):
            if control:
                control.apply_to(receiver.behave)
