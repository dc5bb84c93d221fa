"""Airflow's way in: the plugin loader executes this file; the package beside it is hidden by ``.airflowignore``."""

from archsync.airflow_glue.plugin import ArchsyncPlugin

__all__ = ["ArchsyncPlugin"]
