"""What an HL7 receiver expects of our ADT messages: the closed sets, and the settings of one receiver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from archsync.core.settings import between, check_filled, setting, setting_fields
from archsync.core.tls import TlsSettings
from archsync.errors import ConfigurationError


class Hl7Version(StrEnum):
    """MSH-12. 2.3.1 follows RAD-12 and ITI-8, the later two ITI-30 and ITI-31 (PAM)."""

    V2_3_1 = "2.3.1"
    V2_5 = "2.5"
    V2_5_1 = "2.5.1"


class CharacterSet(StrEnum):
    """HL7 table 0211 by the names that stand in MSH-18; ASCII is the default and is not written there."""

    ASCII = "ASCII"
    LATIN_1 = "8859/1"
    LATIN_2 = "8859/2"
    CYRILLIC = "8859/5"
    GREEK = "8859/7"
    LATIN_5 = "8859/9"
    LATIN_9 = "8859/15"
    JAPANESE = "ISO IR87"
    UTF_8 = "UNICODE UTF-8"


class UpdateTrigger(StrEnum):
    """The message that carries changed demographics."""

    A08 = "A08"
    """Update patient information (RAD-12, ITI-8, ITI-31)."""
    A31 = "A31"
    """Update person information (ITI-30): no encounter."""


class MergeTrigger(StrEnum):
    """The message that says an identifier gave way to another."""

    A40 = "A40"
    """Merge patient: right whether or not the receiver knows the surviving identifier."""
    A47 = "A47"
    """Change patient identifier list: the receiver must refuse it where the new identifier is in use."""


class PriorIdentifier(StrEnum):
    """What an archive does with an identifier that gave way."""

    KEPT = "kept"
    """What comes under it later goes to the patient who stayed: nobody else may be sent under it."""
    FREED = "freed"
    """It forgets it: whoever comes under it next is somebody else."""


class ProcessingId(StrEnum):
    """MSH-11."""

    PRODUCTION = "P"
    TRAINING = "T"
    DEBUGGING = "D"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdtSettings:
    """How one receiver wants its ADT messages."""

    receiving_application: str = setting(
        "Name of the receiver's application (MSH-5).", example="VNA", check=check_filled
    )
    receiving_facility: str | None = setting(
        "Name of the receiver's facility (MSH-6) where the patient's facility has none on the platform.", default=None
    )
    sending_application: str = setting("Our name as an application (MSH-3).", default="ARCHSYNC", check=check_filled)
    sending_facility: str | None = setting(
        "Our name as a facility (MSH-4); without one, the id of the patient's facility.", default=None
    )
    version: Hl7Version = setting("HL7 version of the messages.", default=Hl7Version.V2_5_1)
    character_set: CharacterSet = setting(
        "Character set of the messages; a name that it can't hold fails the job.", default=CharacterSet.UTF_8
    )
    update_trigger: UpdateTrigger = setting("Message for changed demographics.", default=UpdateTrigger.A08)
    merge_trigger: MergeTrigger = setting("Message for a changed identifier.", default=MergeTrigger.A40)
    prior_identifier: PriorIdentifier = setting(
        "Identifiers that gave way: kept by the archive for the patient who stayed, or freed for others.",
        default=PriorIdentifier.KEPT,
    )
    processing_id: ProcessingId = setting("Processing id (MSH-11).", default=ProcessingId.PRODUCTION)
    patient_class: str = setting(
        "Patient class (PV1-2); old receivers may want O or U.", default="N", check=check_filled
    )
    identifier_type: str = setting(
        "Type of the patient identifiers (CX-5), MR or PI mostly.", default="MR", check=check_filled
    )
    wants_commit_ack: bool = setting(
        "Ask for enhanced mode: a commit acknowledgement (CA) instead of an application's (AA).", default=False
    )
    ack_timeout_s: float = setting(
        "Longest wait for the answer to one message.", default=30.0, unit="s", check=between(0.1, 3_600)
    )
    ack_overrides: tuple[str, ...] = setting(
        "Answers that this receiver means differently from the standard.", default=(), example="AE=busy,204=accepted"
    )

    def __post_init__(self) -> None:
        for name, field in setting_fields(AdtSettings).items():
            check, value = field.metadata["check"], getattr(self, name)
            if check and (problem := check(value)):
                raise ConfigurationError(f"{name}: {problem}", code="bad-setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdtEndpoint:
    """Where one receiver takes ADT messages, and how it wants them; ``concurrency`` counts connections at a time."""

    host: str
    port: int
    settings: AdtSettings
    tls: TlsSettings | None = None
    connect_timeout_s: float = 10.0
    idle_close_s: float = 60.0
    concurrency: int = 2
