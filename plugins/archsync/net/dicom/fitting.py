"""Sees that what goes out is what the archive is to have: checks files, and corrects copies of those that differ.

A copy lives in a temporary folder of its own from just before its instance is sent until the answer is there, so there
is one at a time, however many instances differ. ``TMPDIR`` moves the folder, as for any program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from archsync.core.dependants import Dependence, dependence_of
from archsync.core.fitting import Fitting
from archsync.core.transfer import OutgoingInstance
from archsync.core.uid_map import InstanceUids
from archsync.errors import InvalidInput, PeerUnavailable
from archsync.net.dicom.part10 import FileFacts, read_facts
from archsync.net.dicom.referring import read_references_of
from archsync.net.dicom.replacement import write_replacement

_SHOWN_ATTRIBUTES = 3


def check_uids(instance: OutgoingInstance, facts: FileFacts) -> None:
    """See that a file is the one that is meant.

    Raises:
        InvalidInput: ``uid-mismatch``.
    """
    uid = instance.uid_in_file
    expected: dict[str, tuple[str, str | None]] = {
        "SOP Instance UID": (facts.sop_instance_uid, uid),
        "SOP Class UID": (facts.sop_class_uid, instance.sop_class_uid),
        "SOP Instance UID in the meta information": (facts.meta_sop_instance_uid or uid, uid),
    }
    if instance.fitting is None:
        expected["Study Instance UID"] = (facts.study_instance_uid, instance.study_instance_uid)
        expected["Series Instance UID"] = (facts.series_instance_uid, instance.series_instance_uid)
    for name, (found, wanted) in expected.items():
        if wanted is not None and found != wanted:
            raise InvalidInput(
                f"instance {uid}: its file's {name} is {found or 'absent'}, the platform says {wanted}",
                code="uid-mismatch",
            )


def fits(instance: OutgoingInstance, facts: FileFacts) -> bool:
    """True if a file says what the archive is to have, so that it can go out as it is."""
    if instance.fitting is None:
        return True  # its UIDs were checked, and nothing else is asked for
    return _says(instance, instance.fitting, facts) and not _points_at_former(instance, instance.fitting, facts)


def _says(instance: OutgoingInstance, fitting: Fitting, facts: FileFacts) -> bool:
    return (
        facts.sop_instance_uid == instance.sop_instance_uid
        and facts.study_instance_uid == instance.study_instance_uid
        and facts.series_instance_uid == instance.series_instance_uid
        and facts.patient.is_of(fitting.patient)
    )


def _points_at_former(instance: OutgoingInstance, fitting: Fitting, facts: FileFacts) -> bool:
    """Tell whether a key image, presentation state or the like names UIDs that are no more; images are not asked."""
    if dependence_of(instance.sop_class_uid) is not Dependence.DERIVED:
        return False
    try:
        return any(map(fitting.uid_map.concerns, read_references_of(facts.path, instance.uid_in_file)))
    except InvalidInput:
        return False  # it can't be corrected, and what it says of itself is right


@contextmanager
def corrected_copy(instance: OutgoingInstance, source: FileFacts) -> Iterator[tuple[FileFacts, str]]:
    """Write the copy that says what the archive is to have; it is there until the block ends.

    Gives its facts, and what to tell the administrator. Same arguments, same bytes.

    Raises:
        InvalidInput: the file can't be corrected (:func:`write_replacement` lists the codes), or ``copy-not-right``.
        PeerUnavailable: ``no-room-for-copy``: the copy can't be written; later it may.
    """
    fitting, uid = instance.fitting, instance.uid_in_file
    assert fitting is not None, "only called for what does not fit"
    uids = InstanceUids(str(instance.study_instance_uid), str(instance.series_instance_uid), instance.sop_instance_uid)
    try:
        # What can't be removed now is not worth losing the archive's answer.
        folder = TemporaryDirectory(prefix="archsync-corrected-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise _no_room(uid, exc) from None
    with folder as name:
        target = Path(name, "corrected.dcm")
        try:
            written = write_replacement(
                Path(source.path),
                target,
                sop_instance_uid=uid,
                uids=uids,
                uid_map=fitting.uid_map,
                study=fitting.study,
                patient=fitting.patient,
                modification=fitting.modification,
                request=fitting.request,
            )
        except OSError as exc:
            raise _no_room(uid, exc) from None
        facts = read_facts(target, sop_instance_uid=uid)
        if not _says(instance, fitting, facts) or facts.sop_class_uid != source.sop_class_uid:
            raise InvalidInput(
                f"instance {uid}: its corrected copy does not say what the archive is to have",
                code="copy-not-right",
                next_step="Report this with the job number; it is a fault in archsync. Nothing was sent.",
            )
        yield facts, _describe(written.left)


def _describe(left: tuple[str, ...]) -> str:
    sentence = "sent with the patient and UIDs the platform gives"
    if not left:
        return sentence
    more = ", …" if len(left) > _SHOWN_ATTRIBUTES else ""
    return f"{sentence}; former UIDs stay in {', '.join(left[:_SHOWN_ATTRIBUTES])}{more}"


def _no_room(uid: str, exc: OSError) -> PeerUnavailable:
    return PeerUnavailable(
        f"instance {uid}: its corrected copy can't be written to the folder for temporary files ({exc.strerror})",
        reached_peer=True,
        code="no-room-for-copy",
        next_step="Make room in the folder for temporary files of the sending machine, or set TMPDIR to another one.",
    )
