"""The ledger behind an Airflow connection."""

from __future__ import annotations

from airflow.sdk import BaseHook

from archsync.core.settings import wrong_setting
from archsync.hooks._connection import connection
from archsync.hooks.connection_text import libpq_dsn
from archsync.ledger.database import EXTRA_SETTINGS, Ledger
from archsync.services.housekeeping import KEEP_DAYS

#: A hundred years.
MOST_KEEP_DAYS = 36_500


class LedgerHook(BaseHook):
    """Opens the ledger that a ``postgres`` connection names.

    Connection extra: ``keep_days`` (how long notes and messages can be looked at after they were delivered).
    """

    conn_name_attr = "ledger_conn_id"
    default_conn_name = "archsync_ledger"
    conn_type = "postgres"
    hook_name = "archsync ledger"

    def __init__(self, ledger_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ledger_conn_id = ledger_conn_id

    def get_dsn(self) -> str:
        """The libpq connection string."""
        return libpq_dsn(connection(self.ledger_conn_id), ignore=EXTRA_SETTINGS)

    def keep_days(self) -> float:
        """How long the content of delivered notes and messages is kept, in days.

        Raises:
            ConfigurationError: it is no number of days.
        """
        value = connection(self.ledger_conn_id).extra_dejson.get("keep_days", KEEP_DAYS)
        try:
            days = float(value)
        except (TypeError, ValueError):
            days = -1.0
        if not 0 <= days <= MOST_KEEP_DAYS:
            raise wrong_setting("keep_days", f"must be a number of days from 0 to {MOST_KEEP_DAYS}, not {value!r}")
        return days

    def get_conn(self) -> Ledger:
        """Open the ledger; close it, or use it as a context manager."""
        return Ledger(self.get_dsn())
