"""What a simulated ADT receiver reads of messages, and the patients it keeps by them.

It answers as dcm4chee-arc does. A refusal carries MSA-1, ERR-3 (table 0357) and ERR-2.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

_CODECS = {
    "": "ascii",
    "ASCII": "ascii",
    "ISO IR87": "iso2022_jp",
    "UNICODE UTF-8": "utf_8",
    **{f"8859/{part}": f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}


@dataclass(frozen=True, slots=True)
class RegisteredPatient:
    """A patient as the receiver knows them. ``name`` is PID-5 as text, unescaped component by component."""

    name: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)
    sex: str = ""
    merged_into: str | None = None
    dicom_name: str = field(default="", repr=False, compare=False, kw_only=True)
    """The name as a PN, from PID-5 or from images."""

    @property
    def dicom_sex(self) -> str:
        """Patient's Sex, which has fewer values than table 0001."""
        return {"A": "O", "N": "O"}.get(self.sex, self.sex if self.sex in ("M", "F", "O") else "")


class Refusal(Exception):
    """The registry does not take a message: MSA-1, ERR-3, ERR-2."""

    def __init__(self, code: str, error_code: str, location: str = "") -> None:
        super().__init__(code, error_code, location)
        self.ack_code = code
        self.error_code = error_code
        self.location = location


class PatientRegistry:
    """Patients by ``id^authority``, such as ``12345^HOSP``; those that images bring may lack the authority.

    ``frees_identifiers``: an identity that gave way is forgotten, so that whoever comes under it next is somebody else;
    by default it stands for its survivor ever after. ``on_renamed`` is told of an identity that ends (the old and the
    new one): where an archive files by it, it has to file anew.
    """

    def __init__(
        self, *, frees_identifiers: bool = False, on_renamed: Callable[[str, str], None] = lambda _old, _new: None
    ) -> None:
        self.frees_identifiers = frees_identifiers
        self._on_renamed = on_renamed
        self._patients: dict[str, RegisteredPatient] = {}
        self._lock = threading.RLock()

    @property
    def patients(self) -> Mapping[str, RegisteredPatient]:
        """A copy; merged ones stay with ``merged_into``."""
        with self._lock:
            return MappingProxyType(dict(self._patients))

    def register(self, key: str, patient: RegisteredPatient) -> None:
        """Know a patient, as if images had brought them."""
        with self._lock:
            self._patients[key] = patient

    def forget(self) -> None:
        """Know nobody."""
        with self._lock:
            self._patients.clear()

    # -- images ------------------------------------------------------------------------------------------------------

    def admit(self, key: str, patient: RegisteredPatient) -> str:
        """Know the patient of an image, whose attributes count only if nobody knew them; gives whom it is filed under.

        An identity that was merged away stands for its survivor, so that late images don't bring it back.
        """
        with self._lock:
            known = self._find(key)
            if known is None:
                self._patients[key] = patient
            return self.survivor(key)

    def survivor(self, key: str) -> str:
        """The identity that this one goes by now: itself unless it was merged."""
        with self._lock:
            key = self._find(key) or key
            while (patient := self._patients.get(key)) and patient.merged_into is not None:
                key = patient.merged_into
            return key

    def is_same(self, one: str, other: str) -> bool:
        """True if both are one patient: equal ids, authorities that don't contradict each other, merges followed."""
        return _is_compatible(self.survivor(one), self.survivor(other))

    def current(self, key: str) -> tuple[str, RegisteredPatient]:
        """The identity that this one goes by now, and who that is."""
        with self._lock:
            key = self.survivor(key)
            return key, self._patients.get(key) or RegisteredPatient()

    def _find(self, key: str) -> str | None:
        """The known identity meant by this one: the same, or the only one of which an authority is not known."""
        if key in self._patients:
            return key
        alike = [known for known in self._patients if _is_compatible(known, key)]
        return alike[0] if len(alike) == 1 else None

    # -- messages ----------------------------------------------------------------------------------------------------

    def take(
        self, message: ParsedMessage, *, creates_patients: bool = False, refuses_unknown_merges: bool = False
    ) -> None:
        """Apply a message, or raise the :class:`Refusal` that dcm4chee would give."""
        if message.text is None:
            raise Refusal("AE", "102", "MSH^1^18")
        if message.trigger not in ("A08", "A31", "A40", "A47"):
            raise Refusal("AR", "201", "MSH^1^9")
        if message.version not in ("2.3.1", "2.5", "2.5.1"):
            raise Refusal("AR", "203", "MSH^1^12")
        pid = message.segments.get("PID")
        if pid is None:
            raise Refusal("AE", "100")
        if not message.keys[0]:
            raise Refusal("AE", "101", "PID^1^3")
        with self._lock:
            key = self._name_authority(message.keys[0])
            if message.trigger in ("A08", "A31"):
                self._update(key, pid, creates_patients)
                return
            if not message.keys[1]:
                raise Refusal("AE", "101", "MRG^1^1")
            old = self._name_authority(message.keys[1])
            if refuses_unknown_merges and old not in self._patients:
                raise Refusal("AR", "204", "MRG^1^1")
            self._merge(old, key, pid, is_change=message.trigger == "A47")

    def _name_authority(self, key: str) -> str:
        """``key``; a patient that images brought without an authority goes by it from now on."""
        known = self._find(key)
        if known is not None and known != key and self._patients[known].merged_into is None:
            self._patients[key] = self._patients[known]
            self._patients[known] = replace(self._patients[known], merged_into=key)
        return key

    def _update(self, key: str, pid: list[str], creates_patients: bool) -> None:
        known = self._patients.get(key)
        if (known is None and not creates_patients) or (known and known.merged_into is not None):
            raise Refusal("AR", "204", "PID^1^3")
        self._patients[key] = _updated(known or RegisteredPatient(), pid)

    def _merge(self, old: str, new: str, pid: list[str], *, is_change: bool) -> None:
        target, source = self._patients.get(new), self._patients.get(old)
        if is_change and target is not None:
            raise Refusal("AR", "205", "PID^1^3")
        # dcm4chee gives one answer to both: a repeated merge, and a survivor that is merged away itself
        if any(patient is not None and patient.merged_into is not None for patient in (source, target)):
            raise Refusal("AR", "204", "MRG^1^1")
        if not is_change and not self.frees_identifiers:
            self._patients[new] = _updated(target or RegisteredPatient(), pid)
            self._patients[old] = replace(source or RegisteredPatient(), merged_into=new)
            return
        self._patients[new] = _updated(target or source or RegisteredPatient(), pid)
        self._patients.pop(old, None)
        for key, patient in self._patients.items():
            if patient.merged_into == old:
                self._patients[key] = replace(patient, merged_into=new)
        self._on_renamed(old, new)


def _is_compatible(one: str, other: str) -> bool:
    (one_id, _, one_authority), (other_id, _, other_authority) = one.rpartition("^"), other.rpartition("^")
    return one_id == other_id and (one_authority == other_authority or not (one_authority and other_authority))


def _updated(patient: RegisteredPatient, pid: list[str]) -> RegisteredPatient:
    """The patient with what PID says: an empty field leaves the value, two quotes delete it."""

    def value(number: int, old: str) -> str:
        text = _at(pid, number)
        if text == '""':
            return ""
        # the repetitions and components apart, each unescaped: a delimiter inside a name is no structure any more
        return "~".join("^".join(map(_unescape, part.split("^"))) for part in text.split("~")) or old

    return replace(
        patient,
        name=value(5, patient.name),
        birth_date=value(7, patient.birth_date),
        sex=value(8, patient.sex),
        dicom_name=_person_name(_at(pid, 5)) if _at(pid, 5) else patient.dicom_name,
    )


def _person_name(xpn: str) -> str:
    """A PN from PID-5: prefix and suffix change places, repetitions become the groups that XPN-8 says they are."""
    if xpn == '""':
        return ""
    groups: dict[str, str] = {}
    for repetition in xpn.split("~"):
        parts = [_unescape(part) for part in repetition.split("^")]
        family, given, middle, suffix, prefix, _, _, code = [*parts, *[""] * 8][:8]
        groups[code or "A"] = "^".join((family, given, middle, prefix, suffix)).rstrip("^")
    return "=".join(groups.get(code, "") for code in "AIP").rstrip("=")


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """What the receiver reads of a message; ``text`` is None if the bytes are not in the set MSH-18 names."""

    control_id: str
    trigger: str
    version: str
    text: str | None
    segments: dict[str, list[str]]

    @property
    def keys(self) -> tuple[str, str]:
        """``id^authority`` of PID-3 and MRG-1; empty where one of them is missing or incomplete."""
        return _key(_at(self.segments.get("PID", []), 3)), _key(_at(self.segments.get("MRG", []), 1))

    @classmethod
    def of(cls, data: bytes) -> ParsedMessage:
        """Read what can be read; nothing is an error yet."""
        msh = data.split(b"\r")[0].decode("latin-1").split("|")
        codec = _CODECS.get(_at(msh, 17))
        try:
            text = data.decode(codec) if codec else None
        except UnicodeDecodeError:
            text = None
        segments = {line.split("|")[0]: line.split("|") for line in (text or "").split("\r") if line}
        trigger = [*_at(msh, 8).split("^"), ""][1]
        return cls(_at(msh, 9), trigger, _at(msh, 11), text, segments)


def _at(fields: list[str], number: int) -> str:
    return fields[number] if number < len(fields) else ""


def _key(cx: str) -> str:
    """``id^authority`` of a CX; empty if one of them is missing."""
    parts = [*cx.split("~")[0].split("^"), "", "", ""]
    authority = [*parts[3].split("&"), ""]
    name = _unescape(authority[0]) or _unescape(authority[1])
    return f"{_unescape(parts[0])}^{name}" if parts[0] and name else ""


def _unescape(text: str) -> str:
    meanings = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\", ".br": "\n"}
    return re.sub(r"\\(F|S|T|R|E|\.br)\\", lambda match: meanings[match[1]], text)
