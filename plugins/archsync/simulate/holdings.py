"""What a simulated archive holds, and what of it it shows: files, rejection notes, and patients as ADT left them.

Data sets are kept byte for byte as they came, under ``<folder>/<study>/<series>/<instance>.dcm``, messages under
``<folder>/adt``. The log says in which order; to restore all of it, it is gone through again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from archsync.simulate.adt_receiver import ReceivedMessage
from archsync.simulate.adt_registry import ParsedMessage, PatientRegistry, Refusal, RegisteredPatient
from archsync.simulate.arrivals import ArrivalKind, ArrivalLog, LoggedArrival
from archsync.simulate.catalog import Catalog
from archsync.simulate.iocm import Arrival, Effect, IocmRules, Verdict

LOGGER = logging.getLogger(__name__)

_PLAIN_NAME = re.compile(r"[0-9]+(\.[0-9]+)*")
_PATIENT_ATTRIBUTES = (
    ("PatientID", "LO"),
    ("IssuerOfPatientID", "LO"),
    ("PatientName", "PN"),
    ("PatientBirthDate", "DA"),
    ("PatientSex", "CS"),
)
_SUCCESS, _OUT_OF_RESOURCES = 0x0000, 0xA700


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """What the archive holds of one SOP Instance UID."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class ShownInstance:
    """An instance as queries find it, with its patient as ADT messages left them."""

    study_instance_uid: str
    series_instance_uid: str
    patient_id: str = field(repr=False)
    issuer: str
    name: str = field(repr=False)
    birth_date: str = field(repr=False)
    """YYYYMMDD, or empty."""
    sex: str


class Holdings:
    """An archive's memory, on disk too. Usable from several threads."""

    def __init__(self, folder: Path, iocm: IocmRules | None, *, frees_identifiers: bool = False) -> None:
        self.patients = PatientRegistry(frees_identifiers=frees_identifiers, on_renamed=self._rename_patient)
        self._folder = folder
        self._iocm = iocm
        self._lock = threading.RLock()
        self._log = ArrivalLog(folder)
        self._catalog = Catalog()
        self._stored: dict[str, StoredInstance] = {}
        self._patient_of_study: dict[str, str] = {}

    def open(self) -> None:
        """Restore what is in the folder.

        Raises:
            OSError: the folder can't be read or written.
        """
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._catalog = Catalog()
            self._stored.clear()
            self._patient_of_study.clear()
            self.patients.forget()
            if self._iocm is not None:
                self._iocm.forget()
            self._log.open()
            kept = [arrival for arrival in self._log.entries if arrival.is_kept]
            for arrival in kept:
                if arrival.kind is ArrivalKind.ADT:
                    self._restore_message(arrival)
                else:
                    self._restore_instance(self._folder / arrival.file)
            logged = {arrival.file for arrival in kept}
            for path in sorted(self._folder.glob("*/*/*.dcm")):
                if path.relative_to(self._folder).as_posix() not in logged:
                    self._restore_instance(path)

    # -- what is there -----------------------------------------------------------------------------------------------

    @property
    def stored(self) -> Mapping[str, StoredInstance]:
        """What is held, rejected or not, by SOP Instance UID."""
        with self._lock:
            return MappingProxyType(dict(self._stored))

    @property
    def rejected(self) -> Mapping[str, str]:
        """The title's code by SOP Instance UID; empty without IOCM."""
        with self._lock:
            return MappingProxyType(dict(self._iocm.rejected) if self._iocm is not None else {})

    @property
    def arrivals(self) -> list[LoggedArrival]:
        """All that came, in order."""
        with self._lock:
            return list(self._log.entries)

    def list_shown(self) -> Mapping[str, ShownInstance]:
        """What queries find, by SOP Instance UID."""
        with self._lock:
            return MappingProxyType(
                {
                    uid: ShownInstance(study, series, *self._patient(study))
                    for study, series, uid in self._catalog.list_instances()
                }
            )

    def find(self, query: Dataset) -> list[Dataset] | None:
        """Matches of a C-FIND; None when the query has no level of the Study Root model."""
        with self._lock:
            return self._catalog.find(query, self._patient_attributes)

    def _patient(self, study_instance_uid: str) -> tuple[str, str, str, str, str]:
        key, patient = self.patients.current(self._patient_of_study[study_instance_uid])
        patient_id, _, issuer = key.rpartition("^")
        return patient_id, issuer, patient.dicom_name, patient.birth_date[:8], patient.dicom_sex

    def _patient_attributes(self, study_instance_uid: str) -> Dataset:
        attributes = Dataset()
        for (keyword, vr), value in zip(_PATIENT_ATTRIBUTES, self._patient(study_instance_uid), strict=True):
            attributes[keyword] = DataElement(keyword, vr, value, validation_mode=IGNORE)  # what came may be odd
        return attributes

    # -- C-STORE -----------------------------------------------------------------------------------------------------

    def receive(
        self, arrival: Arrival, encoded: bytes, *, warning: int = 0, is_answer_lost: bool = False
    ) -> int | None:
        """Take a C-STORE as the rules say; gives the status to answer: ``warning`` instead of success.

        With ``is_answer_lost`` it is None: nobody is told.
        """
        with self._lock:
            verdict = self._judge(arrival)
            path = self._path_of(arrival)
            if verdict.is_kept and not _write(path, encoded):
                verdict = Verdict(_OUT_OF_RESOURCES)
            if verdict.is_kept:
                self._admit(path, arrival)
            status = warning if verdict.status == _SUCCESS else verdict.status
            answer = None if is_answer_lost else status
            self._log_instance(arrival, answer, path if verdict.is_kept else None)
        return answer

    def turn_away(self, arrival: Arrival, status: int | None) -> None:
        """Log a C-STORE that is answered so (None: not at all) without being looked at."""
        with self._lock:
            self._log_instance(arrival, status, None)

    def _judge(self, arrival: Arrival) -> Verdict:
        if self._iocm is None:
            return Verdict(_SUCCESS, is_kept=True)
        owner = self._patient_of_study.get(arrival.place[0])
        is_other = owner is not None and not self.patients.is_same(owner, _key_of(arrival.header))
        return self._iocm.judge(arrival, is_other_patient=is_other)

    def _path_of(self, arrival: Arrival) -> Path:
        study, series = arrival.place
        return self._folder / _safe(study) / _safe(series) / f"{_safe(arrival.sop_instance_uid)}.dcm"

    def _log_instance(self, arrival: Arrival, status: int | None, path: Path | None) -> None:
        is_note = arrival.title is not None
        LOGGER.info("C-STORE %s: %s", arrival.sop_instance_uid, "not answered" if status is None else f"{status:04X}")
        self._log.add(
            LoggedArrival(
                kind=ArrivalKind.NOTE if is_note else ArrivalKind.IMAGE,
                uid=arrival.sop_instance_uid,
                status=None if status is None else f"{status:04X}",
                digest=arrival.digest.hex(),
                is_kept=path is not None,
                names=tuple(reference.sop_instance_uid for reference in arrival.evidence) if is_note else (),
                file="" if path is None else path.relative_to(self._folder).as_posix(),
            )
        )

    def _admit(self, path: Path, arrival: Arrival) -> None:
        study, series = arrival.place
        self._stored[arrival.sop_instance_uid] = StoredInstance(
            path=path,
            sop_class_uid=arrival.sop_class_uid,
            sop_instance_uid=arrival.sop_instance_uid,
            study_instance_uid=study,
            series_instance_uid=series,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
        )
        key = _key_of(arrival.header)
        owner = self._patient_of_study.get(study)
        if owner is None or not self.patients.is_same(owner, key):
            self._patient_of_study[study] = self.patients.admit(key, _patient_of(arrival.header))
        effect = Effect(is_shown=True) if self._iocm is None else self._iocm.admit(arrival)
        if effect.hidden:
            self._catalog.remove(effect.hidden)
        if effect.is_shown:
            self._catalog.add(arrival.header)

    def _restore_instance(self, path: Path) -> None:
        try:
            header = dcmread(path, stop_before_pixels=True)
            self._admit(path, Arrival.of(header, header.file_meta, path.read_bytes()))
        except (InvalidDicomError, OSError, AttributeError, KeyError, ValueError) as exc:
            LOGGER.warning("%s is skipped (%s)", path.name, type(exc).__name__)

    # -- ADT ---------------------------------------------------------------------------------------------------------

    def _rename_patient(self, old: str, new: str) -> None:
        with self._lock:
            for study, key in self._patient_of_study.items():
                if key == old:
                    self._patient_of_study[study] = new

    def receive_message(self, message: ReceivedMessage) -> None:
        """Log a message that was answered, and applied to ``patients`` or not; one that was applied is kept.

        Raises:
            OSError: it can't be written.
        """
        with self._lock:
            file = ""
            if message.is_applied:
                file = f"adt/{len(self._log.entries):06}.hl7"
                (self._folder / "adt").mkdir(exist_ok=True)
                (self._folder / file).write_bytes(message.data)
            self._log.add(
                LoggedArrival(
                    kind=ArrivalKind.ADT,
                    uid=message.control_id,
                    status=f"{message.answer} {message.error_code or ''}".rstrip() if message.answer else None,
                    digest=_digest(message.data),
                    is_kept=message.is_applied,
                    trigger=message.trigger,
                    names=tuple(filter(None, ParsedMessage.of(message.data).keys)),
                    file=file,
                )
            )

    def _restore_message(self, arrival: LoggedArrival) -> None:
        try:
            data = (self._folder / arrival.file).read_bytes()
            self.patients.take(ParsedMessage.of(data), creates_patients=True)
        except (OSError, Refusal) as exc:
            LOGGER.warning("message %s is skipped (%s)", arrival.uid, type(exc).__name__)


def _write(path: Path, encoded: bytes) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(encoded)
        part.replace(path)
    except OSError as exc:
        LOGGER.warning("can't write an instance (%s)", exc.strerror)
        return False
    return True


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _safe(uid: str) -> str:
    """A UID as a file name; anything else by its digest, so that no name escapes the folder."""
    if _PLAIN_NAME.fullmatch(uid) and len(uid) <= 64:
        return uid
    return f"odd-{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _key_of(header: Dataset) -> str:
    """``id^authority`` of an image's patient; the authority by its name or else its universal id, or empty."""
    issuer = str(header.get("IssuerOfPatientID") or "")
    for qualifiers in () if issuer else header.get("IssuerOfPatientIDQualifiersSequence") or ():
        issuer = str(qualifiers.get("UniversalEntityID") or "")
    return f"{str(header.get('PatientID') or '').strip()}^{issuer.strip()}"


def _patient_of(header: Dataset) -> RegisteredPatient:
    return RegisteredPatient(
        dicom_name=str(header.get("PatientName") or ""),
        birth_date=str(header.get("PatientBirthDate") or ""),
        sex=str(header.get("PatientSex") or ""),
    )
