"""Several C-STORE requests at a time on one association, where the peer has agreed to that (PS3.7 D.3.3.3)."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from archsync.core.transfer import StoreResult
from archsync.errors import DestinationMisconfigured, OutcomeUnknown
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import Rudeness

IMPLICIT = "1.2.840.10008.1.2"
ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])


class Hoarder:
    """Answers nothing until it has ``count`` requests (or no more come); then does with them what it is told."""

    def __init__(self, archive, count, then):
        self.most = 0
        self._archive, self._count, self._then = archive, count, then
        self._hoard = []
        archive.answer = self

    def __call__(self, request):
        self._hoard.append(request)
        self.most = max(self.most, len(self._hoard))
        if len(self._hoard) == self._count:
            hoard, self._hoard = self._hoard, []
            self._then(hoard)


def in_reverse(hoard):
    for request in reversed(hoard):
        request.respond()


def send(endpoint, instances):
    outcomes = []
    try:
        for outcome in store_instances(endpoint, instances):
            outcomes.append(outcome)  # noqa: PERF402  # list.extend would lose those before an error
    except (OutcomeUnknown, DestinationMisconfigured) as exc:
        return outcomes, exc
    return outcomes, None


def results(outcomes):
    return [outcome.result for outcome in outcomes]


@pytest.mark.parametrize("window", [2, 5, 16])
def test_as_many_requests_are_under_way_as_the_peer_allows_and_answers_may_come_in_any_order(
    scripted, copies, outgoing, window
):
    archive = scripted(window=window)
    hoarder = Hoarder(archive, window, in_reverse)
    instances = [outgoing(path) for path in copies(3 * window)]
    outcomes, error = send(archive.endpoint, instances)
    assert error is None
    assert hoarder.most == window
    assert results(outcomes) == [StoreResult.STORED] * len(instances)
    assert [o.instance.sop_instance_uid for o in outcomes[:window]] == [
        i.sop_instance_uid for i in reversed(instances[:window])
    ]
    assert set(archive.stored) == {i.sop_instance_uid for i in instances}
    assert archive.ends[0][:1] == b"\5", "released, with no answer outstanding"


def test_a_window_without_bound_or_larger_than_ours_is_used_as_far_as_we_go(scripted, copies, outgoing):
    for window in (0, 100):
        archive = scripted(window=window)
        hoarder = Hoarder(archive, 16, in_reverse)
        outcomes, error = send(archive.endpoint, [outgoing(path) for path in copies(32)])
        assert (error, len(outcomes), hoarder.most) == (None, 32, 16)


@pytest.mark.parametrize("window", [None, 1])
def test_without_a_window_each_request_waits_for_the_answer_to_the_one_before(scripted, copies, outgoing, window):
    archive = scripted(window=window)
    early = []

    def respond_unless_more_comes(request):
        request.connection.settimeout(0.02)
        try:
            early.append(request.connection.recv(1))
        except TimeoutError:
            request.connection.settimeout(None)
            request.respond()

    archive.answer = respond_unless_more_comes
    outcomes, error = send(archive.endpoint, [outgoing(path) for path in copies(4)])
    assert (error, early) == (None, [])
    assert results(outcomes) == [StoreResult.STORED] * 4


def test_each_status_belongs_to_the_instance_that_its_message_id_says(scripted, copies, outgoing):
    archive = scripted(window=4)
    statuses = {}

    def answer(hoard):
        for status, request in zip((0xA900, 0, 0xB000, 0xC000), reversed(hoard), strict=True):
            statuses[request.sop_instance_uid] = status
            request.respond(status)

    Hoarder(archive, 4, answer)
    outcomes, _ = send(archive.endpoint, [outgoing(path) for path in copies(8)])
    assert {o.instance.sop_instance_uid: o.status for o in outcomes} == statuses


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("rude", "words"),
    [
        (lambda r: r.connection.sendall(ABORT), "aborted"),
        (lambda r: r.connection.sendall(r.response(message_id=999)), "another message"),
        (lambda r: r.connection.sendall(r.response(message_id=1)), "another message"),  # answered already
        (lambda r: r.connection.sendall(b"HTTP/1.1 500\r\n\r\n"), "not DICOM"),
        (lambda r: r.connection.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])), "released"),
        (lambda r: r.connection.shutdown(2), "closed"),
        (lambda r: None, "no answer came in time"),
    ],
)
def test_what_is_no_answer_leaves_the_outcome_of_each_under_way_unknown_by_name(
    scripted, copies, outgoing, rude, words
):
    archive = scripted(window=4)

    def answer_two_of_four(hoard):
        hoard[0].respond()
        hoard[2].respond()
        rude(hoard[1])

    Hoarder(archive, 4, answer_two_of_four)
    instances = [outgoing(path) for path in copies(4)]
    timeout_s = 0.5 if "time" in words else 300
    outcomes, error = send(replace(archive.endpoint, dimse_timeout_s=timeout_s), instances)
    by_uid = {o.instance.sop_instance_uid: o.result for o in outcomes}
    assert [by_uid[i.sop_instance_uid] for i in instances] == [
        StoreResult.STORED, StoreResult.UNKNOWN, StoreResult.STORED, StoreResult.UNKNOWN,
    ]  # fmt: skip
    assert isinstance(error, OutcomeUnknown)
    assert all(i.sop_instance_uid in error.message for i in instances[1::2])
    assert words in error.message


def test_one_that_is_never_answered_does_not_hide_behind_others(scripted, copies, outgoing):
    archive = scripted(window=2)
    first = []

    def answer_all_but_the_first(request):
        if not first:
            first.append(request.sop_instance_uid)
            return
        threading.Event().wait(0.05)
        request.respond()

    archive.answer = answer_all_but_the_first
    instances = [outgoing(path) for path in copies(60)]
    outcomes, error = send(replace(archive.endpoint, dimse_timeout_s=0.5), instances)
    assert isinstance(error, OutcomeUnknown)
    unknown = [o.instance.sop_instance_uid for o in outcomes if o.result is StoreResult.UNKNOWN]
    assert first[0] in unknown
    assert len(outcomes) < 60


def test_not_authorised_ends_the_job_after_the_answers_under_way(scripted, copies, outgoing):
    archive = scripted(window=4)

    def answer(hoard):
        for request in hoard:
            request.respond(0x0124 if request is hoard[0] else 0)

    Hoarder(archive, 4, answer)
    outcomes, error = send(archive.endpoint, [outgoing(path) for path in copies(4)])
    assert results(outcomes) == [StoreResult.STOP] + [StoreResult.STORED] * 3
    assert isinstance(error, DestinationMisconfigured)


def test_what_has_to_be_reencoded_goes_alone_and_nothing_is_lost(scripted, copies, outgoing, sample):
    # (The scripted archive takes every context as proposed, so the platform has to be wrong for a second association.)
    archive = scripted(window=4)
    plain = [outgoing(path) for path in copies(6)]
    odd = outgoing(sample("MR_small_RLE.dcm"), transfer_syntax_uid=IMPLICIT)
    outcomes, error = send(archive.endpoint, [*plain[:3], odd, *plain[3:]])
    assert error is None
    assert results(outcomes) == [StoreResult.STORED] * 7


def test_the_proposal_does_no_harm_to_a_peer_that_knows_no_windows(archive, endpoint, copies, outgoing):
    archive.behave(Rudeness(stall_at_store=2, stall_s=0.1))
    outcomes, error = send(endpoint, [outgoing(path) for path in copies(5)])
    assert (error, results(outcomes)) == (None, [StoreResult.STORED] * 5)
