"""Pages of a list, and answers that a browser may keep."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, Field

from archsync.errors import InvalidInput

Limit = Annotated[int, Field(ge=1, le=200, description="At most this many.")]
Cursor = Annotated[str, Field(min_length=1, max_length=1000, description="`next_cursor` of the page before.")]

Key = TypeVar("Key", int, str)


def write_cursor(place: tuple[datetime, int | str]) -> str:
    """Where a page ended, as the next one is asked for: a moment, and what tells apart what is of the same one."""
    return base64.urlsafe_b64encode(json.dumps([place[0].isoformat(), place[1]]).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, kind: type[Key]) -> tuple[datetime, Key] | None:
    """Where the page before ended; the second of its place is of ``kind``.

    Raises:
        InvalidInput: it was not made by :func:`write_cursor`.
    """
    if cursor is None:
        return None
    try:
        at, key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = (datetime.fromisoformat(at), kind(key))
        if place[0].tzinfo is None or not _is_storable(place[1]):
            raise ValueError(cursor)
    except (ValueError, TypeError, OverflowError):
        raise InvalidInput(
            "the cursor is none that archsync gave out", code="bad-cursor", next_step="Begin with the first page."
        ) from None
    return place


def _is_storable(key: int | str) -> bool:
    """Tell whether PostgreSQL takes a key."""
    return 0 <= key < 2**63 if isinstance(key, int) else "\0" not in key


UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "As the answer that has the ETag in `If-None-Match`."}
}
"""What a route that answers with :func:`revalidated` may answer, too."""


def revalidated(request: Request, answer: BaseModel) -> Response:
    """The answer with an ETag; 304 without a body when the browser has the same already."""
    body = answer.model_dump_json().encode()
    etag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    known = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
