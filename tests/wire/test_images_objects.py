"""Images in object stores: what any fsspec file system gives, and what its failures mean."""

from __future__ import annotations

import os
import random
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from archsync.errors import ConfigurationError, InvalidInput, PeerUnavailable
from archsync.net.images import image_size_bytes, is_readable, open_image
from archsync.net.remote import access, copying

UID = "1.2.3.4"
BIG = random.Random(1).randbytes(9_000_000)


class Flaky(MemoryFileSystem):
    """Objects in memory; the next calls raise what ``failures`` holds. ``lost_bytes`` are missing at the end."""

    protocol = "flaky"
    cachable = False
    store: dict[str, object] = {}  # noqa: RUF012 - as in the class it comes from

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []
        self.copies = 0
        self.lost_bytes = 0

    def get_file(self, rpath: str, lpath: str, **kwargs: object) -> None:
        self.copies += 1
        if self.failures:
            raise self.failures.pop(0)
        super().get_file(rpath, lpath, **kwargs)
        if self.lost_bytes:
            os.truncate(lpath, os.stat(lpath).st_size - self.lost_bytes)  # noqa: PTH116 - it is an open file


@pytest.fixture
def files(monkeypatch):
    """A bucket with one image, and this process knowing its scheme."""
    monkeypatch.setattr(copying, "PAUSES_S", (0.0, 0.0, 0.0))
    files = Flaky()
    files.pipe_file("/bucket/DOE^JANE/1.dcm", BIG)

    class Objects(access.NoAccess):
        def knows(self, scheme: str) -> bool:
            return scheme == "flaky"

        def find_object(self, location: str) -> tuple[fsspec.AbstractFileSystem, str]:
            if "@" in location:
                raise ConfigurationError("the connection 'x' is not defined", code="object-store-not-set-up")
            return files, "/" + location.removeprefix("flaky://")

    before = access.current()
    access.use(Objects())
    yield files
    access.use(before)
    files.store.clear()


LOCATION = "flaky://bucket/DOE^JANE/1.dcm"


def test_an_object_is_copied_to_the_byte(files):
    path, descriptor, _ = open_image(LOCATION, sop_instance_uid=UID)
    assert Path(path).read_bytes() == BIG
    os.close(descriptor)
    assert image_size_bytes(LOCATION, sop_instance_uid=UID) == len(BIG)


def test_schemes_without_a_file_system_are_not_readable(files):
    assert is_readable(LOCATION)
    assert not is_readable("s3://bucket/1.dcm")
    with pytest.raises(InvalidInput) as caught:
        open_image("s3://bucket/DOE", sop_instance_uid=UID)
    assert caught.value.code == "unknown-location-scheme"
    assert "provider" in caught.value.next_step


@pytest.mark.parametrize("failure", [TimeoutError(), ConnectionResetError(), OSError(5, "error"), RuntimeError("DOE")])
def test_a_store_that_fails_for_a_while_is_asked_again(files, failure):
    files.failures = [failure] * 3
    path, descriptor, _ = open_image(LOCATION, sop_instance_uid=UID)
    assert Path(path).read_bytes() == BIG
    os.close(descriptor)


@pytest.mark.parametrize(
    ("failure", "kind", "code", "tries"),
    [
        (TimeoutError("DOE"), PeerUnavailable, "image-source-unavailable", 4),
        (OSError("DOE"), PeerUnavailable, "image-source-unavailable", 4),
        (OSError(28, "No space left on device", "DOE"), PeerUnavailable, "no-room-for-copy", 1),
        (FileNotFoundError("DOE"), InvalidInput, "file-missing", 1),
        (PermissionError("DOE"), InvalidInput, "image-access-denied", 1),
        (IsADirectoryError("DOE"), InvalidInput, "file-not-regular", 1),
    ],
)
def test_what_a_failure_means_is_told_without_the_path(files, failure, kind, code, tries):
    files.failures = [failure] * 9
    with pytest.raises(kind, match=UID) as caught:
        open_image(LOCATION, sop_instance_uid=UID)
    assert caught.value.code == code
    assert files.copies == tries
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "DOE" not in caught.value.message


@pytest.mark.parametrize(
    ("location", "code"), [("flaky://bucket/DOE", "file-missing"), ("flaky://bucket", "file-not-regular")]
)
def test_what_is_no_object_fails_the_instance(files, location, code):
    with pytest.raises(InvalidInput) as caught:
        open_image(location, sop_instance_uid=UID)
    assert caught.value.code == code


def test_an_object_that_ends_early_is_told(files):
    files.lost_bytes = 1
    with pytest.raises(PeerUnavailable, match=f"{UID}: its source gave 8999999 of 9000000 bytes") as caught:
        open_image(LOCATION, sop_instance_uid=UID)
    assert caught.value.code == "image-incomplete"


def test_a_store_that_is_not_set_up_fails_the_instance_and_not_the_destination(files):
    with pytest.raises(InvalidInput) as caught:
        open_image("flaky://x@bucket/DOE", sop_instance_uid=UID)
    assert caught.value.code == "object-store-not-set-up"
