"""The two databases of this site, opened for one request by Airflow's connections and closed after it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends

from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform

#: No statement of a page may keep the ledger busy for longer, in milliseconds.
STATEMENT_TIMEOUT_MS = 15_000


def _ledger() -> Iterator[Ledger]:
    with LedgerHook().get_conn() as opened:
        opened.execute(f"set statement_timeout = {STATEMENT_TIMEOUT_MS}")
        yield opened


def _platform() -> Iterator[Platform]:
    with PlatformHook().get_platform() as opened:
        yield opened


def _now() -> datetime:
    return datetime.now(UTC)


LedgerDep = Annotated[Ledger, Depends(_ledger)]
"""The ledger, for this request."""

PlatformDep = Annotated[Platform, Depends(_platform)]
"""The platform, for this request; it connects at its first question."""

Now = Annotated[datetime, Depends(_now)]
"""When the request came."""
