"""The A-ASSOCIATE PDUs (PS3.8 9.3.2 to 9.3.4, PS3.7 Annex D), by pynetdicom's codecs; none of its threads run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.uid import UID
from pynetdicom import _config, build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    AsynchronousOperationsWindowNegotiation,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)

from archsync.core.contexts import ProposedContext
from archsync.core.transfer import Endpoint
from archsync.messages.dul import INVALID_VALUE, ProtocolError
from archsync.net.dicom.replacement import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_MAX_PDU_BYTES = 16384
_WINDOW = 16
"""Requests that we would have unanswered at a time: as many associations were never faster where we measured."""
_ACCEPTED, _ABSTRACT_SYNTAX_REFUSED = 0, 3

# Identifiers and data sets are patient data. pynetdicom logs them up to INFO, pydicom quotes odd values in warnings.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.WARNING)
logging.getLogger("pydicom").setLevel(logging.ERROR)


@dataclass(slots=True)
class Negotiated:
    """What a peer agreed to.

    ``maximum_length`` is that of PDUs it takes, 0: any; ``window`` how many requests may be unanswered at a time.
    """

    maximum_length: int
    window: int = 1
    accepted: dict[str, dict[str, int]] = field(default_factory=dict)
    """SOP class → transfer syntax → presentation context id."""
    refused_classes: set[str] = field(default_factory=set)


def encode_association_request(endpoint: Endpoint, contexts: Sequence[ProposedContext]) -> bytes:
    """The A-ASSOCIATE-RQ PDU that proposes contexts, with ids 1, 3, 5 and so on in their order."""
    request = A_ASSOCIATE()
    request.application_context_name = UID(_APPLICATION_CONTEXT)
    request.calling_ae_title = endpoint.calling_ae_title
    request.called_ae_title = endpoint.called_ae_title
    proposed = [build_context(c.sop_class_uid, list(c.transfer_syntax_uids)) for c in contexts]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = _MAX_PDU_BYTES
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = _WINDOW
    window.maximum_number_operations_performed = 1
    request.user_information = [length, implementation, window, version]
    return bytes(A_ASSOCIATE_RQ(request).encode())


def decode_acceptance(pdu: bytes, contexts: Sequence[ProposedContext]) -> Negotiated:
    """Read the A-ASSOCIATE-AC PDU that answers a request for ``contexts``.

    Raises:
        ProtocolError: it is not one.
    """
    answer = A_ASSOCIATE_AC()
    try:
        answer.decode(pdu)
        results = [(int(c.context_id or 0), int(c.result or 0), c.transfer_syntax) for c in answer.presentation_context]
        information = answer.user_information
        maximum_length = information.maximum_length if information else None
        window = information.async_ops_window if information else None
        invoked = 1 if window is None else int(window.maximum_number_operations_invoked)
    except Exception as exc:  # pynetdicom raises nearly anything on bytes it can't decode
        message = f"an A-ASSOCIATE-AC that can't be decoded ({type(exc).__name__})"
        raise ProtocolError(message, reason=INVALID_VALUE) from exc
    # The item is mandatory (PS3.8 D.1); for a peer without it, what most peers announce.
    negotiated = Negotiated(_MAX_PDU_BYTES if maximum_length is None else int(maximum_length))
    negotiated.window = min(invoked or _WINDOW, _WINDOW)  # 0: any number (PS3.7 D.3.3.3)
    for context_id, result, syntax in results:
        number, is_odd = divmod(context_id, 2)
        if not is_odd or number >= len(contexts):
            raise ProtocolError(f"an answer to context {context_id}, not proposed", reason=INVALID_VALUE)
        proposed = contexts[number]
        if result == _ACCEPTED:
            syntaxes = negotiated.accepted.setdefault(proposed.sop_class_uid, {})
            syntaxes.setdefault(str(syntax), context_id)
        elif result == _ABSTRACT_SYNTAX_REFUSED:
            negotiated.refused_classes.add(proposed.sop_class_uid)
    return negotiated
