"""Reads what the file of a key image, presentation state, segmentation or report points at."""

from __future__ import annotations

import os

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from archsync.errors import InvalidInput
from archsync.net.dicom.references import find_references
from archsync.net.images import open_image


def read_references(location: str, *, sop_instance_uid: str) -> frozenset[str]:
    """The SOP Instance UIDs of the objects that an instance's file refers to.

    Raises:
        InvalidInput: the file can't be read, or holds another instance (``uid-mismatch``).
        PeerUnavailable: a remote image can't be had now.
    """
    file = open_image(location, sop_instance_uid=sop_instance_uid)
    try:
        return read_references_of(file.path, sop_instance_uid)
    finally:
        os.close(file.descriptor)


def read_references_of(path: str, sop_instance_uid: str) -> frozenset[str]:
    """The same of a file; raises the same."""
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        found = find_references(dataset)
    except OSError as exc:
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file can't be read ({exc.strerror})", code="file-unreadable"
        ) from None  # the cause names the path, which may hold a patient's name
    except (InvalidDicomError, ValueError, KeyError, AttributeError, EOFError, NotImplementedError) as exc:
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file can't be read as DICOM ({type(exc).__name__})",
            code="file-not-dicom",
        ) from None
    if dataset.get("SOPInstanceUID") != sop_instance_uid:
        raise InvalidInput(f"instance {sop_instance_uid}: its file holds another SOP Instance UID", code="uid-mismatch")
    return frozenset(found)
