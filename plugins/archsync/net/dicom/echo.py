"""Tells whether a DICOM peer is there (:func:`echo`) and, if not usable, where it fails (:func:`diagnose`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from archsync.core.contexts import FALLBACK_SYNTAXES, ProposedContext
from archsync.core.transfer import Endpoint
from archsync.errors import ArchsyncError, DestinationMisconfigured, PeerUnavailable
from archsync.messages.dimse import C_ECHO_RQ
from archsync.net.dicom.association import PeerAssociation
from archsync.net.dicom.find import STUDY_ROOT_FIND
from archsync.net.dicom.opening import VERIFICATION, open_association
from archsync.net.dicom.transport import build_tls_context, connect, start_tls, where

COMMON_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image
    "1.2.840.10008.5.1.4.1.1.4",  # MR Image
    "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography Image
    "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray Image, for presentation
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound Image
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
    "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
)
"""What most archives take; the storage step of :func:`diagnose` asks for these."""

_KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"

_VERIFICATION_CONTEXT = ProposedContext(VERIFICATION, FALLBACK_SYNTAXES)
_FIND_CONTEXT = ProposedContext(STUDY_ROOT_FIND, FALLBACK_SYNTAXES)


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step of a diagnosis. ``code`` is empty when it succeeded, else that of the error; so is ``next_step``."""

    name: str
    ok: bool
    message: str
    code: str = ""
    next_step: str = ""


def echo(endpoint: Endpoint) -> None:
    """Return when the peer accepts an association and answers a C-ECHO; nothing is stored.

    A peer that accepts the association for storage but no C-ECHO counts as there.

    Raises:
        PeerUnavailable, DestinationMisconfigured, ConfigurationError: as ``store_instances`` does; ``echo-refused``.
    """
    storage = ProposedContext(COMMON_SOP_CLASSES[0], FALLBACK_SYNTAXES)
    with open_association(endpoint, (_VERIFICATION_CONTEXT, storage)) as peer:
        _echo(endpoint, peer)


def _echo(endpoint: Endpoint, peer: PeerAssociation) -> bool:
    """Do a C-ECHO; False when the peer offers none."""
    contexts = [c for s in FALLBACK_SYNTAXES if (c := peer.context_id(VERIFICATION, s)) is not None]
    if not contexts:
        return False
    peer.send(C_ECHO_RQ, VERIFICATION, contexts[0])
    response = peer.receive()
    if response is None:
        raise PeerUnavailable(
            f"{where(endpoint)} accepted the association but did not answer C-ECHO ({peer.describe_loss()})",
            reached_peer=True,
            code="echo-no-answer",
        )
    if response.status != 0:
        message = f"{where(endpoint)} refused C-ECHO (status {response.status:04X})"
        raise DestinationMisconfigured(message, code="echo-refused")
    return True


def diagnose(
    endpoint: Endpoint, *, sop_classes: Sequence[str] = COMMON_SOP_CLASSES, needs_notes: bool = False
) -> Iterator[ProbeStep]:
    """Try the peer step by step: TCP, TLS, association, C-ECHO, storage contexts, notes, C-FIND. Nothing is stored.

    Ends after the first step without which the next can't succeed. The last three say what the archive offers; they
    fail without ending the diagnosis. That it takes no rejection notes is a failure where it ``needs_notes``.
    """
    try:
        with connect(endpoint) as connection:
            yield ProbeStep("tcp", True, f"{endpoint.host} port {endpoint.port} takes connections")
            if endpoint.tls is not None:
                step = "tls"
                try:
                    secured = start_tls(endpoint, connection, build_tls_context(endpoint.tls), wait_for_objections=True)
                except ArchsyncError as exc:
                    yield _failed(step, exc)
                    return
                yield ProbeStep(step, True, f"{secured.version()} with both certificates accepted")
                secured.close()
    except ArchsyncError as exc:
        yield _failed("tcp", exc)
        return
    storage = [ProposedContext(sop_class, FALLBACK_SYNTAXES) for sop_class in (*sop_classes, _KEY_OBJECT_SELECTION)]
    step = "association"
    try:
        with open_association(endpoint, (_VERIFICATION_CONTEXT, _FIND_CONTEXT, *storage)) as peer:
            yield ProbeStep(
                step, True, f"{endpoint.called_ae_title!r} accepts {endpoint.calling_ae_title!r} as calling AE title"
            )
            step = "echo"
            answered = _echo(endpoint, peer)
            yield (
                ProbeStep(step, True, "C-ECHO answered")
                if answered
                else ProbeStep(step, False, "the peer accepts no C-ECHO", "echo-not-supported")
            )
            yield _storage_step(peer, sop_classes)
            yield _notes_step(peer, needs_notes=needs_notes)
            if _is_accepted(peer, STUDY_ROOT_FIND):
                yield ProbeStep("find", True, "C-FIND (Study Root) is accepted: stored instances can be verified")
            else:
                yield ProbeStep(
                    "find",
                    False,
                    "C-FIND (Study Root) is not accepted: verification by c-find can't be used",
                    "find-not-supported",
                )
    except ArchsyncError as exc:
        yield _failed(step, exc)


def _storage_step(peer: PeerAssociation, sop_classes: Sequence[str]) -> ProbeStep:
    refused = [UID(sop_class).name for sop_class in sop_classes if not _is_accepted(peer, sop_class)]
    if not refused:
        return ProbeStep("storage", True, f"all {len(sop_classes)} common SOP classes are accepted")
    if len(refused) == len(sop_classes):
        return ProbeStep("storage", False, "none of the common SOP classes is accepted", "no-sop-class-accepted")
    return ProbeStep("storage", False, f"not accepted: {', '.join(refused)}", "sop-class-not-accepted")


def _notes_step(peer: PeerAssociation, *, needs_notes: bool) -> ProbeStep:
    if _is_accepted(peer, _KEY_OBJECT_SELECTION):
        return ProbeStep("notes", True, "rejection notes are accepted; this does not show that they are honoured")
    message = "rejection notes are not accepted: the archive takes no Key Object Selection"
    return ProbeStep("notes", not needs_notes, message, "notes-not-accepted" if needs_notes else "")


def _is_accepted(peer: PeerAssociation, sop_class_uid: str) -> bool:
    return any(peer.context_id(sop_class_uid, syntax) is not None for syntax in FALLBACK_SYNTAXES)


def _failed(name: str, exc: ArchsyncError) -> ProbeStep:
    return ProbeStep(name, False, exc.message, exc.code, exc.next_step)
