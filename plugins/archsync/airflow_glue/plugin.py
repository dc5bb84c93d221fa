"""What Airflow loads: kept light, since every component imports it."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from archsync.api.lazy import LazyApp


class ArchsyncPlugin(AirflowPlugin):
    """archsync in Airflow: its pages and API, and the listener that tells the ledger Airflow's own word on jobs."""

    name = "archsync"
    fastapi_apps: ClassVar[list[dict[str, Any]]] = [{"app": LazyApp(), "url_prefix": "/archsync", "name": "archsync"}]
    react_apps: ClassVar[list[dict[str, Any]]] = []

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
