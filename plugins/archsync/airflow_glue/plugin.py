"""What Airflow loads: kept light, since every component imports it."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from archsync.api.lazy import LazyApp

#: Relative to where Airflow is mounted, as its own files are.
_FILES = "archsync/static"


def _page(name: str, module: str, **settings: Any) -> dict[str, Any]:
    """One React component of ours in Airflow's UI. Airflow finds it by its name; without a route it would drop it."""
    icons = {"icon": f"{_FILES}/icon.svg", "icon_dark_mode": f"{_FILES}/icon_dark.svg"}
    return {"name": name, "bundle_url": f"{_FILES}/{module}", **icons, **settings}


class ArchsyncPlugin(AirflowPlugin):
    """archsync in Airflow: its pages and API, and the listener that tells the ledger Airflow's own word on jobs."""

    name = "archsync"
    fastapi_apps: ClassVar[list[dict[str, Any]]] = [{"app": LazyApp(), "url_prefix": "/archsync", "name": "archsync"}]
    react_apps: ClassVar[list[dict[str, Any]]] = [
        _page("Archive Sync", "main.js", url_route="archsync", destination="nav", nav_top_level=True),
        _page("Archive job", "run_tab.js", url_route="archive-job", destination="task_instance"),
        _page("Archive Sync tile", "tile.js", url_route="archsync-tile", destination="dashboard"),
    ]

    @classmethod
    def on_load(cls, *args: object, **kwargs: object) -> None:
        """Preload the send path in the scheduler: tasks are forks of it and inherit it (measured: twice the jobs/s)."""
        if "scheduler" in sys.argv:
            import archsync.airflow_glue.dags  # noqa: F401
            from archsync.core.naming import DagKind
            from archsync.operators._engine import jobs_asset

            jobs_asset(DagKind.ARCHIVE, "any")  # the first asset has Airflow import all providers' kinds of URI


def _listeners() -> list[object]:
    from archsync.airflow_glue import listener

    return [listener]


# Task processes need no listener: their operator writes to the ledger itself.
if "scheduler" in sys.argv or "api-server" in sys.argv:
    ArchsyncPlugin.listeners = _listeners()
