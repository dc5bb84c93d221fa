"""Images on web servers and in object stores, read with Airflow's connections."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from archsync.errors import ConfigurationError
from archsync.net.remote import access
from archsync.net.remote.access import WebLogin


class AirflowAccess:
    """Connections for web servers, and :class:`~airflow.sdk.ObjectStoragePath` for everything else.

    Airflow is imported at the first use: most sites have files only.
    """

    def login(self, conn_id: str) -> WebLogin:
        """The login of a connection: login and password, or a bearer token as its password alone."""
        from archsync.hooks._connection import connection

        found = connection(conn_id)
        # Airflow's http connections may hold a whole URL as their host.
        parts = urlsplit(found.host if "://" in (found.host or "") else f"//{found.host or ''}")
        if not parts.hostname or not found.password:
            raise ConfigurationError(
                f"the Airflow connection {conn_id!r} holds no host or no password",
                code="bad-setting",
                next_step="Give it the host of the server that has the images, login and password; or a bearer token"
                " as its password, without a login.",
            )
        return WebLogin(
            host=parts.hostname,
            scheme=parts.scheme or found.schema or None,
            port=found.port or parts.port,
            user=found.login or None,
            secret=found.password,
        )

    def knows(self, scheme: str) -> bool:
        """True if Airflow or one of its providers here has a file system for this scheme."""
        from airflow.sdk.io import has_fs

        return bool(scheme) and has_fs(scheme)

    def find_object(self, location: str) -> tuple[Any, str]:
        """The file system and path that Airflow's ObjectStoragePath finds."""
        from airflow.exceptions import AirflowException
        from airflow.sdk import ObjectStoragePath
        from airflow.sdk.exceptions import AirflowRuntimeError

        path = ObjectStoragePath(location)
        try:
            return path.fs, path.path
        except (AirflowException, AirflowRuntimeError, ImportError, ValueError, TypeError) as exc:
            given = f"the connection {path.conn_id!r}" if path.conn_id else "no connection"
            raise ConfigurationError(
                f"the file system for {path.protocol}:// can't be made with {given} ({type(exc).__name__})",
                code="object-store-not-set-up",
                next_step="Define the Airflow connection, or install what its provider needs on the sending machine,"
                " such as apache-airflow-providers-amazon[s3fs].",
            ) from exc


def read_images_through_airflow() -> None:
    """Have this process read remote images with what Airflow knows."""
    access.use(AirflowAccess())
