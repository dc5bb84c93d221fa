"""ADT messages that keep an archive's patients right: A08 or A31 for demographics, A40 or A47 for an identifier.

Values in, bytes out; the same arguments give the same bytes, so a message is built once, kept, and resent as it is. The
text is put together here leaf by leaf: hl7apy takes ``^`` and ``&`` in a value for structure, lets CR through and
does not escape every backslash. It is the second opinion in :func:`validate` instead.

2.3.1 follows RAD-12 and ITI-8; 2.5 and 2.5.1 follow ITI-30 and ITI-31 (PAM).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from archsync.core.adt import AdtSettings, CharacterSet, Hl7Version, MergeTrigger, UpdateTrigger
from archsync.core.study import Facility, Patient
from archsync.errors import ConfigurationError, InvalidInput
from archsync.messages.hl7_text import (
    NULL,
    SEGMENT_END,
    Segment,
    decode_text,
    encode_text,
    escape,
    has_control_characters,
    parse_segments,
)

_HEADER = "MSH|^~\\&"
_PAM = (Hl7Version.V2_5, Hl7Version.V2_5_1)
_MERGES = tuple(MergeTrigger)

# MSH-9.3. In 2.3.1 A31 has the structure of A01; A05 came with 2.4.
_STRUCTURES = {"A08": "ADT_A01", "A31": "ADT_A05", "A40": "ADT_A39", "A47": "ADT_A30"}
_SEGMENTS = {
    "A08": ["MSH", "EVN", "PID", "PV1"],
    "A31": ["MSH", "EVN", "PID", "PV1"],
    "A40": ["MSH", "EVN", "PID", "MRG"],
    "A47": ["MSH", "EVN", "PID", "MRG"],
}

_SEXES = ("M", "F", "O")
_TABLE_0001 = (*_SEXES, "U", "A", "N", NULL)
_MOMENT = re.compile(r"[0-9]{14}(\.[0-9]{1,4})?[+-][0-9]{4}")


@dataclass(frozen=True, slots=True)
class AssigningAuthority:
    """Who issued an identifier (CX-4, HD): a name, a universal id with its type, or all three."""

    namespace: str = ""
    universal_id: str = ""
    universal_id_type: str = ""

    @classmethod
    def of(cls, patient: Patient, facility: Facility) -> AssigningAuthority:
        """The authority of a patient's identifier.

        The issuer that the platform gives for the patient counts before the facility's. The facility's universal id
        belongs to the facility's own namespace, and goes with no other.

        Raises:
            InvalidInput: ``adt-no-authority``: there is none, or a universal id lacks its type.
        """
        own = cls(
            _stripped(facility.authority_namespace),
            _stripped(facility.authority_universal_id),
            _stripped(facility.authority_universal_id_type),
        )
        issuer = _stripped(patient.issuer_of_patient_id)
        authority = own if issuer in ("", own.namespace) else cls(issuer)
        if not authority.namespace and not authority.universal_id:
            raise InvalidInput(
                f"facility {facility.facility_id}: the patient's identifier has no assigning authority",
                code="adt-no-authority",
                next_step="Give the facility an authority_namespace on the platform, then retry.",
            )
        if bool(authority.universal_id) != bool(authority.universal_id_type):
            raise InvalidInput(
                f"facility {facility.facility_id}: authority_universal_id and authority_universal_id_type go together",
                code="adt-no-authority",
                next_step="Give both or neither on the platform, then retry.",
            )
        for value in (authority.namespace, authority.universal_id, authority.universal_id_type):
            _refuse_control_characters(value, "the assigning authority")
        return authority


def control_id(change_id: str) -> str:
    """The message control id (MSH-10) of a change: 20 characters, 96 bits of a digest of ``change_id``.

    ``change_id`` names one message to one receiver for ever, such as the id of its row in the ledger.
    """
    if not change_id:
        raise InvalidInput("change_id: must not be empty")
    return base64.b32encode(hashlib.blake2b(change_id.encode(), digest_size=12).digest()).decode("ascii").rstrip("=")


def build_a08(
    patient: Patient,
    facility: Facility,
    settings: AdtSettings,
    *,
    change_id: str,
    occurred_at: datetime,
    recorded_at: datetime,
    clear_birth_date: bool = False,
) -> bytes:
    """Build the message that gives a patient's demographics as they are now (A08, or A31 by ``update_trigger``).

    It is a snapshot: all that we hold. What we do not hold stays empty, which leaves it as it is at the receiver;
    ``clear_birth_date`` deletes a birth date there that the platform has taken back. An unknown sex is sent as U.

    Args:
        patient: With the current identifier; after a merge, the survivor.
        change_id: See :func:`control_id`.
        occurred_at: When it really changed (EVN-6, PID-33).
        recorded_at: When this message was made (MSH-7, EVN-2). Both are written with their own offset.

    Raises:
        InvalidInput: the identifier, its authority or the name can't be sent; the message says why.
        ConfigurationError: the receiver's facility (MSH-6) is not known.
    """
    if clear_birth_date and patient.birth_date is not None:
        raise InvalidInput("clear_birth_date: the patient has a birth date")
    trigger = settings.update_trigger
    is_pam = settings.version in _PAM
    pid = [*_pid(patient, facility, settings, NULL if clear_birth_date else "")]
    if is_pam:
        pid += [""] * (32 - len(pid)) + [_moment(occurred_at)]
    lines = [
        _msh(facility, settings, trigger, control_id(change_id), recorded_at),
        _evn(settings, trigger, occurred_at, recorded_at),
        _segment("PID", pid),
        _segment("PV1", ["", escape(settings.patient_class)]),
    ]
    return _encode(lines, settings.character_set)


def build_a40(
    survivor: Patient,
    facility: Facility,
    prior: Patient,
    settings: AdtSettings,
    *,
    change_id: str,
    occurred_at: datetime,
    recorded_at: datetime,
    prior_facility: Facility | None = None,
) -> bytes:
    """Build the message by which ``prior``'s identifier gives way to ``survivor``'s (A40, or A47 by ``merge_trigger``).

    One message for one pair. PID holds the survivor's current, true data, since some receivers take them over.

    Args:
        prior: The patient with the identifier that ends; for a changed identifier, the same patient as before.
        prior_facility: The facility of ``prior`` if it is another one.
        change_id, occurred_at, recorded_at: As for :func:`build_a08`.

    Raises:
        InvalidInput: as for :func:`build_a08`; besides ``adt-same-identifier``: both are the same, and
            ``adt-other-authority``: they were issued by different authorities, which no merge may mix.
        ConfigurationError: the receiver's facility (MSH-6) is not known.
    """
    authority = AssigningAuthority.of(survivor, facility)
    prior_authority = AssigningAuthority.of(prior, prior_facility or facility)
    if authority != prior_authority:
        raise InvalidInput(
            "the two patient identifiers were issued by different authorities: a merge may not mix them",
            code="adt-other-authority",
            next_step="Merge the patients at the archive by hand, or correct the issuers on the platform.",
        )
    if _patient_id(survivor) == _patient_id(prior):
        raise InvalidInput(
            "the old and the new patient identifier are the same",
            code="adt-same-identifier",
            next_step="Nothing to send; cancel the job.",
        )
    trigger = settings.merge_trigger
    mrg = [_cx(prior, prior_authority, settings)]
    if prior.name.strip("^= "):
        mrg += [""] * 5 + [_xpn(prior.name)]
    lines = [
        _msh(facility, settings, trigger, control_id(change_id), recorded_at),
        _evn(settings, trigger, occurred_at, recorded_at),
        _segment("PID", _pid(survivor, facility, settings)),
        _segment("MRG", mrg),
    ]
    return _encode(lines, settings.character_set)


# -- segments --------------------------------------------------------------------------------------------------------


def _msh(
    facility: Facility,
    settings: AdtSettings,
    trigger: UpdateTrigger | MergeTrigger,
    message_control_id: str,
    recorded_at: datetime,
) -> str:
    receiving_facility = _stripped(facility.hl7_receiving_facility) or _stripped(settings.receiving_facility)
    if not receiving_facility:
        raise ConfigurationError(
            f"receiving_facility: facility {facility.facility_id} has none on the platform, nor has the destination",
            code="bad-setting",
        )
    names = (
        settings.sending_application,
        _stripped(settings.sending_facility) or facility.facility_id,
        settings.receiving_application,
        receiving_facility,
    )
    fields = [escape(name.strip()) for name in names]
    fields += [_moment(recorded_at), "", f"ADT^{trigger}^{_structure(trigger, settings.version)}"]
    fields += [message_control_id, settings.processing_id.value, settings.version.value]
    fields += ["", "", *(("AL", "NE") if settings.wants_commit_ack else ("", "")), ""]
    if settings.character_set is not CharacterSet.ASCII:
        fields.append(settings.character_set.value)
    return _segment(_HEADER, fields)


def _structure(trigger: str, version: str) -> str:
    return "ADT_A01" if trigger == "A31" and version == "2.3.1" else _STRUCTURES[trigger]


def _evn(
    settings: AdtSettings, trigger: UpdateTrigger | MergeTrigger, occurred_at: datetime, recorded_at: datetime
) -> str:
    if settings.version in _PAM:  # PAM: EVN-1 is not sent
        return _segment("EVN", ["", _moment(recorded_at), "", "", "", _moment(occurred_at)])
    return _segment("EVN", [trigger.value, _moment(recorded_at)])


def _pid(patient: Patient, facility: Facility, settings: AdtSettings, unknown_birth_date: str = "") -> list[str]:
    if not patient.name.strip("^= "):
        raise InvalidInput(
            "the patient has no name, which every ADT message needs (PID-5)",
            code="adt-no-name",
            next_step="Give the patient a name on the platform, if only a placeholder; then retry.",
        )
    identifier = _cx(patient, AssigningAuthority.of(patient, facility), settings)
    birth_date = unknown_birth_date if patient.birth_date is None else _day(patient.birth_date)
    sex = (patient.sex or "").strip().upper()
    return ["", "", identifier, "", _xpn(patient.name), "", birth_date, sex if sex in _SEXES else "U"]


def _segment(name: str, fields: Iterable[str]) -> str:
    return "|".join([name, *fields]).rstrip("|")


def _encode(lines: list[str], character_set: CharacterSet) -> bytes:
    return encode_text("".join(line + SEGMENT_END for line in lines), character_set)


# -- values ----------------------------------------------------------------------------------------------------------


def _patient_id(patient: Patient) -> str:
    """The identifier without the blanks around it, which mean nothing in DICOM (LO)."""
    patient_id = patient.patient_id.strip(" ")
    _refuse_control_characters(patient_id, "the patient's identifier")
    if not patient_id or patient_id == NULL:
        raise InvalidInput(
            "the patient has no identifier",
            code="adt-no-identifier",
            next_step="Give the patient an identifier on the platform, then retry.",
        )
    return patient_id


def _cx(patient: Patient, authority: AssigningAuthority, settings: AdtSettings) -> str:
    parts = (authority.namespace, authority.universal_id, authority.universal_id_type)
    hd = "&".join(escape(part) for part in parts).rstrip("&")
    return f"{escape(_patient_id(patient))}^^^{hd}^{escape(settings.identifier_type)}"


def _xpn(name: str) -> str:
    """Turn a DICOM PN into an XPN.

    The suffix stands before the prefix in HL7. The groups of a PN (PS3.5 6.2.1) become repetitions that say which they
    are (XPN-8) where there is more than the alphabetic one.
    """
    groups = name.split("=")
    if len(groups) > 3:
        raise _bad_name("more than three groups")
    named = [
        (code, components) for code, group in zip("AIP", groups, strict=False) if (components := _components(group))
    ]
    is_plain = [code for code, _ in named] == ["A"]
    repetitions = []
    for code, (family, given, middle, prefix, suffix) in named:
        leaves = [escape(leaf) for leaf in (family, given, middle, suffix, prefix)]
        if not is_plain:
            leaves += ["", "", code]
        repetitions.append("^".join(leaves).rstrip("^"))
    return "~".join(repetitions)


def _components(group: str) -> list[str]:
    """The five components of a PN group; empty if all are."""
    components = [component.strip(" ") for component in group.split("^")]
    while components and not components[-1]:
        components.pop()
    if len(components) > 5:
        raise _bad_name("more than five components")
    return components + [""] * (5 - len(components)) if components else []


def _bad_name(problem: str) -> InvalidInput:
    return InvalidInput(
        f"the patient's name has {problem}",
        code="adt-bad-name",
        next_step="Correct the name on the platform (DICOM PN: family^given^middle^prefix^suffix), then retry.",
    )


def _day(day: date) -> str:
    return f"{day.year:04}{day.month:02}{day.day:02}"


def _moment(moment: datetime) -> str:
    """A time stamp with its offset; without one the receiver would assume its own zone."""
    offset = moment.utcoffset()
    if offset is None:
        raise InvalidInput("a time without time zone can't be sent")
    if offset % timedelta(minutes=1):  # HL7 has no offset with seconds, as some zones had before 1972
        moment = moment.astimezone(UTC)
    return f"{moment.year:04}{moment:%m%d%H%M%S%z}"


def _stripped(value: str | None) -> str:
    return (value or "").strip()


def _refuse_control_characters(value: str, what: str) -> None:
    if has_control_characters(value):
        raise InvalidInput(
            f"{what} holds control characters",
            code="adt-control-characters",
            next_step="Correct it on the platform, then retry.",
        )


# -- validation ------------------------------------------------------------------------------------------------------


def validate(message: bytes) -> None:
    """Check a finished message, before it leaves, against our own rules and hl7apy's strict tables (some 10 ms).

    Raises:
        InvalidInput: ``hl7-invalid-message``; all that is wrong, by field and without values.
    """
    text = decode_text(message)
    segments = parse_segments(text)
    problems = _problems(text, segments)
    if not problems:
        problems = _hl7apy_problems(text)
    if problems:
        raise InvalidInput(
            f"the ADT message is not valid: {'; '.join(problems)}",
            code="hl7-invalid-message",
            next_step="Correct the value named on the platform or in the destination's settings, then retry.",
        )


def _problems(text: str, segments: list[Segment]) -> list[str]:
    """What hl7apy lets pass: order and number of segments, our required fields, and what fields hold."""
    if not text.startswith(_HEADER + "|") or not text.endswith(SEGMENT_END):
        return ["it does not begin with MSH and our delimiters, or does not end with CR"]
    if has_control_characters(text.replace(SEGMENT_END, "")):
        return ["it holds control characters"]
    msh = segments[0]
    trigger = msh.component(9, 2)
    if [segment.name for segment in segments] != _SEGMENTS.get(trigger):
        return [f"MSH-9 and the segments {' '.join(segment.name[:3] for segment in segments)} do not go together"]
    by_name = {segment.name: segment for segment in segments}
    evn, pid = by_name["EVN"], by_name["PID"]
    required = [(msh, number) for number in (3, 4, 5, 6, 7, 9, 10, 11, 12)] + [(evn, 2), (pid, 3), (pid, 5)]
    problems = [f"{segment.name}-{number} is empty" for segment, number in required if not segment.field(number)]
    if len(msh.field(10)) > 20:
        problems.append("MSH-10 is longer than 20 characters")
    if msh.component(9, 3) != _structure(trigger, msh.field(12)):
        problems.append("MSH-9.3 is not the structure of this trigger")
    moments = [(msh, 7), (evn, 2)] + ([(evn, 6)] if evn.field(6) else [])
    problems += [
        f"{segment.name}-{number} is no time with offset"
        for segment, number in moments
        if segment.field(number) and not _MOMENT.fullmatch(segment.field(number))
    ]
    if pid.field(8) and pid.field(8) not in _TABLE_0001:
        problems.append("PID-8 is not in table 0001")
    identifiers = [(pid, 3)] + ([(by_name["MRG"], 1)] if trigger in _MERGES else [])
    for segment, number in identifiers:
        if not segment.component(number, 1) or not segment.component(number, 4):
            problems.append(f"{segment.name}-{number} lacks the identifier or its assigning authority")
        if len(segment.repetitions(number)) > 1:
            problems.append(f"{segment.name}-{number} names more than one identifier")
    if trigger in _MERGES:
        new, old = (segment.field(number).split("^") for segment, number in identifiers)
        if new[0] == old[0]:
            problems.append("PID-3 and MRG-1 name the same identifier")
        if new[3:4] != old[3:4]:
            problems.append("PID-3 and MRG-1 have different assigning authorities")
    return problems


def _hl7apy_problems(text: str) -> list[str]:
    from hl7apy.consts import VALIDATION_LEVEL
    from hl7apy.exceptions import HL7apyException
    from hl7apy.parser import parse_message

    # The null is legal in every field; hl7apy takes it for a value and finds it no date.
    text = re.sub(r'\|""(?=[|\r])', "|", text)
    try:
        parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()
    except (HL7apyException, ValueError) as exc:
        # Its messages quote values, which are patient data.
        return [f"hl7apy's tables do not allow it ({type(exc).__name__})"]
    return []
