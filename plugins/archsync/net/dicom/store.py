"""Sends instances by C-STORE. :func:`store_instances` is the whole interface; the engine behind it may change."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pynetdicom.dimse_primitives import C_STORE

from archsync.core.contexts import FALLBACK_SYNTAXES, MAX_CONTEXTS, ProposedContext, plan_associations
from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome, StoreResult
from archsync.errors import DestinationMisconfigured, InvalidInput, OutcomeUnknown, PeerUnavailable
from archsync.messages.store_status import describe_store_status, explain_store_status
from archsync.net.dicom.association import VERIFICATION, PeerAssociation, open_association
from archsync.net.dicom.fitting import check_file, corrected_copy, fits
from archsync.net.dicom.part10 import FileFacts
from archsync.net.dicom.reencode import reencode, uid_name
from archsync.net.dicom.transport import where

_PATIENCE = 3
"""That many "try later" answers in a row end the attempt: the archive asks to be left alone."""

_MEDIUM_PRIORITY = 0

# Every archive takes C-ECHO. Proposing it too tells an archive that takes nothing from us (a wrong configuration) from
# one that takes everything but the SOP classes of this job (which concerns these instances alone).
_VERIFICATION_CONTEXT = ProposedContext(VERIFICATION, FALLBACK_SYNTAXES)


def store_instances(endpoint: Endpoint, instances: Sequence[OutgoingInstance]) -> Generator[StoreOutcome, None, None]:
    """Send instances, yielding the outcome of each as soon as it is final.

    One association serves all, more only when their SOP classes and transfer syntaxes need more than 128 contexts.
    Instances whose file can't be sent come first, as ``REFUSED``; the rest goes on. A file that says what the archive
    is to have, or is not to be fitted, goes out as it is; of any other a corrected copy. That goes byte for byte when
    the peer takes its transfer syntax, else re-encoded without loss. Closing the generator ends the association.
    A second call with the same instances is safe: the SOP Instance UID identifies each.

    Raises (after yielding the outcomes so far):
        OutcomeUnknown: an instance was sent and no valid answer came; it is the last one yielded.
        PeerUnavailable: not reachable, refused for now, hung up between two instances, or "try later" 3 times running;
            or ``no-room-for-copy``: a corrected copy can't be written.
        DestinationMisconfigured: refused as such: AE title, TLS, no common context, status 0124.
        ConfigurationError: an AE title or a TLS file can't be used.
    """
    checked: list[tuple[OutgoingInstance, FileFacts]] = []
    for instance in instances:
        try:
            checked.append((instance, check_file(instance)))
        except InvalidInput as exc:
            yield _refused(instance, exc)
    busy_in_a_row = 0
    plans = plan_associations(
        [(facts.sop_class_uid, facts.transfer_syntax_uid) for _, facts in checked], max_contexts=MAX_CONTEXTS - 1
    )
    for plan in plans:
        with open_association(endpoint, (*plan.contexts, _VERIFICATION_CONTEXT)) as peer:
            for position in plan.positions:
                outcome = _store(peer, *checked[position], endpoint.profile)
                yield outcome
                _stop_if_hopeless(endpoint, outcome, peer)
                busy_in_a_row = busy_in_a_row + 1 if outcome.result is StoreResult.BUSY else 0
                if busy_in_a_row == _PATIENCE:
                    raise PeerUnavailable(
                        f"{where(endpoint)} asked for patience {_PATIENCE} times in a row: {outcome.message}",
                        reached_peer=True,
                        code=outcome.code,
                    )


@dataclass(frozen=True, slots=True)
class _Message:
    """A C-STORE request ready to leave, and what to say about it."""

    request: Any
    context_id: int
    facts: FileFacts
    transfer_syntax_uid: str
    size_bytes: int
    notes: tuple[str, ...]


def _store(
    peer: PeerAssociation, instance: OutgoingInstance, facts: FileFacts, profile: ArchiveProfile
) -> StoreOutcome:
    """Send one instance in the best form the peer takes."""
    with ExitStack() as until_answered:
        try:
            message = _prepare(peer, instance, facts, until_answered)
        except InvalidInput as exc:
            return _refused(instance, exc)
        try:
            peer.send(message.request, message.context_id)
        except OSError:
            # The file went away between its check and now, with the request half sent. Nothing is known to be stored: a
            # new attempt names the file or sends it.
            peer.close()
        response = peer.receive()
        status = None if response is None else int(response.Status)
        meaning = explain_store_status(status, profile)
        result, code, sentence = meaning.result, meaning.code, describe_store_status(status, profile)
        if status is None:
            sentence = f"{sentence} ({peer.describe_loss()})"
        elif result.is_stored and not message.facts.is_unchanged:
            # What the peer holds now may be neither the old content nor the new.
            result, code, sentence = StoreResult.LIMITED, "file-changed", "The file changed while it was being sent"
    return StoreOutcome(
        instance=instance,
        result=result,
        status=status,
        code=code,
        message="; ".join((sentence, *message.notes)),
        bytes_sent=message.size_bytes,
        sent_transfer_syntax_uid=message.transfer_syntax_uid,
    )


def _prepare(
    peer: PeerAssociation, instance: OutgoingInstance, facts: FileFacts, until_answered: ExitStack
) -> _Message:
    """The request for one instance: its file or a corrected copy, which ``until_answered`` deletes, or re-encoded.

    Raises:
        InvalidInput: the file has changed for the worse, or the peer takes it in no form we can make.
        PeerUnavailable: ``no-room-for-copy``.
    """
    if not facts.is_unchanged:
        facts = check_file(instance)
    syntax, notes = facts.transfer_syntax_uid, []
    if syntax != instance.transfer_syntax_uid:
        notes.append(f"its file is in {uid_name(syntax)}, not as the platform says")
    if not fits(instance, facts):
        facts, note = until_answered.enter_context(corrected_copy(instance, facts))
        notes.append(note)
    request = C_STORE()
    request.AffectedSOPClassUID = facts.sop_class_uid
    request.AffectedSOPInstanceUID = facts.sop_instance_uid
    request.Priority = _MEDIUM_PRIORITY
    context_id = peer.context_id(facts.sop_class_uid, syntax)
    if context_id is None:
        syntax, context_id = _fallback(peer, facts)
        data_set = reencode(facts, syntax)
        notes.append(f"sent as {uid_name(syntax)}")
    elif facts.data_set_bytes % 2:
        data_set = _padded_data_set(facts)
    else:
        # Streamed from the file, so the peer gets the stored bytes.
        request._dataset_path = (facts.path, facts.data_set_offset)
        return _Message(request, context_id, facts, syntax, facts.data_set_bytes, tuple(notes))
    request.DataSet = BytesIO(data_set)
    return _Message(request, context_id, facts, syntax, len(data_set), tuple(notes))


def _padded_data_set(facts: FileFacts) -> bytes:
    """An odd data set with the byte that makes it even.

    Only a deflated one can be odd, in a file without the padding of PS3.5 A.5. Fragments must be even (PS3.8 9.3.5.1);
    DCMTK aborts on one that is not.
    """
    try:
        return facts.path.read_bytes()[facts.data_set_offset :] + b"\0"
    except OSError as exc:
        raise InvalidInput(
            f"instance {facts.sop_instance_uid}: its file can't be read ({exc.strerror})", code="file-unreadable"
        ) from None  # the cause names the path, which may hold a patient's name


def _fallback(peer: PeerAssociation, facts: FileFacts) -> tuple[str, int]:
    """The uncompressed syntax and context to fall back to.

    Raises:
        InvalidInput: ``sop-class-not-accepted`` or ``transfer-syntax-not-accepted``: there is none.
    """
    for syntax in FALLBACK_SYNTAXES:
        context_id = peer.context_id(facts.sop_class_uid, syntax)
        if context_id is not None:
            return syntax, context_id
    if peer.refuses_class(facts.sop_class_uid):
        raise InvalidInput(
            f"the archive does not take SOP class {uid_name(facts.sop_class_uid)}",
            code="sop-class-not-accepted",
            next_step="Enable the SOP class at the archive, then retry the job.",
        )
    raise InvalidInput(
        f"the archive takes neither {uid_name(facts.transfer_syntax_uid)} nor an uncompressed transfer syntax "
        f"for SOP class {uid_name(facts.sop_class_uid)}",
        code="transfer-syntax-not-accepted",
        next_step="Enable the transfer syntax at the archive, then retry the job.",
    )


def _refused(instance: OutgoingInstance, reason: InvalidInput) -> StoreOutcome:
    return StoreOutcome(instance=instance, result=StoreResult.REFUSED, code=reason.code, message=reason.message)


def _stop_if_hopeless(endpoint: Endpoint, outcome: StoreOutcome, peer: PeerAssociation) -> None:
    """Raise when nothing more can be sent after this outcome."""
    if outcome.result is StoreResult.UNKNOWN:
        raise OutcomeUnknown(
            f"Instance {outcome.instance.sop_instance_uid} was sent to {where(endpoint)} and no valid answer came "
            f"({peer.describe_loss()})"
        )
    if outcome.result is StoreResult.STOP:
        raise DestinationMisconfigured(
            f"{where(endpoint)} refused instance {outcome.instance.sop_instance_uid}: {outcome.message}",
            code=outcome.code,
            next_step=explain_store_status(outcome.status, endpoint.profile).next_step,
        )
