"""Sends the kept bytes of a rejection note as they are."""

from __future__ import annotations

import tempfile
from pathlib import Path

from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome
from archsync.errors import PeerUnavailable
from archsync.ledger.rejection_notes import Note
from archsync.messages.rejection_note import EXPLICIT_LITTLE_ENDIAN, KEY_OBJECT_SELECTION
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.store import store_instances


def send_note(endpoint: Endpoint, note: Note, encoded: bytes, pace: Pace) -> StoreOutcome:
    """Send a note by C-STORE, from a temporary file, which is what the engine reads; gives the answer.

    Raises:
        PeerUnavailable: ``no-room-for-copy``; and as :func:`store_instances` does.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="archsync-note-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise _no_room(note, exc) from None
    with folder as name:
        path = Path(name, "note.dcm")
        try:
            path.write_bytes(encoded)
        except OSError as exc:
            raise _no_room(note, exc) from None
        outgoing = OutgoingInstance(
            instance_key=f"note {note.note_id}",
            sop_class_uid=KEY_OBJECT_SELECTION,
            sop_instance_uid=note.sop_instance_uid,
            transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
            location=path.as_uri(),
            size_bytes=len(encoded),
        )
        (outcome,) = store_instances(endpoint, [outgoing], pace)
    return outcome


def _no_room(note: Note, exc: OSError) -> PeerUnavailable:
    return PeerUnavailable(
        f"rejection note {note.sop_instance_uid} can't be written to the folder for temporary files ({exc.strerror})",
        reached_peer=True,
        code="no-room-for-copy",
        next_step="Make room in the folder for temporary files of the sending machine, or set TMPDIR to another one.",
    )
