"""Several associations at a time, and the rate limit: every instance once, and never more than the peer allows."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from archsync.core.transfer import Share, StoreResult
from archsync.errors import OutcomeUnknown
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.store import store_instances


@pytest.fixture
def slow_peer(scripted):
    """An archive that takes 20 ms for each instance."""
    return scripted(delay_s=0.02)


def names(threads):
    return [thread.name for thread in threads if thread.name == "archsync-association"]


def test_where_answers_take_long_more_associations_share_the_work(slow_peer, copies, outgoing):
    instances = [outgoing(path) for path in copies(120)]
    outcomes = list(store_instances(slow_peer.endpoint, instances, Pace(Share(4))))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 120
    assert {o.instance.sop_instance_uid for o in outcomes} == {i.sop_instance_uid for i in instances}
    assert len(slow_peer.requests) == 120
    assert slow_peer.most_at_a_time == 4
    assert names(threading.enumerate()) == []


def test_one_association_is_all_that_is_opened_unless_more_are_allowed(slow_peer, copies, outgoing):
    outcomes = list(store_instances(slow_peer.endpoint, [outgoing(path) for path in copies(40)]))
    assert len(outcomes) == 40
    assert slow_peer.most_at_a_time == 1


def test_one_association_is_all_that_is_opened_where_sending_takes_the_time(scripted, copies, outgoing):
    archive = scripted()
    instances = [outgoing(path) for path in copies(60)]
    rate = 60 * 10_000 / 1.5  # the way takes it, here by the limit of the rate; answers come at once
    outcomes = list(store_instances(archive.endpoint, instances, Pace(Share(8, bytes_per_s=rate))))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 60
    assert archive.most_at_a_time == 1


def test_an_archive_that_does_one_after_the_other_gets_one_association_after_a_try(scripted, copies, outgoing):
    archive, disk, open_associations = scripted(), threading.Lock(), []

    def write_and_respond(request):
        with disk:
            threading.Event().wait(0.03)
        open_associations.append(archive.open_associations)
        request.respond()

    archive.answer = write_and_respond
    instances = [outgoing(path) for path in copies(160)]
    outcomes = list(store_instances(archive.endpoint, instances, Pace(Share(8))))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 160
    assert open_associations[-10:] == [1] * 10
    assert archive.ends.count(b"") == 0, "the others were released"


def test_a_peer_at_its_limit_gets_no_more(slow_peer, copies, outgoing):
    slow_peer.limit = 2
    instances = [outgoing(path) for path in copies(120)]
    outcomes = list(store_instances(slow_peer.endpoint, instances, Pace(Share(8))))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 120
    assert slow_peer.most_at_a_time == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("is_closed_early", [False, True])
def test_an_archive_that_takes_one_association_at_a_time_is_not_waited_for(
    slow_peer, copies, outgoing, is_closed_early
):
    is_over, left_waiting = threading.Event(), []

    def accept_one(connection, acceptance):
        if slow_peer.open_associations > 1:
            left_waiting.append(connection)
            is_over.wait(90)  # as storescp, which gets to the next one when this one has ended
        connection.sendall(acceptance)

    slow_peer.accept = accept_one
    endpoint = replace(slow_peer.endpoint, acse_timeout_s=600)
    sending = store_instances(endpoint, [outgoing(path) for path in copies(60)], Pace(Share(4)))
    if is_closed_early:
        outcomes = [next(sending) for _ in range(40)]
        sending.close()
    else:
        outcomes = list(sending)
    assert {o.result for o in outcomes} == {StoreResult.STORED}
    assert len(outcomes) == (40 if is_closed_early else 60)
    assert left_waiting
    assert names(threading.enumerate()) == []
    is_over.set()


def test_closing_the_generator_ends_all_of_them(slow_peer, copies, outgoing):
    sending = store_instances(slow_peer.endpoint, [outgoing(path) for path in copies(200)], Pace(Share(4)))
    while slow_peer.most_at_a_time < 4:
        next(sending)
    sending.close()
    deadline = time.monotonic() + 10
    while slow_peer.open_associations:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    assert names(threading.enumerate()) == []


def test_when_one_of_them_is_hung_up_on_the_others_end_what_they_have_in_hand(slow_peer, copies, outgoing):
    answered = []

    def hang_up_on_the_hundredth(request):
        threading.Event().wait(0.02)
        answered.append(request.sop_instance_uid)
        if answered.index(request.sop_instance_uid) == 99:
            raise EOFError
        request.respond()

    slow_peer.answer = hang_up_on_the_hundredth
    instances = [outgoing(path) for path in copies(200)]
    outcomes = []
    with pytest.raises(OutcomeUnknown):  # noqa: PT012 - the outcomes before it count too
        for outcome in store_instances(slow_peer.endpoint, instances, Pace(Share(4))):
            outcomes.append(outcome)  # noqa: PERF402  # list.extend would lose it
    unknown = [o for o in outcomes if o.result is StoreResult.UNKNOWN]
    assert len(unknown) == 1
    told = [o.instance.sop_instance_uid for o in outcomes if o.result is StoreResult.STORED]
    assert sorted([*told, unknown[0].instance.sop_instance_uid]) == sorted(slow_peer.stored)
    assert names(threading.enumerate()) == []


def test_the_rate_limit_is_kept(archive, endpoint, copies, outgoing):
    instances = [outgoing(path) for path in copies(10)]
    rate = 10 * 10_000
    begun = time.monotonic()
    outcomes = list(store_instances(endpoint, instances, Pace(Share(bytes_per_s=rate))))
    size = sum(o.bytes_sent for o in outcomes)
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 10
    # A lower bound holds on the busiest machine: the last piece waits for those before it.
    assert time.monotonic() - begun >= (size - size / 10) / rate * 0.9


def test_a_smaller_share_ends_associations_and_a_larger_one_opens_them_again(slow_peer, copies, outgoing):
    instances = [outgoing(path) for path in copies(600)]
    pace = Pace(Share(4))
    sending = store_instances(slow_peer.endpoint, instances, pace)
    outcomes = []

    def send_until(has_happened) -> None:
        while not has_happened():
            outcomes.append(next(sending))

    send_until(lambda: slow_peer.open_associations == 4)
    pace.share = Share(1)
    send_until(lambda: slow_peer.open_associations == pace.associations == 1)
    pace.share = Share(3)
    send_until(lambda: slow_peer.open_associations == 3)
    outcomes += sending
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 600
    assert len(slow_peer.requests) == len(slow_peer.stored) == 600, "each was sent once"
    assert slow_peer.ends.count(b"") == 0, "each association was released"
    assert slow_peer.most_at_a_time == 4
    assert pace.associations == 0
    assert names(threading.enumerate()) == []


def test_what_cannot_be_sent_is_told_even_by_an_association_that_ends(slow_peer, copies, outgoing, tmp_path):
    gone = (tmp_path / "gone.dcm").as_uri()
    instances = [outgoing(path) for path in copies(300)]
    instances[1::2] = [replace(instance, location=gone) for instance in instances[1::2]]
    pace = Pace(Share(4))
    sending = store_instances(slow_peer.endpoint, instances, pace)
    outcomes = []
    while slow_peer.open_associations < 4:
        outcomes.append(next(sending))
    pace.share = Share(1)
    outcomes += sending
    by_result = {result: sum(o.result is result for o in outcomes) for result in StoreResult}
    assert (by_result[StoreResult.STORED], by_result[StoreResult.REFUSED]) == (150, 150)
    assert {o.instance.sop_instance_uid for o in outcomes} == {i.sop_instance_uid for i in instances}
