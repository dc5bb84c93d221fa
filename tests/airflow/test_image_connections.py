"""Images read with Airflow's connections and file systems."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from archsync.errors import ConfigurationError, InvalidInput
from archsync.hooks.images import AirflowAccess, read_images_through_airflow
from archsync.net.images import image_size_bytes, is_readable, open_image
from archsync.net.remote import access
from archsync.net.remote.access import WebLogin
from archsync.simulate.image_server import SimulatedImageServer

UID = "1.2.3"


@pytest.fixture(autouse=True)
def through_airflow():
    before = access.current()
    read_images_through_airflow()
    yield
    access.use(before)


@pytest.fixture
def define(monkeypatch):
    def define(conn_id: str, **values: object) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "http", **values}))

    return define


def content(location: str) -> bytes:
    path, descriptor, _ = open_image(location, sop_instance_uid=UID)
    try:
        return Path(path).read_bytes()
    finally:
        os.close(descriptor)


def test_an_image_is_read_with_the_login_of_the_connection_that_its_location_names(tmp_path, define):
    (tmp_path / "a.dcm").write_bytes(b"image")
    with SimulatedImageServer(tmp_path, authorization="Basic cmVhZGVyOnNlY3JldA==") as server:
        define("pacs_web", host="127.0.0.1", port=server.port, login="reader", password="secret")
        assert content(server.url("a.dcm", userinfo="pacs_web@")) == b"image"
        with pytest.raises(InvalidInput) as caught:
            content(server.url("a.dcm"))
        assert caught.value.code == "image-access-denied"


@pytest.mark.parametrize(
    ("values", "login"),
    [
        ({"host": "pacs.example", "password": "t"}, WebLogin("pacs.example", None, None, None, "t")),
        (
            {"host": "pacs.example", "schema": "https", "port": 8443, "login": "u", "password": "p"},
            WebLogin("pacs.example", "https", 8443, "u", "p"),
        ),
        ({"host": "https://pacs.example:8443/x", "password": "t"}, WebLogin("pacs.example", "https", 8443, None, "t")),
    ],
)
def test_a_connection_says_whom_its_login_is_for(define, values, login):
    define("pacs_web", **values)
    assert AirflowAccess().login("pacs_web") == login


@pytest.mark.parametrize("values", [{"host": "pacs.example"}, {"password": "t"}, {}])
def test_a_connection_without_a_host_or_a_password_is_named(define, values):
    define("pacs_web", **values)
    with pytest.raises(ConfigurationError, match="'pacs_web'") as caught:
        AirflowAccess().login("pacs_web")
    assert caught.value.code == "bad-setting"


def test_a_connection_that_is_not_defined_is_named(airflow_db):
    with pytest.raises(InvalidInput, match="'nobody'") as caught:
        content("https://nobody@pacs.example/DOE")
    assert caught.value.code == "connection-missing"


def test_objects_are_found_where_airflow_finds_them(tmp_path):
    """``local`` is the one file system that Airflow has without a provider."""
    (tmp_path / "a b%20.dcm").write_bytes(b"image")
    location = f"local://{tmp_path}/a b%20.dcm"
    assert is_readable(location)
    assert content(location) == b"image"
    assert image_size_bytes(location, sop_instance_uid=UID) == 5
    with pytest.raises(InvalidInput) as caught:
        content(f"local://{tmp_path}/DOE")
    assert caught.value.code == "file-missing"


def test_a_scheme_without_a_provider_is_not_readable():
    assert not is_readable("s3://bucket/1.dcm")
    assert not is_readable("1.dcm")
