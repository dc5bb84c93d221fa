"""Reading Airflow connections, with the error that says which one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.exceptions import AirflowNotFoundException
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowRuntimeError

from archsync.core.tls import TlsSettings
from archsync.errors import ConfigurationError


def connection(conn_id: str) -> Any:
    """Read an Airflow connection.

    Raises:
        ConfigurationError: it is not defined.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except (AirflowNotFoundException, AirflowRuntimeError) as exc:
        raise ConfigurationError(
            f"the Airflow connection {conn_id!r} is not defined",
            code="connection-missing",
            next_step=f"Define it (Admin → Connections, or the variable AIRFLOW_CONN_{conn_id.upper()}).",
        ) from exc


def tls_settings(extra: Mapping[str, Any]) -> TlsSettings | None:
    """The TLS settings in a connection's extra; None when TLS is off."""
    if not extra.get("tls"):
        return None
    return TlsSettings(
        ca_file=extra.get("tls_ca_file") or None,
        certificate_file=extra.get("tls_certificate_file") or None,
        private_key_file=extra.get("tls_private_key_file") or None,
    )
