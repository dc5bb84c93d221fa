"""Instances' files: opened and read once each, checked, and kept open until they are sent."""

from __future__ import annotations

import os
from dataclasses import dataclass

from archsync.core.transfer import OutgoingInstance
from archsync.errors import InvalidInput
from archsync.net.dicom.fitting import check_uids
from archsync.net.dicom.part10 import FileFacts, read_facts
from archsync.net.dicom.scan import scan_facts
from archsync.net.images import open_image
from archsync.net.remote.ahead import ImagesAhead


@dataclass(slots=True)
class OpenInstance:
    """An instance and its open file, which is the one that is meant and whole. Whoever has it closes it."""

    instance: OutgoingInstance
    facts: FileFacts
    descriptor: int
    was_read_slowly: bool = False
    """By the reader that takes any file, for it was not one that the fast reader is sure of."""

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def open_instance(instance: OutgoingInstance, ahead: ImagesAhead | None = None) -> OpenInstance:
    """Open an instance's file, which may have been copied ``ahead``, and see that it is the one meant, and whole.

    Raises:
        InvalidInput: the file is missing, unreadable, not DICOM or cut short, or its UIDs are not the row's. Study and
            series may be others if the instance is to be fitted.
        PeerUnavailable: a remote image can't be had now; later it may.
    """
    uid = instance.uid_in_file
    if ahead is None:
        file = open_image(instance.location, sop_instance_uid=uid)
    else:
        file = ahead.open(instance)
    try:
        try:
            facts = scan_facts(file)
            was_read_slowly = facts is None
            if facts is None:
                facts = read_facts(file.path, sop_instance_uid=uid)
        except OSError as exc:
            raise unreadable(uid, exc) from None  # the cause names the path, which may hold a patient's name
        check_uids(instance, facts)
    except BaseException:
        os.close(file.descriptor)
        raise
    return OpenInstance(instance, facts, file.descriptor, was_read_slowly)


def unreadable(sop_instance_uid: str, exc: OSError) -> InvalidInput:
    """The error for a file that can't be read."""
    return InvalidInput(f"instance {sop_instance_uid}: its file can't be read ({exc.strerror})", code="file-unreadable")
