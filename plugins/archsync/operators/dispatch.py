"""The dispatcher and the housekeeper: what the tasks of ``archsync_dispatch`` and ``archsync_maintain`` do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator, Context

from archsync.errors import PlatformUnavailable
from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger import destinations
from archsync.operators import _engine as engine
from archsync.services import dispatch, housekeeping, planner


class DispatchOperator(BaseOperator):
    """Looks at what changed on the platform, plans it, and starts a DAG run for every job whose turn it is."""

    ui_color = "#f4e7c5"

    def __init__(
        self,
        *,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        platform_conn_id: str = PlatformHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ledger_conn_id = ledger_conn_id
        self.platform_conn_id = platform_conn_id

    def execute(self, context: Context) -> None:
        """Sweep, observe, plan, hand out. A platform that is away does not keep planned jobs from going out."""
        now = datetime.now(UTC)
        away: PlatformUnavailable | None = None
        with (
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            PlatformHook(self.platform_conn_id).get_platform() as platform,
        ):
            if put_back := dispatch.sweep(ledger, run_state=engine.run_state):
                self.log.warning("%s jobs whose run was lost are started again.", put_back)
            try:
                seen = planner.observe(platform, ledger)
                # One transaction: the jobs it makes are claimed before anybody is told of them.
                with ledger.transaction():
                    report = planner.plan_queued(platform, ledger, now=now)
                    handed = dispatch.hand_out(ledger, now=now, is_paused=engine.is_paused)
                self.log.info(
                    "%s studies changed, %s planned, %s jobs made, %s brought up to date, %s studies unreadable.",
                    seen, report.studies, report.jobs_made, report.jobs_refreshed, report.problems,
                )  # fmt: skip
            except PlatformUnavailable as exc:
                away = exc
                self.log.error("%s %s", exc.message, exc.next_step)
                handed = dispatch.hand_out(ledger, now=now, is_paused=engine.is_paused)
        self.log.info("Handed out %s jobs: %s", len(handed), ", ".join(str(h.job_id) for h in handed) or "none")
        engine.emit_jobs(self, context, [(engine.jobs_asset(h.kind, h.destination), h.job_id) for h in handed])
        if away is not None and not handed:
            raise away


class MaintainOperator(BaseOperator):
    """Puts back jobs whose run was lost, wakes the dispatcher, forgets the content of what was delivered long ago."""

    def __init__(self, *, ledger_conn_id: str = LedgerHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> None:
        """Sweep, wake, forget."""
        hook = LedgerHook(self.ledger_conn_id)
        with hook.get_conn() as ledger:
            put_back = dispatch.sweep(ledger, run_state=engine.run_state)
            destinations.notify_work(ledger)
            housekeeping.forget_delivered(ledger, now=datetime.now(UTC), keep_days=hook.keep_days())
        self.log.info("%s jobs whose run was lost were put back.", put_back)
