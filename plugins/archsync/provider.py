"""What Airflow's provider registry learns from us: the connection types ``dicom`` and ``mllp`` and their forms."""

from __future__ import annotations

from typing import Any

from archsync import __version__

_TEXT = {"type": ["string", "null"]}
_TEXT_NEEDED = {"type": "string"}
_FLAG = {"type": "boolean", "default": False}


def _seconds(default: float, maximum: float) -> dict[str, Any]:
    return {"type": "number", "default": default, "minimum": 0.1, "maximum": maximum}


def _field(label: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"label": label, "schema": schema, "description": description}


_TLS_FIELDS = {
    "tls": _field("TLS", _FLAG, "Connect with TLS 1.2 or newer."),
    "tls_ca_file": _field("TLS: trusted authorities", _TEXT, "PEM file; empty: those of the system."),
    "tls_certificate_file": _field("TLS: our certificate", _TEXT, "PEM file on the worker, for mutual TLS."),
    "tls_private_key_file": _field("TLS: our private key", _TEXT, "PEM file on the worker."),
}


def get_provider_info() -> dict[str, Any]:
    """Describe the provider; found through the entry point in ``archsync_provider-*.dist-info``."""
    return {
        "package-name": "archsync-provider",
        "name": "archsync",
        "description": "Keeps external imaging archives in step with the clinical platform.",
        "versions": [__version__],
        "connection-types": [
            {
                "connection-type": "dicom",
                "hook-class-name": "archsync.hooks.dicom.DicomHook",
                "hook-name": "DICOM peer",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "password", "extra"],
                    "relabeling": {},
                    "placeholders": {"host": "vna1.hospital.example", "port": "11112"},
                },
                "conn-fields": {
                    "called_ae_title": _field(
                        "Called AE title", {**_TEXT_NEEDED, "maxLength": 16}, "The peer's AE title, 1 to 16 characters."
                    ),
                    "calling_ae_title": _field(
                        "Calling AE title", {**_TEXT, "maxLength": 16}, "Ours; empty: ARCHSYNC."
                    ),
                    **_TLS_FIELDS,
                    "connect_timeout_s": _field("Connect time-out (s)", _seconds(10, 300), "TCP and TLS."),
                    "acse_timeout_s": _field("Association time-out (s)", _seconds(30, 600), "Answer to our request."),
                    "dimse_timeout_s": _field("Response time-out (s)", _seconds(60, 3600), "Answer to one message."),
                    "network_timeout_s": _field(
                        "Network time-out (s)", _seconds(60, 3600), "Silence on an association."
                    ),
                },
            },
            {
                "connection-type": "mllp",
                "hook-class-name": "archsync.hooks.mllp.MllpHook",
                "hook-name": "HL7 v2 over MLLP",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "password", "extra"],
                    "relabeling": {},
                    "placeholders": {"host": "hl7.hospital.example", "port": "2575"},
                },
                "conn-fields": {
                    **_TLS_FIELDS,
                    "connect_timeout_s": _field("Connect time-out (s)", _seconds(10, 300), "TCP and TLS."),
                    "ack_timeout_s": _field(
                        "Acknowledgement time-out (s)", _seconds(30, 600), "Answer to one message."
                    ),
                },
            },
        ],
    }
