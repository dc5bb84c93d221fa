"""Airflow connections as text, read without importing Airflow (which takes seconds)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
from psycopg.conninfo import make_conninfo

from archsync.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ConnectionText:
    """The parts of an Airflow connection, under the names that Airflow's own class gives them."""

    host: str | None = None
    port: int | None = None
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    schema: str | None = None
    extra_dejson: Mapping[str, Any] = field(default_factory=dict, repr=False)


def from_environment(conn_id: str) -> ConnectionText | None:
    """Read the connection in the variable ``AIRFLOW_CONN_<ID>``; None when it is not set.

    Raises:
        ConfigurationError: it is neither a URI nor a JSON object.
    """
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        return _parse_json(text) if text.startswith("{") else _parse_uri(text)
    except (ValueError, TypeError):
        # Not chained, not quoted: the text holds a password.
        raise ConfigurationError(
            f"the variable {variable} is neither a connection URI nor a JSON object",
            code="connection-malformed",
            next_step="Write it as Airflow's documentation of connections says, such as postgres://user:password@host/db.",
        ) from None


def _parse_json(text: str) -> ConnectionText:
    values = json.loads(text)
    extra = values.get("extra") or {}
    extra = json.loads(extra) if isinstance(extra, str) else extra
    if not isinstance(extra, dict):
        raise TypeError("extra is no object")
    port = values.get("port")
    return ConnectionText(
        host=values.get("host"),
        port=int(port) if port else None,
        login=values.get("login"),
        password=values.get("password"),
        schema=values.get("schema"),
        extra_dejson=extra,
    )


def _parse_uri(text: str) -> ConnectionText:
    parts = urlsplit(text)
    if not parts.scheme or "://" not in text:
        raise ValueError("no URI")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    extra = json.loads(query["__extra__"]) if "__extra__" in query else {k: _json_or_text(v) for k, v in query.items()}
    return ConnectionText(
        host=unquote(parts.hostname) if parts.hostname else None,
        port=parts.port,
        login=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        schema=unquote(parts.path[1:]) or None,
        extra_dejson=extra,
    )


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def libpq_dsn(found: Any, *, ignore: Set[str] = frozenset()) -> str:
    """The libpq connection string of a ``postgres`` connection; entries of its extra are libpq options.

    Raises:
        ConfigurationError: the extra holds something that libpq does not know.
    """
    options = {name: value for name, value in found.extra_dejson.items() if name not in ignore}
    try:
        return make_conninfo(
            host=found.host,
            port=found.port or 5432,
            user=found.login,
            password=found.password,
            dbname=found.schema,
            **options,
        )
    except psycopg.ProgrammingError as exc:
        raise ConfigurationError(
            f"an entry of the connection's extra is no PostgreSQL option: {str(exc).strip().splitlines()[0]}",
            code="connection-malformed",
        ) from None
