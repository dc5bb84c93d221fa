"""A destination: an external archive, how it is reached, and when and how studies go there.

The dataclass below is the one description of a destination's settings: the ledger's columns, the CLI, the YAML file
and ``docs/destination.md`` are derived from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from archsync.core.adt import (
    AdtEndpoint,
    AdtSettings,
    CharacterSet,
    Hl7Version,
    MergeTrigger,
    PriorIdentifier,
    ProcessingId,
    UpdateTrigger,
)
from archsync.core.destination_iocm import IocmSettings, NoteOrder, WithoutIocm, check_titles
from archsync.core.profiles import PROFILES, ArchiveProfile
from archsync.core.rejection import MAX_REFERENCES, RejectionTitle, TitleModifier, parse_titles
from archsync.core.settings import as_one, between, check_filled, same_as, setting, setting_fields, wrong_setting
from archsync.core.study import ExamStatus, Facility
from archsync.core.tls import TlsSettings

# A name becomes part of DAG ids, pool names and asset names.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# /destinations/schema describes the settings.
_RESERVED_NAME = "schema"
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Verification(StrEnum):
    """How the archive is asked, after sending, whether it holds the instances."""

    NONE = "none"
    C_FIND = "c-find"


def check_name(name: str) -> str | None:
    """Say what is wrong with the name of a destination or gateway, or None."""
    if name == _RESERVED_NAME:
        return "is the address of something else in the API; choose another"
    if _NAME.fullmatch(name):
        return None
    return "must be 1 to 40 lower-case letters, digits or underscores, starting with a letter"


def check_ae_title(title: str) -> str | None:
    """Say what is wrong with an AE title, or None (PS3.5 6.2: at most 16 characters, no backslash or control)."""
    if not title.strip():
        return "must not be empty"
    if len(title) > 16:
        return f"an AE title has at most 16 characters, this one has {len(title)}"
    if not title.isascii() or not title.isprintable() or "\\" in title:
        return "an AE title takes printable ASCII without backslash"
    return None


def _check_window(window: str) -> str | None:
    return None if _WINDOW.fullmatch(window) else "must look like 22:00-06:00"


def _check_time_zone(name: str) -> str | None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return "is not a known time zone; use a name such as Europe/Berlin"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An archive that studies are sent to. Times are in seconds; sizes in bytes."""

    name: str = setting("Short name; part of DAG ids, pool and listings.", example="vna1", check=check_name)
    called_ae_title: str = setting("The archive's AE title.", example="VNA1", check=check_ae_title)
    host: str = setting("Host name or address of the archive.", example="vna1.hospital.example", check=check_filled)
    port: int = setting("TCP port of the archive.", example="11112", check=between(1, 65535))
    calling_ae_title: str = setting("The AE title we present.", default="ARCHSYNC", check=check_ae_title)
    gateway: str | None = setting(
        "Gateway the traffic leaves through; empty: from where Airflow runs.", default=None, example="north_1"
    )
    enabled: bool = setting("Off: nothing is sent, jobs wait.", default=True)
    trigger_status: ExamStatus = setting("The exam status from which a study is sent.", default=ExamStatus.COMPLETED)
    facilities: tuple[str, ...] = setting(
        "Facility ids in scope; with facility_groups empty too: all.", default=(), example="CITY,NORTH"
    )
    facility_groups: tuple[str, ...] = setting("Facility groups in scope.", default=(), example="north")
    max_attempts: int = setting("Attempts that reach the archive before a job fails.", default=8, check=between(1, 100))
    retry_delay_s: float = setting("Wait before the second attempt.", default=30.0, unit="s", check=between(0, 86_400))
    retry_multiplier: float = setting(
        "Each further wait is this many times the last.", default=2.0, check=between(1, 10)
    )
    retry_cap_s: float = setting(
        "Longest wait between two attempts.", default=3_600.0, unit="s", check=between(1, 604_800)
    )
    retry_jitter: float = setting("Random share added to or taken from each wait.", default=0.1, check=between(0, 0.9))
    give_up_after_s: float = setting(
        "Age at which a job that keeps failing is given up.", default=259_200.0, unit="s", check=between(1, 31_536_000)
    )
    settle_s: float = setting(
        "Quiet time after the last new image before a study is sent.", default=30.0, unit="s", check=between(0, 86_400)
    )
    settle_max_s: float = setting(
        "Longest wait for quiet while images keep arriving.", default=600.0, unit="s", check=between(0, 604_800)
    )
    send_window: str | None = setting(
        "Time of day when images and rejection notes are sent; empty: always. ADT is sent at any time.",
        default=None,
        example="22:00-06:00",
        check=_check_window,
    )
    time_zone: str = setting(
        "Time zone of the send window.", default="UTC", example="Europe/Berlin", check=_check_time_zone
    )
    concurrency: int = setting(
        "Jobs that run at the same time (slots of the pool), and associations of all of them together.",
        default=2,
        check=between(1, 128),
    )
    max_bytes_per_s: int | None = setting(
        "Most that all jobs together send in a second; empty: no limit.",
        default=None,
        unit="bytes/s",
        example="12500000",
        check=between(100_000, 100_000_000_000),
    )
    verification: Verification = setting("How stored instances are checked: none or c-find.", default=Verification.NONE)
    connect_timeout_s: float = setting(
        "Longest wait for the TCP and TLS connection.", default=10.0, unit="s", check=between(0.1, 300)
    )
    acse_timeout_s: float = setting(
        "Longest wait for the answer to an association request.", default=30.0, unit="s", check=between(0.1, 600)
    )
    dimse_timeout_s: float = setting(
        "Longest wait for the answer to one stored instance.", default=60.0, unit="s", check=between(0.1, 3_600)
    )
    network_timeout_s: float = setting(
        "Longest silence on an open association.", default=60.0, unit="s", check=between(0.1, 3_600)
    )
    breaker_threshold: int = setting(
        "Failed connections in a row that mark the destination down.", default=3, check=between(1, 100)
    )
    probe_delay_s: float = setting(
        "First wait before a destination that is down is probed again.",
        default=10.0,
        unit="s",
        check=between(0.1, 3_600),
    )
    probe_cap_s: float = setting(
        "Longest wait between two probes.", default=300.0, unit="s", check=between(0.1, 86_400)
    )
    tls: bool = setting("Use TLS (DICOM BCP 195 profile).", default=False)
    tls_ca_file: str | None = setting(
        "PEM file of the authorities trusted for the archive's certificate.", default=None
    )
    tls_certificate_file: str | None = setting("PEM file of our certificate.", default=None)
    tls_private_key_file: str | None = setting("PEM file of our private key.", default=None)
    tls_check_hostname: bool = setting("Require the archive's certificate to name its host.", default=True)
    # Rejection notes
    profile: ArchiveProfile = setting("What kind of archive it is.", default=ArchiveProfile.GENERIC)
    supports_iocm: bool | None = setting(
        "Whether it hides what a rejection note names; empty: as the profile says.", default=None
    )
    without_iocm: WithoutIocm = setting(
        "Withdrawals where it doesn't: suppress the job, or fail it for an operator.", default=WithoutIocm.SUPPRESS
    )
    rejection_titles: tuple[str, ...] = setting(
        "Titles of notes that differ from the usual ones, as reason=code or reason=none.",
        default=(),
        example="retention_expired=113039,unspecified=none",
        check=check_titles,
    )
    quality_modifier: TitleModifier | None = setting(
        "Why quality was bad (CID 7011), said in notes of title 113001.", default=None, example="111210"
    )
    note_order: NoteOrder = setting("When a note goes before the corrected copies.", default=NoteOrder.SAFETY_FIRST)
    max_note_references: int = setting(
        "Most instances that one note names.", default=MAX_REFERENCES, check=between(1, 50_000)
    )
    # ADT messages
    adt_host: str | None = setting(
        "Host name or address that takes ADT messages; empty: none are sent.",
        default=None,
        example="vna1.hospital.example",
    )
    adt_port: int = setting("TCP port of the ADT receiver (MLLP).", default=2575, check=between(1, 65535))
    adt_concurrency: int = setting("ADT jobs that run at the same time.", default=2, check=between(1, 128))
    adt_connect_timeout_s: float = setting(
        "Longest wait for the TCP and TLS connection.", default=10.0, unit="s", check=between(0.1, 300)
    )
    adt_idle_close_s: float = setting(
        "Idle time after which a connection is not used again.", default=60.0, unit="s", check=between(0.1, 86_400)
    )
    adt_tls: bool = setting("Use TLS for ADT messages.", default=False)
    adt_tls_ca_file: str | None = setting(
        "PEM file of the authorities trusted for the receiver's certificate.", default=None
    )
    adt_tls_certificate_file: str | None = setting("PEM file of our certificate.", default=None)
    adt_tls_private_key_file: str | None = setting("PEM file of our private key.", default=None)
    adt_tls_check_hostname: bool = setting("Require the receiver's certificate to name its host.", default=True)
    # How the receiver wants its messages: one field, prefixed, for each of AdtSettings.
    adt_receiving_application: str | None = same_as(AdtSettings, "receiving_application", default=None)
    adt_receiving_facility: str | None = same_as(AdtSettings, "receiving_facility")
    adt_sending_application: str = same_as(AdtSettings, "sending_application")
    adt_sending_facility: str | None = same_as(AdtSettings, "sending_facility")
    adt_version: Hl7Version = same_as(AdtSettings, "version")
    adt_character_set: CharacterSet = same_as(AdtSettings, "character_set")
    adt_update_trigger: UpdateTrigger = same_as(AdtSettings, "update_trigger")
    adt_merge_trigger: MergeTrigger = same_as(AdtSettings, "merge_trigger")
    adt_prior_identifier: PriorIdentifier = same_as(AdtSettings, "prior_identifier")
    adt_processing_id: ProcessingId = same_as(AdtSettings, "processing_id")
    adt_patient_class: str = same_as(AdtSettings, "patient_class")
    adt_identifier_type: str = same_as(AdtSettings, "identifier_type")
    adt_wants_commit_ack: bool = same_as(AdtSettings, "wants_commit_ack")
    adt_ack_timeout_s: float = same_as(AdtSettings, "ack_timeout_s")
    adt_ack_overrides: tuple[str, ...] = same_as(AdtSettings, "ack_overrides")
    destination_id: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.settle_max_s < self.settle_s:
            problems.append(wrong_setting("settle_max_s", "must not be shorter than settle_s"))
        if bool(self.tls_certificate_file) != bool(self.tls_private_key_file):
            both = wrong_setting("tls_certificate_file", "give both or neither", "tls_private_key_file")
            problems.append(both)
        if bool(self.adt_tls_certificate_file) != bool(self.adt_tls_private_key_file):
            both = wrong_setting("adt_tls_certificate_file", "give both or neither", "adt_tls_private_key_file")
            problems.append(both)
        if self.quality_modifier and RejectionTitle.QUALITY not in parse_titles(self.rejection_titles).values():
            unused = "rejection_titles has no reason with title 113001, which it goes with"
            problems.append(wrong_setting("quality_modifier", unused))
        if self.adt_host and not self.adt_receiving_application:
            problems.append(wrong_setting("adt_receiving_application", "needed where adt_host is given"))
        if problems:
            raise as_one(problems)

    @property
    def dicom_tls(self) -> TlsSettings | None:
        """TLS with the archive; None without."""
        if not self.tls:
            return None
        return TlsSettings(
            self.tls_ca_file, self.tls_certificate_file, self.tls_private_key_file, self.tls_check_hostname
        )

    @property
    def iocm(self) -> IocmSettings:
        """How the archive takes rejection notes: what is set here, else what its profile says."""
        known = PROFILES[self.profile]
        return IocmSettings(
            profile=self.profile,
            supports_iocm=known.supports_iocm if self.supports_iocm is None else self.supports_iocm,
            without_iocm=self.without_iocm,
            titles=parse_titles(self.rejection_titles),
            note_order=self.note_order,
            max_note_references=self.max_note_references,
            quality_modifier=self.quality_modifier,
        )

    @property
    def adt(self) -> AdtEndpoint | None:
        """Where and how ADT messages are sent; None: they are not."""
        if not self.adt_host:
            return None
        tls = TlsSettings(
            self.adt_tls_ca_file,
            self.adt_tls_certificate_file,
            self.adt_tls_private_key_file,
            self.adt_tls_check_hostname,
        )
        return AdtEndpoint(
            host=self.adt_host,
            port=self.adt_port,
            settings=AdtSettings(**{name: getattr(self, f"adt_{name}") for name in setting_fields(AdtSettings)}),
            tls=tls if self.adt_tls else None,
            connect_timeout_s=self.adt_connect_timeout_s,
            idle_close_s=self.adt_idle_close_s,
            concurrency=self.adt_concurrency,
        )

    def covers(self, facility: Facility) -> bool:
        """Tell whether a facility is in scope: named, in a named group, or nothing is named."""
        if not self.facilities and not self.facility_groups:
            return True
        return facility.facility_id in self.facilities or facility.facility_group in self.facility_groups

    def next_opening(self, now: datetime) -> datetime:
        """The moment from ``now`` on at which sending is allowed: ``now`` itself while the send window is open."""
        if self.send_window is None:
            return now
        match = _WINDOW.fullmatch(self.send_window)
        assert match is not None, "checked when the destination was made"
        start = time(int(match[1]), int(match[2]))
        end = time(int(match[3]), int(match[4]))
        local = now.astimezone(ZoneInfo(self.time_zone))
        clock = local.time()
        is_open = start <= clock < end if start < end else (clock >= start or clock < end)
        if is_open or start == end:
            return now
        opening = local.replace(hour=start.hour, minute=start.minute, second=0, microsecond=0)
        if opening <= local:
            opening += timedelta(days=1)
        return opening


SETTING_GROUPS = {
    "Archive": "name",
    "What is sent": "trigger_status",
    "Retries": "max_attempts",
    "When it is sent": "settle_s",
    "How much at a time, and checking": "concurrency",
    "Time-outs and outages": "connect_timeout_s",
    "TLS": "tls",
    "Rejection notes": "profile",
    "ADT messages": "adt_host",
}
"""How forms group the settings: title → the setting with which the group begins."""
