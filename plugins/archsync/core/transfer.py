"""The vocabulary of sending: where to, what, and what came of each instance. The engines in ``net`` speak it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from archsync.core.destination import Destination
from archsync.core.fitting import Fitting
from archsync.core.profiles import ArchiveProfile
from archsync.core.tls import TlsSettings

MAX_ASSOCIATIONS = 8
"""More at a time for one job than this were never faster where we measured."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A DICOM peer, the time-outs to honour, in seconds, and how its statuses are to be read."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str = "ARCHSYNC"
    connect_timeout_s: float = 10.0
    acse_timeout_s: float = 30.0
    dimse_timeout_s: float = 60.0
    network_timeout_s: float = 60.0
    tls: TlsSettings | None = None
    profile: ArchiveProfile = ArchiveProfile.GENERIC

    @classmethod
    def of(cls, destination: Destination) -> Endpoint:
        """The endpoint that a destination's settings describe."""
        return cls(
            host=destination.host,
            port=destination.port,
            called_ae_title=destination.called_ae_title,
            calling_ae_title=destination.calling_ae_title,
            connect_timeout_s=destination.connect_timeout_s,
            acse_timeout_s=destination.acse_timeout_s,
            dimse_timeout_s=destination.dimse_timeout_s,
            network_timeout_s=destination.network_timeout_s,
            tls=destination.dicom_tls,
            profile=destination.profile,
        )


@dataclass(frozen=True, slots=True)
class Share:
    """What one job may take of its destination: associations at a time, and bytes per second over all of them.

    ``bytes_per_s`` None: as fast as it goes.
    """

    associations: int = 1
    bytes_per_s: float | None = None

    @classmethod
    def of(cls, destination: Destination, *, running_jobs: int) -> Share:
        """An equal part of what the destination allows to all of its running jobs together."""
        jobs = max(1, running_jobs)
        limit = destination.max_bytes_per_s
        return cls(
            associations=min(max(1, destination.concurrency // jobs), MAX_ASSOCIATIONS),
            bytes_per_s=None if limit is None else limit / jobs,
        )


@dataclass(frozen=True, slots=True)
class OutgoingInstance:
    """One instance to send: what the archive is to have, and where the bytes are (``location``, a URI).

    ``sop_instance_uid`` and the UIDs of study and series are those it goes out with; None for study or series: whatever
    the file says. ``source_sop_instance_uid`` stands in the file, None: the same. A file that differs from what it goes
    out with, in patient or UIDs, is sent as a copy corrected by ``fitting``, and refused without one. The SOP Instance
    UID in the file is never open to correction: it proves that the file is the one that is meant.
    """

    instance_key: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    location: str
    size_bytes: int = field(default=0)
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    source_sop_instance_uid: str | None = None
    fitting: Fitting | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        if self.fitting is None and self.uid_in_file != self.sop_instance_uid:
            raise ValueError(f"instance {self.uid_in_file} can't become {self.sop_instance_uid} without a fitting")
        if self.fitting is not None and (self.study_instance_uid is None or self.series_instance_uid is None):
            raise ValueError(f"instance {self.sop_instance_uid} is to be fitted, but to no study or series")

    @property
    def uid_in_file(self) -> str:
        """The SOP Instance UID that the file has to hold."""
        return self.source_sop_instance_uid or self.sop_instance_uid


class StoreResult(StrEnum):
    """What came of one instance; only ``stored`` and ``warning`` mean that the archive holds it."""

    STORED = "stored"
    WARNING = "warning"
    """Stored with a Bxxx warning."""
    REFUSED = "refused"
    """Permanent: the peer, its accepted contexts or the file itself won't do; the same try would end the same."""
    BUSY = "busy"
    """Transient: the peer asked for patience (A7xx out of resources)."""
    LIMITED = "limited"
    """Unclear failure (0110, unknown codes): a few tries, then permanent."""
    UNKNOWN = "unknown"
    """Sent, no valid answer: resend the same bytes."""
    STOP = "stop"
    """The peer refuses us as such (0124 not authorised): stop the destination."""

    @property
    def is_stored(self) -> bool:
        """True when the archive said that it holds the instance."""
        return self in (StoreResult.STORED, StoreResult.WARNING)


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """The outcome of one instance.

    ``status`` is the C-STORE status, None when no valid one came. ``code`` anchors the troubleshooting entry,
    ``message`` is an administrator's sentence without patient data (the peer's Error Comment may carry some, so it
    is left out). ``sent_transfer_syntax_uid`` differs from the file's when a fallback was used.
    """

    instance: OutgoingInstance
    result: StoreResult
    status: int | None = None
    code: str = ""
    message: str = ""
    bytes_sent: int = 0
    sent_transfer_syntax_uid: str | None = None
