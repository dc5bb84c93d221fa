"""What a C-STORE response status means and what follows from it.

The ranges are those of PS3.4 Table B.2-1 (storage) and PS3.7 Annex C (general statuses). Inside A7xx some archives give
codes a meaning of their own, which is asked for first: ``core/archive_answers.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsync.core.archive_answers import find_answer
from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import StoreResult


@dataclass(frozen=True, slots=True)
class StatusMeaning:
    """One row: the statuses ``first``..``last`` (inclusive), what became of the instance, and what to do.

    ``message`` is an administrator's sentence without the status itself; ``clause`` is where the row comes from.
    """

    first: int
    last: int
    result: StoreResult
    code: str
    message: str
    next_step: str
    clause: str


_STORED, _WARNING, _REFUSED = StoreResult.STORED, StoreResult.WARNING, StoreResult.REFUSED
_BUSY, _LIMITED, _STOP, _UNKNOWN = StoreResult.BUSY, StoreResult.LIMITED, StoreResult.STOP, StoreResult.UNKNOWN

_NOTHING = "Nothing to do."
_WAIT = "Nothing to do: archsync tries again by itself. If it lasts, check the archive's storage and load."
_READ_LOG = "Read the archive's log for this SOP Instance UID, correct the cause, then retry the job."
_FIX_INSTANCE = "Check the instance with a DICOM validator, correct it on the platform, then retry the job."

_GENERAL = "PS3.7 Annex C"
_STORAGE = "PS3.4 Table B.2-1"

# The first row that contains the status counts, so single codes stand above the range they lie in.
STATUS_TABLE: tuple[StatusMeaning, ...] = (
    StatusMeaning(0x0000, 0x0000, _STORED, "stored", "The archive stored the instance.", _NOTHING, _STORAGE),
    StatusMeaning(
        0x0110, 0x0110, _LIMITED, "processing-failure", "The archive failed while processing the instance.",
        _READ_LOG, _GENERAL,
    ),
    # The archive says that it holds this SOP Instance UID: the wanted end, and what a resend after a lost answer gets
    # from archives that use this status. Whether it holds these bytes is no more certain than after 0000, which
    # archives also give while they keep an older copy; verification by C-FIND settles the first, nothing the second.
    StatusMeaning(
        0x0111, 0x0111, _WARNING, "duplicate-instance",
        "The archive already held an instance with this UID and did not store it again.", _NOTHING,
        _GENERAL,
    ),
    StatusMeaning(
        0x0117, 0x0117, _REFUSED, "invalid-instance-uid", "The archive calls the SOP Instance UID invalid.",
        _FIX_INSTANCE, _GENERAL,
    ),
    StatusMeaning(
        0x0120, 0x0120, _REFUSED, "missing-attribute", "The archive misses an attribute in the request.", _READ_LOG,
        _GENERAL,
    ),
    StatusMeaning(
        0x0121, 0x0121, _REFUSED, "missing-attribute-value", "The archive misses the value of an attribute.",
        _READ_LOG, _GENERAL,
    ),
    StatusMeaning(
        0x0122, 0x0122, _REFUSED, "sop-class-not-supported", "The archive does not support this SOP class.",
        "Enable the SOP class at the archive, then retry the job.", _GENERAL,
    ),
    StatusMeaning(
        0x0124, 0x0124, _STOP, "not-authorized", "The archive does not allow us to store.",
        "Give our calling AE title the right to store at the archive, then enable the destination.",
        _GENERAL,
    ),
    StatusMeaning(
        0x0210, 0x0210, _BUSY, "duplicate-invocation", "The archive took the request for a repeated message id.",
        _WAIT, _GENERAL,
    ),
    StatusMeaning(
        0x0211, 0x0211, _REFUSED, "unrecognized-operation", "The peer does not know the C-STORE operation.",
        "Check that host and port belong to a storage service.", _GENERAL,
    ),
    StatusMeaning(
        0x0212, 0x0212, _REFUSED, "mistyped-argument", "The archive calls an argument of the request mistyped.",
        _READ_LOG, _GENERAL,
    ),
    StatusMeaning(
        0x0213, 0x0213, _BUSY, "resource-limitation", "The archive is out of resources.", _WAIT,
        _GENERAL,
    ),
    StatusMeaning(
        0xA700, 0xA7FF, _BUSY, "out-of-resources", "The archive is out of resources.", _WAIT, _STORAGE
    ),
    StatusMeaning(
        0xA900, 0xA9FF, _REFUSED, "sop-class-mismatch", "The data set does not match its SOP class.", _FIX_INSTANCE,
        _STORAGE,
    ),
    StatusMeaning(
        0xB000, 0xB000, _WARNING, "stored-coerced", "Stored; the archive changed attributes.",
        "Nothing to do, unless the archive should keep attributes as they are.", _STORAGE,
    ),
    StatusMeaning(
        0xB006, 0xB006, _WARNING, "stored-elements-discarded", "Stored, but the archive dropped elements.",
        "Let the archive's administrator say which elements are dropped and whether that is acceptable.", _STORAGE,
    ),
    StatusMeaning(
        0xB007, 0xB007, _WARNING, "stored-sop-class-mismatch",
        "Stored, but the archive finds that the data set does not match its SOP class.",
        "Check the instance with a DICOM validator.", _STORAGE,
    ),
    StatusMeaning(
        0xB000, 0xBFFF, _WARNING, "stored-with-warning", "Stored, with a warning of the archive.",
        "Read the archive's log for the meaning of this status.", _STORAGE,
    ),
    StatusMeaning(
        0xC000, 0xCFFF, _REFUSED, "cannot-understand", "The archive can't understand the instance.", _READ_LOG,
        _STORAGE,
    ),
)  # fmt: skip

_NO_ANSWER = StatusMeaning(
    -1, -1, _UNKNOWN, "outcome-unknown", "Sent, and no valid answer came.",
    "Nothing to do: the same bytes are sent again, which is safe.", "PS3.7 9.3.1.2",
)  # fmt: skip

_UNLISTED = StatusMeaning(
    -1, -1, _LIMITED, "unknown-status", "The archive gave a status the standard does not define for C-STORE.",
    _READ_LOG, _STORAGE,
)  # fmt: skip


def explain_store_status(status: int | None, profile: ArchiveProfile = ArchiveProfile.GENERIC) -> StatusMeaning:
    """Say what a C-STORE status from an archive means; None stands for "no valid response came"."""
    if status is None:
        return _NO_ANSWER
    if row := find_answer(status, profile):
        said = row.explanation
        clause = f"{_STORAGE}; meaning as archives of profile {profile} use it"
        return StatusMeaning(row.first, row.last, row.result, said.code, said.message, said.next_step, clause)
    return next((row for row in STATUS_TABLE if row.first <= status <= row.last), _UNLISTED)


def describe_store_status(status: int | None, profile: ArchiveProfile = ArchiveProfile.GENERIC) -> str:
    """The administrator's sentence for a status, with the status in hexadecimal as archives log it."""
    return with_status(explain_store_status(status, profile).message, status)


def with_status(message: str, status: int | None) -> str:
    """A sentence with the status it is about, if there was one."""
    return message if status is None else f"{message} (status {status:04X})"
