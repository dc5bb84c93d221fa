"""HL7 acknowledgements: read whatever comes, and say what follows from it.

The answer's error code (ERR-3, table 0357) counts before its acknowledgement code (MSA-1), for senders of AE and AR do
not agree: IHE lets AR be repeated and AE not, while dcm4che makes AE of every 1xx code and AR of all others. Texts of
the peer (MSA-3, ERR-7, ERR-8) may quote patients; they are not even read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    DestinationMisconfigured,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
)
from archsync.messages.hl7_text import Segment, parse_segments

ACK_CODES = ("AA", "AE", "AR", "CA", "CE", "CR")
"""Table 0008: the application's answer, and the commit answers of enhanced mode."""

_POSITIVE = ("AA", "CA")
_NEGATIVE = ("AE", "AR", "CE", "CR")
_WARNINGS = ("W", "I")


@dataclass(frozen=True, slots=True)
class AckError:
    """One ERR: where (``PID-3``, empty if not said), the code of table 0357 (empty), severity (ERR-4, empty)."""

    location: str = ""
    code: str = ""
    severity: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement: MSA-1, MSA-2 and its errors."""

    code: str
    control_id: str
    errors: tuple[AckError, ...] = ()

    @property
    def error(self) -> AckError:
        """The error that counts: the first that is no warning; an empty one if there is none."""
        return next((e for e in self.errors if e.severity not in _WARNINGS and e.code not in ("", "0")), self._located)

    @property
    def _located(self) -> AckError:
        return next((e for e in self.errors if e.severity not in _WARNINGS and e.code != "0"), AckError())

    @property
    def is_positive(self) -> bool:
        """AA or CA, and no ERR that calls itself an error (ERR-4 is E or F)."""
        return self.code in _POSITIVE and not any(e.severity in ("E", "F") for e in self.errors)


@dataclass(frozen=True, slots=True)
class MessageHeader:
    """What the sender needs to know of its own message: MSH-10 and the trigger (MSH-9.2)."""

    control_id: str
    trigger: str


def read_header(message: bytes) -> MessageHeader:
    """Read the header of a message of ours; empty values where it has none."""
    segments = parse_segments(message.split(b"\r", 1)[0].decode("latin-1"))
    return MessageHeader(segments[0].field(10), segments[0].component(9, 2)) if segments else MessageHeader("", "")


def parse_ack(data: bytes) -> Ack:
    """Read an acknowledgement of any version and in any character set.

    Raises:
        OutcomeUnknown: ``hl7-invalid-ack``: it has no MSH, no MSA or a code that table 0008 does not know.
    """
    # What is read of it is ASCII in any set that peers use; latin-1 takes all other bytes as they come.
    segments = parse_segments(data.decode("latin-1"))
    msa = next((segment for segment in segments if segment.name == "MSA"), None)
    code = msa.field(1).strip().upper() if msa else ""
    if msa is None or code not in ACK_CODES:
        raise OutcomeUnknown("the receiver's answer is not an acknowledgement", code="hl7-invalid-ack")
    errors = [error for segment in segments if segment.name == "ERR" for error in _read_err(segment)]
    if not any(error.code for error in errors) and (stated := _error_code(msa.component(6, 1))):
        errors.append(AckError(code=stated))  # MSA-6, before ERR could say it
    return Ack(code, msa.component(2, 1).strip(), tuple(errors))


def _read_err(segment: Segment) -> list[AckError]:
    if segment.field(2) or segment.field(3):  # 2.5 and newer
        return [
            AckError(
                _location(segment.component(2, 1), segment.component(2, 3)),
                _error_code(segment.component(3, 1)),
                severity if (severity := segment.field(4).strip().upper()) in ("E", "F", *_WARNINGS) else "",
            )
        ]
    # to 2.4: segment, sequence, field and code (a CE as subcomponents) in each repetition of ERR-1
    errors = []
    for repetition in segment.repetitions(1):
        parts = [part.strip() for part in repetition.split(segment.delimiters[1])]
        name, _, number, code = (*parts, "", "", "", "")[:4]
        errors.append(AckError(_location(name, number), _error_code(code.split(segment.delimiters[4])[0])))
    return [error for error in errors if error != AckError()]


def _error_code(text: str) -> str:
    """A code of table 0357; empty for anything that is no number, which may be a text about a patient."""
    return text.strip() if re.fullmatch(r"\s*[0-9]{1,5}\s*", text) else ""


def _location(segment: str, number: str) -> str:
    """``PID-3``; empty for anything that is no name of a segment."""
    segment, number = segment.strip().upper(), number.strip()
    if not re.fullmatch(r"[A-Z][A-Z0-9]{2}", segment):
        return ""
    return f"{segment}-{number}" if re.fullmatch(r"[0-9]{1,2}", number) else segment


# -- what follows ----------------------------------------------------------------------------------------------------


class AckResult(StrEnum):
    """What follows from an acknowledgement."""

    ACCEPTED = "accepted"
    """The receiver applied the message, or holds it safely (CA)."""
    REFUSED = "refused"
    """Permanent: the same message would be refused again."""
    STOP = "stop"
    """Permanent, and every other message would be refused too."""
    BUSY = "busy"
    """Transient: the same message may be accepted later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AckRule:
    """One row: which answers it is about (None: any), and what follows. ``clause`` is where it comes from.

    ``after_unanswered`` asks for an earlier attempt with the same bytes that got no valid answer, and
    ``merge_pending`` for an A40 of the same patient that is still to be sent.
    """

    result: AckResult
    code: str
    message: str
    next_step: str
    clause: str
    ack_codes: tuple[str, ...] | None = _NEGATIVE
    error_codes: tuple[str, ...] | None = None
    triggers: tuple[str, ...] | None = None
    segment: str | None = None
    after_unanswered: bool = False
    merge_pending: bool = False

    def fits(self, ack: Ack, trigger: str, *, was_unanswered: bool, merge_is_pending: bool) -> bool:
        """Tell whether the row is about this answer."""
        error = ack.error
        return (
            (self.ack_codes is None or ack.code in self.ack_codes)
            and (self.error_codes is None or error.code in self.error_codes)
            and (self.triggers is None or trigger in self.triggers)
            and (self.segment is None or error.location[:3] == self.segment)
            and (was_unanswered or not self.after_unanswered)
            and (merge_is_pending or not self.merge_pending)
        )


_TABLE_0357 = "HL7 table 0357"
_NOTHING = "Nothing to do."
_WAIT = "Nothing to do: archsync tries again by itself. If it lasts, read the receiver's log."
_READ_LOG = "Read the receiver's log for this message control id, correct the cause, then retry the job."
_SETTINGS = "Compare the destination's ADT settings (trigger, version, processing id, names) with the receiver's."
_UPDATES, _MERGES = ("A08", "A31"), ("A40", "A47")

# The first row that fits counts.
ACK_TABLE: tuple[AckRule, ...] = (
    AckRule(
        error_codes=("100", "101", "102", "103"), ack_codes=None, result=AckResult.REFUSED, code="hl7-content",
        message="The receiver finds a mistake in the content of the message.", next_step=_READ_LOG,
        clause=f"{_TABLE_0357}: segment sequence, required field, data type, table value",
    ),
    AckRule(
        error_codes=("200", "201", "202", "203"), ack_codes=None, result=AckResult.STOP, code="hl7-not-supported",
        message="The receiver does not support the message's type, trigger, processing id or version.",
        next_step=_SETTINGS, clause=_TABLE_0357,
    ),
    AckRule(
        error_codes=("204",), ack_codes=None, triggers=_UPDATES, merge_pending=True, result=AckResult.BUSY,
        code="adt-merge-first", message="The receiver does not know the patient yet: a merge has to go first.",
        next_step=_WAIT, clause="ITI TF-2 3.8.4.2",
    ),
    AckRule(
        error_codes=("204",), ack_codes=None, triggers=_MERGES, segment="MRG", after_unanswered=True,
        result=AckResult.ACCEPTED, code="adt-already-merged",
        message="The receiver had applied the merge at an earlier attempt, whose answer was lost.",
        next_step=_NOTHING, clause="as dcm4chee-arc answers a repeated A40",
    ),
    AckRule(
        error_codes=("204",), ack_codes=None, triggers=_MERGES, segment="MRG", result=AckResult.REFUSED,
        code="adt-merge-unclear",
        message="The receiver finds one of the two identifiers merged away already, by somebody else.",
        next_step="Compare both identifiers at the archive with the platform's; if they are right, cancel the job.",
        clause="as dcm4chee-arc answers",
    ),
    AckRule(
        error_codes=("204",), ack_codes=None, result=AckResult.REFUSED, code="adt-unknown-patient",
        message="The receiver does not know the patient, or does not trust the assigning authority.",
        next_step="Check the identifier and its assigning authority at the archive, then retry the job.",
        clause=_TABLE_0357,
    ),
    AckRule(
        error_codes=("205",), ack_codes=None, result=AckResult.REFUSED, code="adt-identifier-in-use",
        message="The new identifier is in use at the receiver.",
        next_step="Set adt_merge_trigger to A40 where both identifiers are one person's, then retry the job.",
        clause="ITI TF-2 3.30.6.5.4",
    ),
    AckRule(
        error_codes=("206", "207"), ack_codes=None, result=AckResult.BUSY, code="hl7-busy",
        message="The receiver can't apply the message now: the record is locked, or an internal error.",
        next_step=_WAIT, clause=_TABLE_0357,
    ),
    AckRule(
        ack_codes=("AR", "CR"), segment="MSH", result=AckResult.STOP, code="hl7-header-refused",
        message="The receiver refuses the header of our messages.", next_step=_SETTINGS, clause="ITI TF-2 C.2.3.1",
    ),
    AckRule(
        ack_codes=("AE", "CE"), result=AckResult.REFUSED, code="hl7-error",
        message="The receiver found an error in the message.", next_step=_READ_LOG, clause="ITI TF-2 C.2.3.1",
    ),
    AckRule(
        ack_codes=("AR", "CR"), result=AckResult.BUSY, code="hl7-rejected",
        message="The receiver rejected the message and gave no reason that lasts.", next_step=_WAIT,
        clause="ITI TF-2 C.2.3.1",
    ),
    AckRule(
        ack_codes=_POSITIVE, result=AckResult.REFUSED, code="hl7-contradiction",
        message="The receiver accepted the message and named an error in it.", next_step=_READ_LOG,
        clause="HL7 v2.5 2.15.5.4: ERR-4 E or F means that it was not processed",
    ),
)  # fmt: skip

_ACCEPTED = AckRule(
    ack_codes=_POSITIVE, result=AckResult.ACCEPTED, code="hl7-accepted",
    message="The receiver accepted the message.", next_step=_NOTHING, clause="HL7 table 0008",
)  # fmt: skip

_OVERRIDDEN = {
    AckResult.ACCEPTED: ("hl7-accepted", "The receiver's answer counts as accepted, by adt_ack_overrides.", _NOTHING),
    AckResult.REFUSED: ("hl7-error", "The receiver's answer counts as refused, by adt_ack_overrides.", _READ_LOG),
    AckResult.STOP: (
        "hl7-header-refused",
        "The receiver's answer stops the destination, by adt_ack_overrides.",
        _SETTINGS,
    ),
    AckResult.BUSY: ("hl7-busy", "The receiver's answer counts as busy, by adt_ack_overrides.", _WAIT),
}
_OVERRIDE = re.compile(r"(?:(AE|AR|CE|CR)|(?:(AE|AR|CE|CR)/)?([0-9]{3}))=(accepted|refused|stop|busy)")


def parse_ack_overrides(texts: Sequence[str]) -> tuple[AckRule, ...]:
    """Read the setting ``ack_overrides``: ``AE=busy`` (no or an unlisted code), ``207=refused``, ``AR/204=accepted``.

    Raises:
        ConfigurationError: ``bad-setting``: one of them is none of these.
    """
    rules = []
    for text in texts:
        match = _OVERRIDE.fullmatch(text.strip())
        if match is None:
            raise ConfigurationError(
                f"ack_overrides: {text!r} is not such as AE=busy, 207=refused or AR/204=accepted", code="bad-setting"
            )
        alone, with_code, error_code, result = match.groups()
        code, message, next_step = _OVERRIDDEN[AckResult(result)]
        ack_code = alone or with_code
        rules.append(
            AckRule(
                ack_codes=(ack_code,) if ack_code else _NEGATIVE,
                error_codes=(error_code,) if error_code else None,
                result=AckResult(result),
                code=code,
                message=message,
                next_step=next_step,
                clause="the destination's ack_overrides",
            )
        )
    # More exact ones first: with an error code, then with MSA-1 too.
    return tuple(sorted(rules, key=lambda rule: (rule.error_codes is None, rule.ack_codes == _NEGATIVE)))


def explain_ack(
    ack: Ack,
    trigger: str,
    *,
    was_unanswered: bool = False,
    merge_is_pending: bool = False,
    overrides: Sequence[AckRule] = (),
) -> AckRule:
    """Say what an answer to a message of ``trigger`` means; the first row of overrides and table that fits.

    An override without an error code steps behind the rows for listed codes: ERR-3 counts first.

    Args:
        was_unanswered: An earlier attempt with the same bytes got no valid answer.
        merge_is_pending: An A40 of the same patient is still to be sent.
        overrides: From :func:`parse_ack_overrides`.
    """
    if ack.is_positive:
        return _ACCEPTED
    by_code = [rule for rule in overrides if rule.error_codes is not None]
    listed = [rule for rule in ACK_TABLE if rule.error_codes is not None]
    by_ack = [rule for rule in overrides if rule.error_codes is None]
    unlisted = [rule for rule in ACK_TABLE if rule.error_codes is None]
    for rule in (*by_code, *listed, *by_ack, *unlisted):
        if rule.fits(ack, trigger, was_unanswered=was_unanswered, merge_is_pending=merge_is_pending):
            return rule
    raise AssertionError("the last rows fit every acknowledgement code")


def ack_error(ack: Ack, rule: AckRule, peer: str) -> ArchsyncError | None:
    """The error that an explained answer amounts to; None if it was accepted. ``peer`` names the receiver."""
    if rule.result is AckResult.ACCEPTED:
        return None
    answer = [ack.code]
    if ack.error.code:
        answer.append(f"error {ack.error.code}")
    if ack.error.location:
        answer.append(f"at {ack.error.location}")
    message = f"{peer}: {rule.message} (answer {' '.join(answer)})"
    if rule.result is AckResult.BUSY:
        return PeerUnavailable(message, reached_peer=True, code=rule.code, next_step=rule.next_step)
    kind = DestinationMisconfigured if rule.result is AckResult.STOP else PeerRefused
    return kind(message, code=rule.code, next_step=rule.next_step)
