"""Named, described SQL: every statement lives in a ``.sql`` file, under ``-- name:`` and a description."""

from __future__ import annotations

import functools
import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)\n((?:-- .*\n)+)", re.MULTILINE)


@functools.cache
def load(subject: str) -> dict[str, str]:
    """Read the queries of ``sql/<subject>.sql``: name → statement. A query without description is a fault."""
    text = resources.files("archsync.ledger").joinpath("sql", f"{subject}.sql").read_text(encoding="utf-8")
    heads = list(_NAME.finditer(text))
    if text.count("-- name:") != len(heads):
        raise ValueError(f"sql/{subject}.sql: every query needs a name and a description")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {head[1]: text[head.end() : end].strip().rstrip(";") for head, end in zip(heads, ends, strict=True)}
