"""An HL7 v2 receiver behind an Airflow connection of type ``mllp``."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from archsync.errors import ArchsyncError, ConfigurationError
from archsync.hooks._connection import connection, tls_settings
from archsync.messages.hl7_ack import Ack
from archsync.net.mllp import MllpClient


class MllpHook(BaseHook):
    """Talks to the receiver that an ``mllp`` connection describes.

    Host and port of the connection; extra: ``connect_timeout_s``, ``ack_timeout_s``, ``idle_close_s``,
    ``ack_overrides``, ``tls``, ``tls_ca_file``, ``tls_certificate_file``, ``tls_private_key_file``.
    """

    conn_name_attr = "mllp_conn_id"
    default_conn_name = "mllp_default"
    conn_type = "mllp"
    hook_name = "HL7 v2 over MLLP"

    def __init__(self, mllp_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.mllp_conn_id = mllp_conn_id

    def client(self) -> MllpClient:
        """A client for the receiver, not connected yet; the caller closes it, or uses it in a ``with``.

        Raises:
            ConfigurationError: host or port are missing, or a value of the extra is wrong.
        """
        found = connection(self.mllp_conn_id)
        if not found.host or not found.port:
            raise ConfigurationError(f"connection {self.mllp_conn_id}: host and port are needed", code="bad-setting")
        extra = found.extra_dejson
        return MllpClient(
            found.host,
            found.port,
            tls=tls_settings(extra),
            ack_overrides=_texts(extra.get("ack_overrides")),
            **self._timeouts(extra),
        )

    def get_conn(self) -> MllpClient:
        """A client that is connected; the caller closes it.

        Raises:
            ConfigurationError: as for :meth:`client`.
            PeerUnavailable: the receiver can't be reached.
            DestinationMisconfigured: TLS or a certificate is refused by either side.
        """
        client = self.client()
        client.connect()
        return client

    def send(self, message: bytes) -> Ack:
        """Send one message on a connection of its own; raises the error that says why it was not accepted.

        For several messages, or one that is sent again, take :meth:`client` and its ``send``.
        """
        with self.client() as client:
            return client.send(message)

    def test_connection(self) -> tuple[bool, str]:
        """Answer the Test button of Airflow's connection form: connect, and hang up."""
        try:
            self.get_conn().close()
        except ArchsyncError as exc:
            return False, f"{exc.message} {exc.next_step}"
        return True, "The receiver accepts connections."

    def _timeouts(self, extra: dict[str, Any]) -> dict[str, float]:
        timeouts = {}
        for name in ("connect_timeout_s", "ack_timeout_s", "idle_close_s"):
            if extra.get(name):
                try:
                    timeouts[name] = float(extra[name])
                except (TypeError, ValueError) as exc:
                    raise ConfigurationError(
                        f"connection {self.mllp_conn_id}, {name}: must be a number", code="bad-setting"
                    ) from exc
        return timeouts


def _texts(value: Any) -> list[str]:
    """A list from JSON, or names separated by commas from the form."""
    parts = value.split(",") if isinstance(value, str) else value or []
    return [str(part).strip() for part in parts if str(part).strip()]
