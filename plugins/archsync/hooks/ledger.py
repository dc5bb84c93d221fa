"""The ledger behind an Airflow connection."""

from __future__ import annotations

from airflow.sdk import BaseHook

from archsync.hooks._connection import connection
from archsync.hooks.connection_text import libpq_dsn
from archsync.ledger.database import Ledger


class LedgerHook(BaseHook):
    """Opens the ledger that a ``postgres`` connection names."""

    conn_name_attr = "ledger_conn_id"
    default_conn_name = "archsync_ledger"
    conn_type = "postgres"
    hook_name = "archsync ledger"

    def __init__(self, ledger_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ledger_conn_id = ledger_conn_id

    def get_dsn(self) -> str:
        """The libpq connection string."""
        return libpq_dsn(connection(self.ledger_conn_id))

    def get_conn(self) -> Ledger:
        """Open the ledger; close it, or use it as a context manager."""
        return Ledger(self.get_dsn())
