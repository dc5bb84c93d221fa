"""A small archive for tests and demos: stores, answers C-ECHO and C-FIND, and can be told to be rude.

Data sets are kept byte for byte as they came, under ``<folder>/<study>/<series>/<instance>.dcm``. It shares no code
with the sender, so that one's mistakes don't hide in the other. It logs UIDs and statuses only.
"""

from __future__ import annotations

import hashlib
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseServer
from types import MappingProxyType
from typing import Any

from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, build_context, evt
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class
from pynetdicom.transport import ThreadedAssociationServer

from archsync.errors import ConfigurationError
from archsync.simulate.catalog import Catalog
from archsync.simulate.iocm import Arrival, IocmRules, arrival_order
from archsync.simulate.rudeness import RUDENESS_FILE, ChosenStatus, ControlFile, Rudeness

LOGGER = logging.getLogger(__name__)

__all__ = ["RUDENESS_FILE", "ChosenStatus", "Rudeness", "SimulatedArchive", "StoredInstance", "run_archive"]

_POLL_S = 0.05

_VERIFICATION = "1.2.840.10008.1.1"
_STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_UNCOMPRESSED = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_PLAIN_NAME = re.compile(r"[0-9]+(\.[0-9]+)*")
_OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0xA700, 0xC000


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """What the archive holds of one SOP Instance UID."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str


@dataclass(slots=True)
class _Progress:
    """Counts since the rudeness was set."""

    associations: int = 0
    stores: int = 0
    aborted: bool = False
    statuses_given: dict[int, int] = field(default_factory=dict)


class SimulatedArchive:
    """A DICOM archive listening on ``host``; ``port`` 0 takes a free one. Use as a context manager or start and stop.

    What is in ``folder`` at the start is held already. With ``iocm`` it honours rejection notes by these rules, which
    it then owns; without, it takes a note like any other object.
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
    ) -> None:
        self._folder = folder
        self._bind = (host, port)
        self._ae_title = ae_title
        self._ssl_context = ssl_context
        self._rudeness = rudeness or Rudeness()
        self._progress = _Progress()
        self._lock = threading.Lock()
        self._stored: dict[str, StoredInstance] = {}
        self._requests: list[tuple[str, int | None]] = []
        self._association_count = 0
        self._iocm = iocm
        self._iocm_lock = threading.Lock()  # a verdict stands until what it was about is kept
        self._catalog = Catalog() if iocm is None else iocm.shown
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
        """What is held, by SOP Instance UID."""
        with self._lock:
            return MappingProxyType(dict(self._stored))

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
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(
                f"folder: {self._folder} can't be made ({exc.strerror})", code="bad-setting"
            ) from exc
        self._index_folder()
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
        for association in self._entity.active_associations:
            association.abort()
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
        request = event.request
        uid = str(request.AffectedSOPInstanceUID)
        with self._lock:
            self._progress.stores += 1
            number, rudeness, progress = self._progress.stores, self._rudeness, self._progress
            abort = rudeness.abort_after_stores is not None and number > rudeness.abort_after_stores
            abort = abort and not progress.aborted
            progress.aborted = progress.aborted or abort
            chosen = None if abort else self._chosen_status(rudeness, progress, number, uid)
        if abort:
            self._note(uid, None)
            event.assoc.abort()
            return _CANNOT_UNDERSTAND  # never leaves: the association is gone
        status = chosen if chosen is not None else 0x0000
        if status == 0x0000 or status >> 12 == 0xB:
            status = self._store(event) or status
        self._note(uid, status)
        delay_s = rudeness.store_delay_s + (rudeness.stall_s if number == rudeness.stall_at_store else 0.0)
        if delay_s:
            self._stopping.wait(delay_s)
        return status

    def _note(self, uid: str, status: int | None) -> None:
        LOGGER.info("C-STORE %s: %s", uid, "aborted" if status is None else f"{status:04X}")
        with self._lock:
            self._requests.append((uid, status))

    @staticmethod
    def _chosen_status(rudeness: Rudeness, progress: _Progress, number: int, uid: str) -> int | None:
        for position, chosen in enumerate(rudeness.statuses):
            by_number = chosen.nth is not None and chosen.nth <= number < chosen.nth + chosen.times
            given = progress.statuses_given.get(position, 0)
            by_uid = chosen.sop_instance_uid == uid and given < chosen.times
            if by_number or by_uid:
                progress.statuses_given[position] = given + 1
                return chosen.status
        return None

    def _store(self, event: evt.Event) -> int:
        """Write the instance; 0 or the status that says why not."""
        request = event.request
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(str(request.AffectedSOPClassUID))
        meta.MediaStorageSOPInstanceUID = UID(str(request.AffectedSOPInstanceUID))
        meta.TransferSyntaxUID = UID(str(event.context.transfer_syntax))
        try:
            # Values are taken as they are: what comes may break any rule.
            header = event.dataset
            study, series = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        except Exception as exc:  # noqa: BLE001  # pydicom raises nearly anything on what a peer may send
            LOGGER.warning("data set without readable study and series (%s)", type(exc).__name__)
            return _CANNOT_UNDERSTAND
        path = self._folder / _safe(study) / _safe(series) / f"{_safe(str(request.AffectedSOPInstanceUID))}.dcm"
        encoded = event.encoded_dataset()
        if self._iocm is None:
            return self._keep(path, meta, header, encoded)
        with self._iocm_lock:
            verdict = self._iocm.judge(Arrival.of(header, meta, encoded))
            return self._keep(path, meta, header, encoded) if verdict.is_kept else verdict.status

    def _keep(self, path: Path, meta: FileMetaDataset, header: Dataset, encoded: bytes) -> int:
        """Write the file and index it; 0 or the status that says why not."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{threading.get_ident()}.part")
            with part.open("wb") as stream:
                stream.write(encoded)
            part.replace(path)
        except OSError as exc:
            LOGGER.warning("can't write an instance (%s)", exc.strerror)
            return _OUT_OF_RESOURCES
        self._remember(path, meta, header, encoded)
        return 0

    def _remember(self, path: Path, meta: FileMetaDataset, header: Dataset, encoded: bytes) -> None:
        uid = str(meta.MediaStorageSOPInstanceUID)
        instance = StoredInstance(
            path=path,
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=uid,
            study_instance_uid=str(header.StudyInstanceUID),
            series_instance_uid=str(header.SeriesInstanceUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
        )
        with self._lock:
            self._stored[uid] = instance
            if self._iocm is None:
                self._catalog.add(header)
            else:
                self._iocm.admit(Arrival.of(header, meta, encoded))

    def _index_folder(self) -> None:
        for path in sorted(self._folder.glob("*/*/*.dcm"), key=None if self._iocm is None else arrival_order):
            try:
                data_set = dcmread(path, stop_before_pixels=True)
                self._remember(path, data_set.file_meta, data_set, b"" if self._iocm is None else path.read_bytes())
            except (InvalidDicomError, OSError, AttributeError, ValueError) as exc:
                LOGGER.warning("%s is skipped (%s)", path.name, type(exc).__name__)

    # C-FIND

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        try:
            query = event.identifier
        except Exception as exc:  # noqa: BLE001  # pydicom raises nearly anything on what a peer may send
            LOGGER.warning("unreadable query (%s)", type(exc).__name__)
            yield _CANNOT_UNDERSTAND, None
            return
        with self._lock:
            matches = self._catalog.find(query)
        if matches is None:
            yield 0xA900, None
            return
        for match in matches:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, match


def _send_at_once(event: evt.Event) -> None:
    """Switch Nagle off: it would hold each response back until the sender's delayed ACK."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _supported_syntaxes(rudeness: Rudeness, sop_class: str, proposed: list[str]) -> list[str]:
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


def _safe(uid: str) -> str:
    """A UID as a file name; anything else by its digest, so that no name escapes the folder."""
    if _PLAIN_NAME.fullmatch(uid) and len(uid) <= 64:
        return uid
    return f"odd-{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _keep_logs_clean() -> None:
    """Keep identifiers and values out of this process's log: they are patient data. What comes is stored as it is."""
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE


def run_archive(
    folder: Path,
    port: int,
    *,
    ae_title: str = "SIMARCHIVE",
    host: str = "127.0.0.1",
    announce: Callable[[str], None],
    poll_s: float = 0.5,
) -> None:
    """Run an archive until SIGTERM or SIGINT; ``announce`` gets one line when it listens.

    The rudeness is read from ``rudeness.json`` in ``folder``, if there is one, and again whenever that file changes.
    A file with mistakes is reported and leaves the rudeness as it was. To be called in the main thread.

    Raises:
        ConfigurationError: the port can't be listened on, or the folder not be written to.
    """
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with SimulatedArchive(folder, port, ae_title=ae_title, host=host) as archive:
        control = ControlFile(folder / RUDENESS_FILE)
        control.apply_to(archive.behave)
        announce(f"Archive {ae_title} listens on {archive.address[0]} port {archive.address[1]}, folder {folder}")
        while not done.wait(poll_s):
            control.apply_to(archive.behave)
