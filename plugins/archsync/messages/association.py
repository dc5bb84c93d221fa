"""What the end of an association means: refusals (A-ASSOCIATE-RJ) and aborts, as errors of our tree.

Codes are those of PS3.8 9.3.4 (Table 9-21) and 9.3.8 (Table 9-26).
"""

from __future__ import annotations

from dataclasses import dataclass

from archsync.errors import ArchsyncError, DestinationMisconfigured, PeerUnavailable


@dataclass(frozen=True, slots=True)
class _Refusal:
    """One (source, reason) of A-ASSOCIATE-RJ; ``lasting``: a later try would meet the same answer."""

    lasting: bool
    code: str
    message: str
    next_step: str | None = None


_CALLED = "Compare the destination's called AE title with the one configured at the archive."
_CALLING = "Register our calling AE title (and this machine's address) at the archive, or correct it here."

_REFUSALS: dict[tuple[int, int], _Refusal] = {
    # source 1: DICOM UL service-user
    (1, 1): _Refusal(
        False,
        "association-rejected",
        "the archive refused the association and gave no reason",
        "Read the archive's log: many archives answer so to an AE title or address they don't know.",
    ),
    (1, 2): _Refusal(True, "application-context", "the archive does not know the DICOM application context"),
    (1, 3): _Refusal(
        True, "calling-ae-title-refused", "the archive does not accept our calling AE title {calling!r}", _CALLING
    ),
    (1, 7): _Refusal(
        True, "called-ae-title-unknown", "the archive does not know the called AE title {called!r}", _CALLED
    ),
    # source 2: DICOM UL service-provider, ACSE
    (2, 1): _Refusal(True, "association-rejected", "the archive's network layer refused the association"),
    (2, 2): _Refusal(True, "protocol-version", "the archive does not support the DICOM upper layer protocol version 1"),
    # source 3: DICOM UL service-provider, presentation; these two pass, whatever the result field says
    (3, 1): _Refusal(False, "peer-congested", "the archive is congested"),
    (3, 2): _Refusal(False, "association-limit", "the archive has reached its limit of associations"),
}
_UNLISTED = _Refusal(False, "association-rejected", "the archive refused the association for a reason unknown to DICOM")

_TRANSIENT = 2


def rejection_error(
    result: int, source: int, reason: int, *, called_ae_title: str, calling_ae_title: str
) -> ArchsyncError:
    """The error to raise for an A-ASSOCIATE-RJ.

    Rejected-transient (result 2) and congestion come back as :class:`PeerUnavailable`; so does a refusal without a
    reason, which some archives give while they start: the destination's maximum of attempts ends it.
    """
    refusal = _REFUSALS.get((source, reason), _UNLISTED)
    sentence = refusal.message.format(called=called_ae_title, calling=calling_ae_title)
    kind = "transient" if result == _TRANSIENT else "permanent"
    message = f"{sentence} (association rejected, {kind}: result {result}, source {source}, reason {reason})"
    message = message[0].upper() + message[1:]
    if refusal.lasting and result != _TRANSIENT:
        return DestinationMisconfigured(message, code=refusal.code, next_step=refusal.next_step)
    return PeerUnavailable(message, reached_peer=True, code=refusal.code, next_step=refusal.next_step)


_PROVIDER_ABORTS = {
    0: "no reason",
    1: "it did not recognize a PDU of ours",
    2: "it did not expect a PDU of ours",
    4: "it did not recognize a parameter of a PDU",
    5: "it did not expect a parameter of a PDU",
    6: "it found an invalid value in a PDU",
}


def describe_abort(source: int, reason: int) -> str:
    """Say in words what an A-ABORT PDU tells: who aborted (0 the application, 2 its network layer), and why."""
    if source == 0:
        return "the archive's application aborted the association"
    return f"the archive's network layer aborted the association ({_PROVIDER_ABORTS.get(reason, 'unknown reason')})"


def negotiation_abort_error(source: int, reason: int) -> ArchsyncError:
    """The error for an A-ABORT in place of an answer to our association request; nothing was sent yet."""
    sentence = describe_abort(source, reason)
    return PeerUnavailable(
        f"{sentence[0].upper()}{sentence[1:]} instead of accepting it", reached_peer=True, code="association-aborted"
    )
