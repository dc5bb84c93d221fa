"""Wakes the dispatcher: a trigger that listens to both databases, and looks for itself as well."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from psycopg import sql

from archsync.errors import ArchsyncError, PlatformUnavailable
from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger import dispatching, plan_queue
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import NOTIFY_CHANNEL, Platform

WORK_CHANNEL = "archsync_work"

#: A burst of notifications is one wake-up: how long to let it settle, in seconds.
BURST_S = 0.05
#: Shortest time between two wake-ups: about what a dispatcher run takes to act on the first, in seconds.
PAUSE_S = 1.0
#: Longest time between two wake-ups while the first has no visible effect, in seconds.
PATIENCE_S = 30.0
#: Wait before listening again after a database went away, in seconds.
RECONNECT_S = 2.0
#: How often a dispatcher run is started only to show that the platform does not answer, in seconds.
AWAY_S = 60.0


class WorkTrigger(BaseEventTrigger):
    """Fires when the dispatcher would find something to do.

    NOTIFY is only a hint: whether there is work is read from the two databases, on each hint, when a job, probe or send
    window falls due, and every ``resync_s`` seconds anyway. It reads and never writes, so it may run twice.
    """

    def __init__(
        self,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        platform_conn_id: str = PlatformHook.default_conn_name,
        resync_s: float = 10.0,
    ) -> None:
        super().__init__()
        self.ledger_conn_id = ledger_conn_id
        self.platform_conn_id = platform_conn_id
        self.resync_s = resync_s
        self._told_away_at = float("-inf")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return (
            "archsync.triggers.work.WorkTrigger",
            {
                "ledger_conn_id": self.ledger_conn_id,
                "platform_conn_id": self.platform_conn_id,
                "resync_s": self.resync_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event whenever there is work; survive the loss of either database."""
        woken = asyncio.Event()
        ledger_hook, platform_hook = LedgerHook(self.ledger_conn_id), PlatformHook(self.platform_conn_id)
        listeners = [
            asyncio.create_task(_listen(ledger_hook.get_dsn, WORK_CHANNEL, woken)),
            asyncio.create_task(_listen(platform_hook.listen_dsn, NOTIFY_CHANNEL, woken)),
        ]
        ledger: Ledger | None = None
        platform: Platform | None = None
        patience_s = PAUSE_S
        try:
            while True:
                woken.clear()
                pause_s: float = RECONNECT_S
                try:
                    if ledger is None:
                        ledger = await asyncio.to_thread(ledger_hook.get_conn)
                    if platform is None:
                        platform = await asyncio.to_thread(platform_hook.get_platform)
                    if await asyncio.to_thread(self._something_to_do, ledger, platform):
                        yield TriggerEvent({"reason": "work"})
                        await asyncio.sleep(patience_s)
                        # Nobody said that anything moved: the dispatcher is late or fails; don't hammer it.
                        patience_s = PAUSE_S if woken.is_set() else min(2 * patience_s, PATIENCE_S)
                        continue
                    patience_s = PAUSE_S
                    pause_s = await asyncio.to_thread(self._until_next_wake_s, ledger)
                except ArchsyncError as exc:
                    self.log.warning("Can't look for work (%s); trying again in %s s.", exc.code, RECONNECT_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), pause_s)
                    await asyncio.sleep(BURST_S)
        finally:
            for task in listeners:
                task.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            for open_connection in (ledger, platform):
                if open_connection is not None:
                    open_connection.close()

    def _something_to_do(self, ledger: Ledger, platform: Platform) -> bool:
        if dispatching.work_is_waiting(ledger):
            return True
        try:
            return platform.has_changes(plan_queue.watermark(ledger))
        except PlatformUnavailable as exc:
            self.log.warning("%s", exc.message)
            # A dispatcher run fails with it, now and then, so that it shows where people look.
            now = time.monotonic()
            is_time = now - self._told_away_at >= AWAY_S
            self._told_away_at = now if is_time else self._told_away_at
            return is_time

    def _until_next_wake_s(self, ledger: Ledger) -> float:
        at = dispatching.next_wake(ledger)
        if at is None:
            return self.resync_s
        return min(self.resync_s, max(0.01, (at - datetime.now(UTC)).total_seconds()))


async def _listen(get_dsn: Callable[[], str], channel: str, woken: asyncio.Event) -> None:
    """Set ``woken`` at every notification on a channel, for ever; reconnect when the database went away."""
    while True:
        with contextlib.suppress(psycopg.Error, ArchsyncError, OSError):
            connection = await psycopg.AsyncConnection.connect(
                await asyncio.to_thread(get_dsn), autocommit=True, connect_timeout=5, application_name="archsync-wake"
            )
            async with connection:
                await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                woken.set()  # something may have happened before we listened
                async for _ in connection.notifies():
                    woken.set()
        # The looking loop meets a lost database too, and says so.
        await asyncio.sleep(RECONNECT_S)
