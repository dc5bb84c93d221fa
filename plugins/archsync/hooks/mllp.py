"""An HL7 v2 receiver behind an Airflow connection of type ``mllp``."""

from __future__ import annotations

import socket

from airflow.sdk import BaseHook

from archsync.errors import ArchsyncError, ConfigurationError, PeerUnavailable
from archsync.hooks._connection import connection, tls_settings
from archsync.net.dicom.transport import build_tls_context


class MllpHook(BaseHook):
    """Reaches the receiver that an ``mllp`` connection describes: host, port and the time-outs of its extra."""

    conn_name_attr = "mllp_conn_id"
    default_conn_name = "mllp_default"
    conn_type = "mllp"
    hook_name = "HL7 v2 over MLLP"

    def __init__(self, mllp_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mllp_conn_id = mllp_conn_id

    def get_conn(self) -> socket.socket:
        """Open a connection to the receiver, with TLS if set; the caller closes it.

        Raises:
            ConfigurationError: host or port are missing.
            PeerUnavailable: the receiver can't be reached.
        """
        found = connection(self.mllp_conn_id)
        if not found.host or not found.port:
            raise ConfigurationError(f"connection {self.mllp_conn_id}: host and port are needed", code="bad-setting")
        timeout_s = float(found.extra_dejson.get("connect_timeout_s") or 10.0)
        tls = tls_settings(found.extra_dejson)
        try:
            plain = socket.create_connection((found.host, found.port), timeout=timeout_s)
            return plain if tls is None else build_tls_context(tls).wrap_socket(plain, server_hostname=found.host)
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise PeerUnavailable(f"{found.host}:{found.port} can't be reached: {reason}") from exc

    def test_connection(self) -> tuple[bool, str]:
        """Answer the Test button of Airflow's connection form: connect, and hang up."""
        try:
            self.get_conn().close()
        except ArchsyncError as exc:
            return False, f"{exc.message} {exc.next_step}"
        return True, "The receiver accepts connections."
