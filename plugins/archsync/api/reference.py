"""The table of addresses in ``docs/api.md``: ``python -m archsync.api.reference`` prints it anew."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict

_TITLES = {
    "me": "Who asks",
    "jobs": "Jobs",
    "destinations": "Destinations",
    "gateways": "Gateways",
    "studies": "Studies",
    "holds": "Holds",
    "overview": "Overview",
    "audit": "Audit",
}


def write_reference() -> str:
    """Every address with its right and what it does, subject by subject, as Markdown."""
    with contextlib.redirect_stdout(sys.stderr):  # Airflow logs there while it is imported
        from archsync.api.app import create_app, document, guarded_operations

        app = create_app()
    paths = document(app)["paths"]
    rows: dict[str, list[str]] = defaultdict(list)
    for path, method, route in guarded_operations(app):
        if route.include_in_schema:
            operation = paths[path][method]
            does = operation["description"].split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            row = f"| `{method.upper()} {path}` | {route.right.value.replace('_', ' ')} | {does} |"
            rows[operation["tags"][0]].append(row)
    parts = []
    for subject, lines in rows.items():
        parts.append("\n".join([f"### {_TITLES[subject]}", "", "| address | right | |", "|---|---|---|", *lines]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(write_reference())  # noqa: T201
