"""How a simulated ADT receiver behaves: values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Hangup(StrEnum):
    """When the receiver closes the connection of its own accord."""

    NEVER = "never"
    BEFORE_ACK = "before_ack"
    DURING_ACK = "during_ack"
    AFTER_ACK = "after_ack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one message is answered. The default: apply it, and answer what came of it."""

    ack_code: str | None = None
    """Answer this MSA-1 instead (AA, AE, AR, CA, CE, CR)."""
    error_code: str | None = None
    """With this ERR-3."""
    error_location: str = ""
    """With this ERR-2, such as ``PID^1^3``."""
    severity: str = "E"
    is_applied: bool | None = None
    """Whether the registry takes the message; None: unless ``ack_code`` is negative."""
    delay_s: float = 0.0
    pieces: int = 1
    """Send the answer in so many pieces, ``piece_delay_s`` apart."""
    piece_delay_s: float = 0.0
    is_missing: bool = False
    """Say nothing, and keep the connection open."""
    hangup: Hangup = Hangup.NEVER
    control_id: str | None = None
    """Another MSA-2 than the message's MSH-10."""
    noise: bytes = b""
    """Bytes before the frame of the answer."""
    text: str = ""
    """MSA-3 and ERR-8."""
    encoding: str = "utf-8"
    """Codec of the answer, whatever the message's was."""
    has_message_structure: bool = True
    """MSH-9 is ``ACK^A08^ACK``, else only ``ACK``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdtScript:
    """How the receiver behaves: ``replies`` are for the next messages in order, ``otherwise`` for those after."""

    replies: tuple[Reply, ...] = ()
    otherwise: Reply = field(default_factory=Reply)
    idle_close_s: float | None = None
    """Close a connection on which nothing came for so long."""
    is_enhanced: bool = False
    """Answer a commit acknowledgement first and the application's after it."""
    creates_patients: bool = False
    """Create a patient that an A08 or A31 names and nobody knows, instead of 204."""
    refuses_unknown_merges: bool = False
    """Refuse an A40 or A47 whose old identifier nobody knows (204), instead of remembering it as merged."""
