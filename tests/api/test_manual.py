"""The manual where the product runs, and what the manual says of the API."""

from __future__ import annotations

import re
from pathlib import Path

from archsync.api.reference import write_reference

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_api_page_lists_every_address_with_its_right() -> None:
    marker = "<!-- made by: python -m archsync.api.reference -->\n\n"
    written = (DOCS / "api.md").read_text().split(marker)[1]

    assert written.strip() == write_reference()


def test_the_code_of_a_problem_leads_to_its_entry_in_the_manual(client_of, admin, ledger) -> None:
    problem = admin.get("/archsync/api/v1/jobs/4711").json()
    page, _, anchor = problem["type"].partition("#")

    answer = client_of("viewer").get(page)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert f'<h3 id="{anchor}">unknown-job</h3>' in answer.text


def test_every_page_of_the_manual_is_shown_and_its_links_lead_to_pages(client_of) -> None:
    client = client_of("viewer")
    pages = {path.stem: client.get(f"/archsync/docs/{path.stem}") for path in DOCS.glob("*.md")}

    assert {name for name, page in pages.items() if page.status_code != 200} == set()
    for name, page in pages.items():
        for target, anchor in re.findall(r'href="([a-z0-9-]*)(?:#([^"]*))?"', page.text):
            shown = pages[target] if target else page
            assert not anchor or f'id="{anchor}"' in shown.text, f"{name}: {target}#{anchor}"


def test_nothing_outside_the_manual_is_shown(client_of) -> None:
    for name in ("..%2fREADME", "../README", "%2e%2e%2fREADME", "adr%2fREADME", "nothing", "API"):
        assert client_of("viewer").get(f"/archsync/docs/{name}").status_code == 404


def test_a_file_of_the_pages_is_a_module_that_browsers_run_and_ask_for_again(client_of) -> None:
    client = client_of("viewer")
    answer = client.get("/archsync/static/main.js")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get("/archsync/static/main.js", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("nothing.js", "../app.py", "..%2fapi%2fapp.py", ""):
        assert client.get(f"/archsync/static/{path}").status_code == 404
