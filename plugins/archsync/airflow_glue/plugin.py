"""What Airflow loads: kept light, since every component imports it."""

from __future__ import annotations

import sys

from airflow.plugins_manager import AirflowPlugin


class ArchsyncPlugin(AirflowPlugin):
    """archsync in Airflow: the listener that keeps the ledger in step with Airflow's own word on jobs."""

    name = "archsync"

    @classmethod
    def on_load(cls, *args: object, **kwargs: object) -> None:
        """Preload the send path in the scheduler: tasks are forks of it and inherit it (measured: twice the jobs/s)."""
        if "scheduler" in sys.argv:
            import archsync.airflow_glue.dags  # noqa: F401


def _listeners() -> list[object]:
    from archsync.airflow_glue import listener

    return [listener]


# Task processes need no listener: their operator writes to the ledger itself.
if "scheduler" in sys.argv or "api-server" in sys.argv:
    ArchsyncPlugin.listeners = _listeners()
