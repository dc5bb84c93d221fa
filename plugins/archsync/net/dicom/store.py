"""Sends instances by C-STORE. :func:`store_instances` is the whole interface; the engine behind it may change.

    store.py        which contexts for which instances
    crew.py         how many associations at a time
    pace.py         the share of the destination that all of them keep to
    sending.py      one association's instances, one after the other
    opened.py       a file: opened once, read once (scan.py, or part10.py for what is odd), checked
    reencoder.py    a process that re-encodes (reencode.py) what the peer does not take as it is
    opening.py      connection, TLS, negotiation, and why one of them failed
    association.py  one exchange at a time, and the ways an association ends
    fragments.py    data sets as PDUs, many to a system call
    wire.py         TCP and TLS with their time-outs

A study does not wait to be read: its contexts are proposed by what the platform says of its instances, and each file is
opened when its turn comes. A file in another transfer syntax is put aside for a second association that proposes that.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Sequence

from pydicom.uid import UID

from archsync.core.contexts import FALLBACK_SYNTAXES, MAX_CONTEXTS, ProposedContext, plan_associations
from archsync.core.transfer import Endpoint, OutgoingInstance, Share, StoreOutcome, StoreResult
from archsync.errors import InvalidInput, PeerUnavailable
from archsync.net.dicom.crew import send_workload
from archsync.net.dicom.opened import OpenInstance, open_instance
from archsync.net.dicom.opening import VERIFICATION
from archsync.net.dicom.outcomes import not_sent
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.transport import where
from archsync.net.dicom.workload import Pair, Workload, next_ones
from archsync.net.images import is_remote
from archsync.net.remote.ahead import ImagesAhead

_logger = logging.getLogger(__name__)
_PATIENCE = 3
"""That many "try later" in a row end the attempt: the archive, or the source of images, is to be left alone."""

# Every archive takes C-ECHO. Proposing it too tells an archive that takes nothing from us (a wrong configuration) from
# one that takes everything but the SOP classes of this job (which concerns these instances alone).
_VERIFICATION_CONTEXT = ProposedContext(VERIFICATION, FALLBACK_SYNTAXES)


def store_instances(
    endpoint: Endpoint, instances: Sequence[OutgoingInstance], pace: Pace | None = None
) -> Generator[StoreOutcome, None, None]:
    """Send instances, yielding the outcome of each as soon as it is final, in the order in which that happens.

    One association serves all, one after the other more where SOP classes and transfer syntaxes need over 128 contexts
    or are not what the platform says, and several at a time where ``pace`` allows that and it pays. Instances whose
    file can't be sent are ``REFUSED``; the rest goes on. A file that says what the archive is to have, or is not to be
    fitted, goes out as it is; of any other a corrected copy. That goes byte for byte when the peer takes its transfer
    syntax, else re-encoded without loss. Remote images are copied ahead; those whose source has no time are ``BUSY``,
    and the rest goes on. Closing the generator ends the associations. A second call with the same instances is safe:
    the SOP Instance UID identifies each.

    Raises (after yielding the outcomes so far):
        OutcomeUnknown: an instance was sent and no valid answer came; its outcome was yielded, too.
        PeerUnavailable: not reachable, refused for now, hung up between two instances, or "try later" 3 times running,
            from the archive or the source of images; or ``no-room-for-copy``: a corrected copy can't be written.
        DestinationMisconfigured: refused as such: AE title, TLS, no common context, status 0124.
        ConfigurationError: an AE title or a TLS file can't be used.
    """
    ahead = ImagesAhead() if any(is_remote(instance.location) for instance in instances) else None
    try:
        yield from _store(endpoint, deque(instances), pace or Pace(Share()), ahead)
    finally:
        if ahead is not None:
            ahead.close()


def _store(
    endpoint: Endpoint, pending: deque[OutgoingInstance], pace: Pace, ahead: ImagesAhead | None
) -> Generator[StoreOutcome, None, None]:
    patience = _Patience(endpoint)
    while pending:
        instance = pending[0]
        if ahead is not None:
            ahead.expect(next_ones(pending))
        try:
            opened = open_instance(instance, ahead)
        except (InvalidInput, PeerUnavailable) as exc:
            pending.popleft()
            outcome = not_sent(instance, exc)
            yield outcome
            patience.note(outcome)
            continue
        contexts, workload = _plan(pending, opened, pace)
        workload.ahead = ahead
        try:
            for outcome in send_workload(endpoint, contexts, workload):
                yield outcome
                patience.note(outcome)
        finally:
            workload.close()
            _tell_what_was_read_slowly(workload)
        pending.extendleft(reversed([*workload.waiting, *workload.put_aside]))


def _tell_what_was_read_slowly(workload: Workload) -> None:
    if slow := workload.read_slowly:
        _logger.info(
            "%d files are not such as the fast reader is sure of, and were read by the slow one; the first is that of "
            "instance %s",
            len(slow),
            slow[0].uid_in_file,
        )


class _Patience:
    """Counts "try later" in a row."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._in_a_row = 0

    def note(self, outcome: StoreOutcome) -> None:
        """Raise PeerUnavailable when that was one too many."""
        self._in_a_row = self._in_a_row + 1 if outcome.result is StoreResult.BUSY else 0
        if self._in_a_row < _PATIENCE:
            return
        if outcome.status is None:
            sentence = f"{_PATIENCE} images in a row could not be had; {outcome.message}"
        else:
            sentence = f"{where(self._endpoint)} asked for patience {_PATIENCE} times in a row: {outcome.message}"
        raise PeerUnavailable(sentence, reached_peer=True, code=outcome.code)


def _plan(
    pending: deque[OutgoingInstance], opened: OpenInstance, pace: Pace
) -> tuple[tuple[ProposedContext, ...], Workload]:
    """What to propose for the instances at hand, of which the first is open; takes those that it covers out."""
    first: Pair = (opened.facts.sop_class_uid, opened.facts.transfer_syntax_uid)
    instances = list(pending)
    claimed = [(instance.sop_class_uid, instance.transfer_syntax_uid) for instance in instances]
    bad = {pair for pair in set(claimed) if not all(UID(uid).is_valid for uid in pair)}
    # Where the platform gives no UIDs, the first file's will do for a beginning.
    pairs = [first, *(first if pair in bad else pair for pair in claimed[1:])]
    plan = plan_associations(pairs, max_contexts=MAX_CONTEXTS - 1)[0]
    covered = set(plan.positions)
    pending.clear()
    pending.extend(instance for position, instance in enumerate(instances) if position not in covered)
    workload = Workload(
        frozenset(pairs[position] for position in plan.positions),
        deque(instances[position] for position in plan.positions),
        pace,
        opened,
    )
    return (*plan.contexts, _VERIFICATION_CONTEXT), workload
