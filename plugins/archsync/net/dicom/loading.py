"""Loads data sets into the memory they go out of, in the best form the peer takes.

That is the file as it is; a corrected copy of it where it is to be fitted; or either, re-encoded without loss, where
the peer does not take its transfer syntax. What re-encodes runs ahead in a process beside (reencoder.py); copies are
made when their turn comes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from archsync.core.contexts import FALLBACK_SYNTAXES
from archsync.errors import InvalidInput
from archsync.net.dicom.association import PeerAssociation
from archsync.net.dicom.fitting import corrected_copy, fits
from archsync.net.dicom.fragments import FileSource, FragmentBuffer, SourceChanged
from archsync.net.dicom.opened import OpenInstance, open_instance, unreadable
from archsync.net.dicom.part10 import FileFacts
from archsync.net.dicom.reencoder import Reencoder, ReencodingFailed, not_reencodable, uid_name
from archsync.net.remote.ahead import ImagesAhead

CHANGED_CODE = "file-changed"


@dataclass(slots=True)
class Loaded:
    """A data set whose beginning is in the buffer, and what to say about it."""

    facts: FileFacts
    transfer_syntax_uid: str
    size_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def is_reencoded(self) -> bool:
        """True if it goes out in another transfer syntax than the file's."""
        return self.transfer_syntax_uid != self.facts.transfer_syntax_uid


class Loader:
    """Fills ``buffer`` for ``peer``; both stay the caller's."""

    def __init__(self, peer: PeerAssociation, buffer: FragmentBuffer, ahead: ImagesAhead | None) -> None:
        self._peer = peer
        self._buffer = buffer
        self._ahead = ahead
        self._reencoder = Reencoder()

    def close(self) -> None:
        """End what is being re-encoded. Idempotent."""
        self._reencoder.close()

    @property
    def is_idle(self) -> bool:
        """True if another re-encoding may begin."""
        return self._reencoder.is_idle

    def begin_reencoding(self, opened: OpenInstance) -> None:
        """Have a re-encoding begun that will be needed; ``prepare`` says what stands against it."""
        if fits(opened.instance, opened.facts):
            with suppress(InvalidInput):
                self._reencoder.begin(opened.facts, opened.descriptor, self._fallback(opened.facts)[0])

    def load_as_it_is(self, opened: OpenInstance) -> Loaded | None:
        """Load a file that may go out as it is; None: that has to be looked at when its turn comes."""
        if not fits(opened.instance, opened.facts):
            return None
        context_id = self._peer.context_id(opened.facts.sop_class_uid, opened.facts.transfer_syntax_uid)
        if context_id is None:
            return None
        try:
            return self._load_file(opened.facts, opened.descriptor, context_id)
        except (SourceChanged, OSError):
            return None

    def prepare(self, current: OpenInstance, until_answered: ExitStack) -> Loaded:
        """Load one instance: its file or a corrected copy, which ``until_answered`` deletes, or re-encoded.

        Raises:
            InvalidInput: the file has changed for the worse, or the peer takes it in no form we can make.
            PeerUnavailable: ``no-room-for-copy``.
        """
        instance = current.instance
        if not current.facts.is_unchanged:
            current.close()
            renewed = open_instance(instance, self._ahead)
            current.facts, current.descriptor = renewed.facts, renewed.descriptor
        facts, descriptor, notes = current.facts, current.descriptor, []
        if facts.transfer_syntax_uid != instance.transfer_syntax_uid:
            notes.append(other_syntax(facts))
        if not fits(instance, facts):
            facts, note = until_answered.enter_context(corrected_copy(instance, facts))
            notes.append(note)
            descriptor = os.open(facts.path, os.O_RDONLY | os.O_CLOEXEC)
            until_answered.callback(os.close, descriptor)
        context_id = self._peer.context_id(facts.sop_class_uid, facts.transfer_syntax_uid)
        try:
            if context_id is not None:
                loaded = self._load_file(facts, descriptor, context_id)
            else:
                syntax, context_id = self._fallback(facts)
                loaded = self._load_reencoded(facts, descriptor, syntax, context_id)
                notes.append(f"sent as {uid_name(syntax)}")
        except OSError as exc:
            raise unreadable(instance.uid_in_file, exc) from None  # the cause names the path
        except SourceChanged:
            raise InvalidInput(
                f"instance {instance.uid_in_file}: its file changed while it was being read", code=CHANGED_CODE
            ) from None
        loaded.notes = tuple(notes)
        return loaded

    def _load_file(self, facts: FileFacts, descriptor: int, context_id: int) -> Loaded:
        size_bytes = facts.data_set_bytes
        self._buffer.begin(FileSource(descriptor, facts.data_set_offset), size_bytes, context_id)
        # Odd is only a deflated one in a file without the padding of PS3.5 A.5; it goes out even.
        return Loaded(facts, facts.transfer_syntax_uid, size_bytes + size_bytes % 2)

    def _load_reencoded(self, facts: FileFacts, descriptor: int, syntax: str, context_id: int) -> Loaded:
        source = self._reencoder.open(facts, descriptor, syntax)
        try:
            self._buffer.begin(source, source.size_bytes, context_id)
        except ReencodingFailed:
            raise not_decodable(facts, syntax) from None
        return Loaded(facts, syntax, source.size_bytes)

    def _fallback(self, facts: FileFacts) -> tuple[str, int]:
        """The uncompressed syntax and context to fall back to.

        Raises:
            InvalidInput: ``sop-class-not-accepted`` or ``transfer-syntax-not-accepted``: there is none.
        """
        for syntax in FALLBACK_SYNTAXES:
            context_id = self._peer.context_id(facts.sop_class_uid, syntax)
            if context_id is not None:
                return syntax, context_id
        if self._peer.refuses_class(facts.sop_class_uid):
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


def not_decodable(facts: FileFacts, syntax: str) -> InvalidInput:
    """The error for pixel data that can't be re-encoded to its end."""
    return not_reencodable(facts, syntax, "its pixel data can't be decoded to the end")


def other_syntax(facts: FileFacts) -> str:
    """The note about a file that is in another transfer syntax than the platform says."""
    return f"its file is in {uid_name(facts.transfer_syntax_uid)}, not as the platform says"
