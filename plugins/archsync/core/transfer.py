"""The vocabulary of sending: where to, what, and what came of each instance. The engines in ``net`` speak it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from archsync.core.destination import Destination


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files for TLS; ``ca_file`` None means the system's authorities."""

    ca_file: str | None = None
    certificate_file: str | None = None
    private_key_file: str | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A DICOM peer and the time-outs to honour, in seconds."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str = "ARCHSYNC"
    connect_timeout_s: float = 10.0
    acse_timeout_s: float = 30.0
    dimse_timeout_s: float = 60.0
    network_timeout_s: float = 60.0
    tls: TlsSettings | None = None

    @classmethod
    def of(cls, destination: Destination) -> Endpoint:
        """The endpoint that a destination's settings describe."""
        tls = None
        if destination.tls:
            tls = TlsSettings(
                ca_file=destination.tls_ca_file,
                certificate_file=destination.tls_certificate_file,
                private_key_file=destination.tls_private_key_file,
                check_hostname=destination.tls_check_hostname,
            )
        return cls(
            host=destination.host,
            port=destination.port,
            called_ae_title=destination.called_ae_title,
            calling_ae_title=destination.calling_ae_title,
            connect_timeout_s=destination.connect_timeout_s,
            acse_timeout_s=destination.acse_timeout_s,
            dimse_timeout_s=destination.dimse_timeout_s,
            network_timeout_s=destination.network_timeout_s,
            tls=tls,
        )


@dataclass(frozen=True, slots=True)
class OutgoingInstance:
    """One instance to send: what the platform says it is, and where its bytes are (a URI)."""

    instance_key: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    location: str
    size_bytes: int = field(default=0)
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


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
