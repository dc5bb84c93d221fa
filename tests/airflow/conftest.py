"""A real Airflow with archsync, started once for each module that needs the whole."""

from __future__ import annotations

from running_stack import stack  # noqa: F401  (a fixture)
