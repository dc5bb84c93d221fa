"""TLS with a peer, DICOM or HL7, as settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files for TLS; ``ca_file`` None means the system's authorities."""

    ca_file: str | None = None
    certificate_file: str | None = None
    private_key_file: str | None = None
    check_hostname: bool = True
