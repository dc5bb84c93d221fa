"""Every route of the application, for every role: who is let in and who is not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Mount

from archsync.api import access
from archsync.api.access import GuardedRoute, Right, guarded_router, needs
from archsync.api.app import create_app, guarded_operations
from archsync.api.problems import MEDIA_TYPE

ROLES = (None, "viewer", "user", "op", "admin")

#: What docs/access.md promises.
HOLDERS = {
    Right.READ: {"viewer", "user", "op", "admin"},
    Right.OPERATE: {"user", "op", "admin"},
    Right.CONFIGURE: {"op", "admin"},
    Right.PATIENT_DATA: {"op", "admin"},
}

OPERATIONS = guarded_operations(create_app())


def _name(operation: tuple[str, str, GuardedRoute]) -> str:
    path, method, _ = operation
    return f"{method} {path}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=_name)
def test_a_route_lets_in_who_has_its_right_and_nobody_else(operation, client_of) -> None:
    path, method, route = operation
    address = "/archsync" + re.sub(r"\{[^}]+\}", "1", path)
    for role in ROLES:
        sent: dict[str, Any] = {} if method == "get" else {"json": {}}
        answer = client_of(role).request(method, address, **sent)
        if role is None:
            expected = {401}
        elif role in HOLDERS[route.right]:
            expected = {200, 201, 204, 304, 404, 409, 422, 503}
        else:
            expected = {403}
        assert answer.status_code in expected, (role, answer.text)
        if role is None or expected == {403}:
            assert answer.headers["content-type"] == MEDIA_TYPE
            assert answer.json()["status"] == answer.status_code


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o[1] != "get"], ids=_name)
def test_what_changes_something_takes_json_only(operation, client_of) -> None:
    path, method, _ = operation
    address = "/archsync" + re.sub(r"\{[^}]+\}", "1", path)
    client = client_of("admin")
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = client.request(method, address, content=b"{}", headers={"Content-Type": media_type})
        assert answer.status_code == 415
        assert answer.json()["code"] == "json-only"
    assert client_of(None).request(method, address, content=b"{}").status_code == 401


def test_reading_never_changes_the_ledger(client_of, ledger_dsn, contents) -> None:
    before = contents(ledger_dsn)
    client = client_of("admin")
    for path, method, _ in OPERATIONS:
        if method == "get":
            client.get("/archsync" + re.sub(r"\{[^}]+\}", "1", path))
    assert contents(ledger_dsn) == before


def test_a_right_that_reads_alone_is_never_asked_for_a_change(client_of) -> None:
    reads_by_post = {"/api/v1/search", "/api/v1/destinations/check"}
    for path, method, route in OPERATIONS:
        if method != "get" and path not in reads_by_post:
            assert route.right is not Right.READ, f"{method} {path}"


def test_a_route_without_a_right_can_not_be_made() -> None:
    router = guarded_router("x")
    with pytest.raises(TypeError, match="exactly one right"):
        router.get("/open")(lambda: None)
    with pytest.raises(TypeError, match="exactly one right"):
        router.get("/twice", dependencies=[needs(Right.READ), needs(Right.OPERATE)])(lambda: None)


def test_a_plain_route_or_a_mounted_folder_is_found_by_the_walk() -> None:
    app = create_app()
    app.get("/plain")(lambda: None)
    with pytest.raises(TypeError, match="asks for no right"):
        guarded_operations(app)
    app = create_app()
    app.mount("/files", FastAPI())
    with pytest.raises(TypeError, match="asks for no right"):
        guarded_operations(app)


def test_airflow_serves_the_plugin_under_its_prefix_and_nothing_of_it_elsewhere(airflow_app) -> None:
    mounted = [route for route in airflow_app.routes if isinstance(route, Mount) and "archsync" in route.path]
    assert [route.path for route in mounted] == ["/archsync"]


def test_the_cookie_of_a_logged_in_browser_is_enough(client_of, tokens) -> None:
    client = client_of(None)
    client.cookies.set("_token", tokens["viewer"])
    assert client.get("/archsync/api/v1/me").json() == {"user": "viewer", "rights": ["read"]}


def test_a_token_that_is_not_airflows_lets_nobody_in(client_of) -> None:
    answer = client_of(None).get("/archsync/api/v1/me", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code in (401, 403)
    assert answer.headers["content-type"] == MEDIA_TYPE


def test_everybody_is_told_their_rights(client_of) -> None:
    for role in ROLES[1:]:
        rights = client_of(role).get("/archsync/api/v1/me").json()["rights"]
        assert set(rights) == {right.value for right, holders in HOLDERS.items() if role in holders}


def test_the_rights_are_these_four() -> None:
    assert set(access.Right) == set(HOLDERS)
