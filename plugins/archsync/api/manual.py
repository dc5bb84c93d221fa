"""The manual, readable where the product runs: `docs/*.md` as pages, so that an error's code leads to its entry."""

from __future__ import annotations

import functools
import html
import itertools
import re
from http import HTTPStatus
from pathlib import Path

from fastapi import HTTPException, Response
from fastapi.responses import FileResponse, HTMLResponse
from markdown_it import MarkdownIt

from archsync.api.access import Right, guarded_router, needs

#: Beside ``plugins/``, as in a checkout and in the image.
DOCS = Path(__file__).resolve().parents[3] / "docs"

router = guarded_router("manual")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.55 system-ui, sans-serif; margin: 2rem auto; max-width: 52rem; padding: 0 1rem }}
img {{ max-width: 100% }}
code, pre {{ font-family: ui-monospace, monospace; font-size: .9em }}
pre {{ background: color-mix(in srgb, CanvasText 7%, Canvas); overflow-x: auto; padding: .75rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto }}
th, td {{ border: 1px solid color-mix(in srgb, CanvasText 25%, Canvas); padding: .3rem .6rem; text-align: left }}
:target {{ background: color-mix(in srgb, Highlight 25%, Canvas); scroll-margin-top: 1rem }}
</style></head><body><main>{body}</main></body></html>
"""


@router.get("/docs/{name}", dependencies=[needs(Right.READ)], include_in_schema=False)
def read_page(name: str) -> Response:
    """A page of the manual by its file's name without ``.md``."""
    path = DOCS / f"{name}.md"
    if not re.fullmatch(r"[a-z0-9-]+", name) or not path.is_file():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'"}
    return HTMLResponse(_render(path, path.stat().st_mtime_ns), headers=policy)


@router.get("/docs/images/{name}", dependencies=[needs(Right.READ)], include_in_schema=False)
def read_picture(name: str) -> Response:
    """A picture of the manual."""
    path = DOCS / "images" / name
    if not re.fullmatch(r"[a-z0-9-]+\.png", name) or not path.is_file():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return FileResponse(path, media_type="image/png")


@functools.lru_cache(maxsize=32)
def _render(path: Path, _changed: int) -> str:
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(path.read_text(encoding="utf-8"))
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(following.content))
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("href", re.sub(r"^([a-z0-9-]+)\.md(?=#|$)", r"\1", str(child.attrGet("href"))))
    body = markdown.renderer.render(tokens, markdown.options, {})
    return _PAGE.format(title=html.escape(f"archsync: {path.stem}"), body=body)


def _anchor(heading: str) -> str:
    """The anchor that links in the manual use, as code forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
