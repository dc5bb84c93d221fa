"""The platform's views behind an Airflow connection, read through Airflow's PostgresHook."""

from __future__ import annotations

from typing import Any

from airflow.providers.postgres.hooks.postgres import PostgresHook

from archsync.hooks._connection import connection
from archsync.hooks.connection_text import libpq_dsn
from archsync.hooks.images import read_images_through_airflow
from archsync.platformdb.reader import EXTRA_SETTINGS, Platform


class PlatformHook(PostgresHook):
    """Reads the platform that a ``postgres`` connection names.

    Connection extra: ``schema`` (where the views are), ``revision`` (``transaction`` or ``sequence``), ``overlap``.
    """

    conn_name_attr = "platform_conn_id"
    default_conn_name = "archsync_platform"
    ignored_extra_options = PostgresHook.ignored_extra_options | EXTRA_SETTINGS

    def __init__(self, platform_conn_id: str = default_conn_name) -> None:
        super().__init__(platform_conn_id=platform_conn_id)
        self.platform_conn_id = platform_conn_id

    @classmethod
    def get_connection(cls, conn_id: str) -> Any:
        """Read the connection with our error where it is missing; a hook asks once, for its settings and to connect."""
        return connection(conn_id)

    def get_platform(self) -> Platform:
        """A reader of the platform, which connects at its first question, and the way to its images."""
        read_images_through_airflow()
        return Platform.from_extra(self.get_conn, self.connection.extra_dejson)

    def listen_dsn(self) -> str:
        """The libpq connection string for LISTEN."""
        return libpq_dsn(self.connection, ignore=EXTRA_SETTINGS)
