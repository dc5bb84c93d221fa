"""A small archive for tests and demos: stores, answers C-ECHO and C-FIND, and can be told to be rude.

It may honour rejection notes (:mod:`archsync.simulate.iocm`), and ADT messages change what it shows. It shares no code
with the sender, so that one's mistakes don't hide in the other. It logs UIDs and statuses only.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer
from typing import Any

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, build_context, evt
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import ThreadedAssociationServer

from archsync.errors import ConfigurationError
from archsync.simulate.adt_receiver import SimulatedAdtReceiver
from archsync.simulate.adt_registry import RegisteredPatient
from archsync.simulate.arrivals import ArrivalKind, LoggedArrival
from archsync.simulate.holdings import Holdings, ShownInstance, StoredInstance
from archsync.simulate.iocm import Arrival, IocmRules
from archsync.simulate.rudeness import RUDENESS_FILE, ChosenStatus, Rudeness

LOGGER = logging.getLogger(__name__)

__all__ = [
    "RUDENESS_FILE",
    "ArrivalKind",
    "ChosenStatus",
    "IocmRules",
    "LoggedArrival",
    "Rudeness",
    "ShownInstance",
    "SimulatedArchive",
    "StoredInstance",
]

_POLL_S = 0.05

_VERIFICATION = "1.2.840.10008.1.1"
_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_UNCOMPRESSED = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_SUCCESS, _CANNOT_UNDERSTAND = 0x0000, 0xC000


@dataclass(slots=True)
class _Progress:
    """Counts since the rudeness was set."""

    associations: int = 0
    stores: int = 0
    aborted: bool = False
    statuses_given: dict[int, int] = field(default_factory=dict)


class SimulatedArchive:
    """A DICOM archive listening on ``host``; ``port`` 0 takes a free one. Use as a context manager or start and stop.

    What is in ``folder`` at the start is held already, rejected as it was, with patients as ADT messages left them.
    With ``iocm`` it honours rejection notes by these rules, which it then owns; without, a note is an object like any
    other. With ``frees_identifiers`` it forgets a patient's identifier that gave way to another.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        ae_title: str = "SIMARCHIVE",
        rudeness: Rudeness | None = None,
        host: str = "127.0.0.1",
        ssl_context: Any = None,
        iocm: IocmRules | None = None,
        frees_identifiers: bool = False,
    ) -> None:
        self._folder = folder
        self._bind = (host, port)
        self._ae_title = ae_title
        self._ssl_context = ssl_context
        self._rudeness = rudeness or Rudeness()
        self._progress = _Progress()
        self._lock = threading.Lock()
        self._holdings = Holdings(folder, iocm, frees_identifiers=frees_identifiers)
        self._requests: list[tuple[str, int | None]] = []
        self._association_count = 0
        self._server: Any = None
        self._entity: AE | None = None
        self._thread = threading.Thread()
        self._stopping = threading.Event()

    def __enter__(self) -> SimulatedArchive:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on; only while started."""
        assert self._server is not None, "the archive is not started"
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    @property
    def ae_title(self) -> str:
        return self._ae_title

    @property
    def stored(self) -> Mapping[str, StoredInstance]:
        """What is held, rejected or not, by SOP Instance UID."""
        return self._holdings.stored

    @property
    def rejected(self) -> Mapping[str, str]:
        """The code of the title under which each rejected SOP Instance UID was rejected."""
        return self._holdings.rejected

    @property
    def patients(self) -> Mapping[str, RegisteredPatient]:
        """By ``id^authority``, brought by images or messages; merged ones stay with ``merged_into``."""
        return self._holdings.patients.patients

    @property
    def arrivals(self) -> list[LoggedArrival]:
        """Each C-STORE and each ADT message in order of arrival, whatever became of it; from before the start too."""
        return self._holdings.arrivals

    def shown(self) -> Mapping[str, ShownInstance]:
        """What queries find now, by SOP Instance UID."""
        return self._holdings.list_shown()

    def make_adt_receiver(self, port: int = 0, **settings: Any) -> SimulatedAdtReceiver:
        """An HL7 receiver whose messages change what this archive shows; to be started and stopped apart.

        ``settings`` are those of :class:`SimulatedAdtReceiver`.
        """
        return SimulatedAdtReceiver(
            port, registry=self._holdings.patients, on_message=self._holdings.receive_message, **settings
        )

    @property
    def requests(self) -> list[tuple[str, int | None]]:
        """Each C-STORE since the start, in order: SOP Instance UID and the status given (None: aborted)."""
        with self._lock:
            return list(self._requests)

    @property
    def association_count(self) -> int:
        """Association requests since the start, refused ones included."""
        return self._association_count

    @property
    def open_associations(self) -> int:
        """Associations that are open now."""
        return 0 if self._entity is None else len(self._entity.active_associations)

    def behave(self, rudeness: Rudeness | None = None) -> None:
        """Change the rudeness from now on; without one, be polite."""
        with self._lock:
            self._rudeness = rudeness or Rudeness()
            self._progress = _Progress()

    def start(self) -> None:
        """Index the folder and listen.

        Raises:
            ConfigurationError: the port can't be listened on, or the folder not be written to.
        """
        _keep_logs_clean()
        try:
            self._holdings.open()
        except OSError as exc:
            raise ConfigurationError(
                f"folder: {self._folder} can't be used ({exc.strerror})", code="bad-setting"
            ) from exc
        self._stopping.clear()
        entity = AE(ae_title=self._ae_title)
        entity.maximum_associations = 50
        entity.network_timeout = 300
        entity.acse_timeout = 30
        entity.dimse_timeout = 60
        entity.supported_contexts = [build_context(_VERIFICATION)]  # replaced per association in _on_requested
        try:
            self._server = entity.make_server(
                self._bind,
                ssl_context=self._ssl_context,
                evt_handlers=self._handlers(),
                server_class=ThreadedAssociationServer,
            )
        except OSError as exc:
            raise ConfigurationError(
                f"port: can't listen on {self._bind[0]} port {self._bind[1]} ({exc.strerror})", code="bad-setting"
            ) from exc
        self._entity = entity
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end open associations. Idempotent."""
        self._stopping.set()
        if self._server is None or self._entity is None:
            return
        BaseServer.shutdown(self._server)  # pynetdicom's own also unlists a server that start_server() has listed
        self._server.server_close()
        self._thread.join()
        associations = self._entity.active_associations
        established = [association for association in associations if association.is_established]
        for association in associations:
            if association in established:
                association.abort()
            else:
                association.kill()
        for association in established:  # others store nothing, and wait for half a minute for somebody to ask
            association.join(timeout=10)  # what it was storing is in the folder, or never will be
        self._server = None
        self._entity = None

    def _handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, lambda _: 0x0000),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
        ]

    # association

    def _on_requested(self, event: evt.Event) -> None:
        """Refuse the association as told, or say what is supported: anything that was proposed and is not excluded."""
        request = event.assoc.requestor.primitive
        with self._lock:
            rudeness = self._rudeness
            self._association_count += 1
            self._progress.associations += 1
            refusal = self._refusal(rudeness, request.calling_ae_title.strip(), request.called_ae_title.strip())
        if refusal is not None:
            LOGGER.info("association refused: result %d, source %d, reason %d", *refusal)
            event.assoc.acse.send_reject(*refusal)
            event.assoc.is_rejected = True
            event.assoc.kill()
            return
        supported = []
        for context in request.presentation_context_definition_list:
            sop_class = str(context.abstract_syntax)
            syntaxes = _supported_syntaxes(rudeness, sop_class, [str(s) for s in context.transfer_syntax])
            if syntaxes:
                supported.append((sop_class, syntaxes))
        merged: dict[str, dict[str, None]] = {}
        for sop_class, syntaxes in supported:
            merged.setdefault(sop_class, {}).update(dict.fromkeys(syntaxes))
        event.assoc.acceptor.supported_contexts = [build_context(c, list(s)) for c, s in merged.items()]

    def _refusal(self, rudeness: Rudeness, calling: str, called: str) -> tuple[int, int, int] | None:
        if self._progress.associations <= rudeness.refuse_associations:
            return rudeness.refuse_result, rudeness.refuse_source, rudeness.refuse_reason
        if rudeness.known_calling_ae_titles and calling not in rudeness.known_calling_ae_titles:
            return 1, 1, 3
        if rudeness.check_called_ae_title and called != self._ae_title:
            return 1, 1, 7
        return None

    # C-STORE

    def _on_store(self, event: evt.Event) -> int:
        encoded = event.encoded_dataset()
        arrival, is_readable = _arrival_of(event, encoded)
        with self._lock:
            self._progress.stores += 1
            number, rudeness, progress = self._progress.stores, self._rudeness, self._progress
            is_aborted = rudeness.abort_after_stores is not None and number > rudeness.abort_after_stores
            is_aborted = is_aborted and not progress.aborted
            progress.aborted = progress.aborted or is_aborted
            chosen = None if is_aborted else self._chosen_status(rudeness, progress, number, arrival.sop_instance_uid)
        is_lost = number == rudeness.lose_answer_of_store
        answer: int | None
        if is_aborted or not is_readable or (chosen and chosen >> 12 != 0xB):
            answer = None if is_aborted or is_lost else chosen or _CANNOT_UNDERSTAND
            self._holdings.turn_away(arrival, answer)
        else:
            answer = self._holdings.receive(arrival, encoded, warning=chosen or _SUCCESS, is_answer_lost=is_lost)
        with self._lock:
            self._requests.append((arrival.sop_instance_uid, answer))
        if answer is None:
            event.assoc.abort()
            return _CANNOT_UNDERSTAND  # never leaves: the association is gone
        delay_s = rudeness.store_delay_s + (rudeness.stall_s if number == rudeness.stall_at_store else 0.0)
        if delay_s:
            self._stopping.wait(delay_s)
        return answer

    @staticmethod
    def _chosen_status(rudeness: Rudeness, progress: _Progress, number: int, uid: str) -> int | None:
        for position, chosen in enumerate(rudeness.statuses):
            by_number = chosen.nth is not None and chosen.nth <= number < chosen.nth + chosen.times
            given = progress.statuses_given.get(position, 0)
            by_uid = chosen.sop_instance_uid == uid and given < chosen.times
            if by_number or by_uid:
                progress.statuses_given[position] = given + 1
                return chosen.status
        return rudeness.answer_every_store

    # C-FIND

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        try:
            query = event.identifier
        except Exception as exc:  # noqa: BLE001  # pydicom raises nearly anything on what a peer may send
            LOGGER.warning("unreadable query (%s)", type(exc).__name__)
            yield _CANNOT_UNDERSTAND, None
            return
        matches = self._holdings.find(query)
        if matches is None:
            yield 0xA900, None
            return
        for match in matches:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, match


def _arrival_of(event: evt.Event, encoded: bytes) -> tuple[Arrival, bool]:
    """The C-STORE, and whether its study and series can be read."""
    request = event.request
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(request.AffectedSOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(request.AffectedSOPInstanceUID))
    meta.TransferSyntaxUID = UID(str(event.context.transfer_syntax))
    try:
        # Values are taken as they are: what comes may break any rule.
        arrival = Arrival.of(event.dataset, meta, encoded)
        _ = arrival.place, arrival.title
        return arrival, True
    except Exception as exc:  # noqa: BLE001  # pydicom raises nearly anything on what a peer may send
        LOGGER.warning("data set without readable study and series (%s)", type(exc).__name__)
        return Arrival.of(Dataset(), meta, encoded), False


def _send_at_once(event: evt.Event) -> None:
    """Switch Nagle off: it would hold each response back until the sender's delayed ACK."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _supported_syntaxes(rudeness: Rudeness, sop_class: str, proposed: list[str]) -> list[str]:
    if sop_class in rudeness.refuse_sop_classes:
        return []
    if sop_class in (_VERIFICATION, _STUDY_ROOT_FIND):
        return _UNCOMPRESSED
    if not sop_class.startswith(_STORAGE_ROOT) and uid_to_service_class(sop_class) is not StorageServiceClass:
        return []
    if rudeness.accept_sop_classes and sop_class not in rudeness.accept_sop_classes:
        return []
    if uid_to_service_class(sop_class) is not StorageServiceClass:
        # retired storage classes, which pynetdicom does not list
        register_uid(sop_class, f"Storage{sop_class.replace('.', '_')}", StorageServiceClass)
    wanted = rudeness.accept_transfer_syntaxes or ALL_TRANSFER_SYNTAXES
    return [syntax for syntax in proposed if syntax in wanted]


def _keep_logs_clean() -> None:
    """Keep identifiers and values out of this process's log: they are patient data. What comes is stored as it is."""
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
