"""From a location of the platform to a file."""

from __future__ import annotations

import pytest

from archsync.errors import InvalidInput
from archsync.net.images import local_image

UID = "1.2.3.4"


@pytest.mark.parametrize("name", ["plain.dcm", "with space.dcm", "100%.dcm", "what?.dcm", "no#1.dcm", "schön.dcm"])
def test_a_file_uri_gives_the_file_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"x")
    assert local_image(path.as_uri(), sop_instance_uid=UID) == path


def test_localhost_is_this_machine(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"x")
    assert local_image(path.as_uri().replace("file://", "file://localhost"), sop_instance_uid=UID) == path


def test_a_symbolic_link_leads_to_its_file(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(b"x")
    link = tmp_path / "link.dcm"
    link.symlink_to(path)
    assert local_image(link.as_uri(), sop_instance_uid=UID).read_bytes() == b"x"


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("s3://bucket/DOE/1.dcm", "unknown-location-scheme"),
        ("ftp://pacs.example/DOE/1.dcm", "unknown-location-scheme"),
        ("/images/DOE/1.dcm", "unknown-location-scheme"),
        ("", "unknown-location-scheme"),
        ("file://[DOE", "unknown-location-scheme"),
        ("file://fileserver/DOE/1.dcm", "unknown-location-scheme"),
        ("file:///no/such/DOE/1.dcm", "file-missing"),
        ("file:///etc/passwd/DOE", "file-missing"),
        ("file:///DOE%00", "file-unreadable"),
        ("file:///", "file-not-regular"),
        ("file:///dev/null", "file-not-regular"),
    ],
)
def test_anything_else_is_refused_by_uid_and_code_without_the_path(location, code):
    with pytest.raises(InvalidInput, match=UID) as caught:
        local_image(location, sop_instance_uid=UID)
    assert caught.value.code == code
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "DOE" not in caught.value.message
