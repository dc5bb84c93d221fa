"""The pages' own files: ES modules and styles, as they lie in ``archsync/pages``."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response
from fastapi.staticfiles import StaticFiles

from archsync.api.access import Right, guarded_router, needs

PAGES = Path(__file__).resolve().parent.parent / "pages"

router = guarded_router("files")

_files = StaticFiles(directory=PAGES, check_dir=False)

#: Not left to the machine's own table, which may call a module plain text: browsers refuse to run that.
_MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}


@router.get("/static/{path:path}", dependencies=[needs(Right.READ)], include_in_schema=False)
async def read_file(path: str, request: Request) -> Response:
    """One file. Browsers ask again each time, and get 304 while it is the same: an upgrade shows at once."""
    response = await _files.get_response(path, request.scope)
    if media_type := _MEDIA_TYPES.get(Path(path).suffix):
        response.headers["Content-Type"] = media_type
    response.headers["Cache-Control"] = "no-cache"
    return response
