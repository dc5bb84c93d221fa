"""What an archive says it holds (C-FIND, IMAGE level)."""

from __future__ import annotations

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from archsync.core.transfer import Endpoint
from archsync.errors import PeerRefused, PeerUnavailable
from archsync.net.dicom.find import STUDY_ROOT_FIND, find_instances
from archsync.net.dicom.store import store_instances


@pytest.fixture
def held(endpoint, copies, outgoing):
    """Twelve stored instances of one study in two series."""
    paths = copies(12)
    second_series = generate_uid()
    for path in paths[8:]:
        data_set = dcmread(path)
        data_set.SeriesInstanceUID = second_series
        data_set.save_as(path)
    instances = [outgoing(path) for path in paths]
    assert all(outcome.result.is_stored for outcome in store_instances(endpoint, instances))
    return instances


def uids(instances):
    return {instance.sop_instance_uid for instance in instances}


def test_the_instances_of_each_series_asked_for_are_found(archive, endpoint, held):
    study = held[0].study_instance_uid
    first, second = held[0].series_instance_uid, held[-1].series_instance_uid
    before = archive.association_count
    assert find_instances(endpoint, study, [first]) == uids(held[:8])
    assert find_instances(endpoint, study, [second]) == uids(held[8:])
    assert find_instances(endpoint, study, [first, second]) == uids(held)
    assert archive.association_count == before + 3


def test_what_the_archive_does_not_know_adds_nothing(endpoint, held):
    study, series = held[0].study_instance_uid, held[0].series_instance_uid
    assert find_instances(endpoint, study, [generate_uid()]) == set()
    assert find_instances(endpoint, generate_uid(), [series]) == set()
    assert find_instances(endpoint, study, []) == set()


@pytest.fixture
def answering():
    """Starts a peer whose C-FIND is the given handler; gives its endpoint."""
    entities = []

    def start(handler, sop_class=STUDY_ROOT_FIND, dimse_timeout_s=20):
        entity = AE(ae_title="PEER")
        entity.add_supported_context(sop_class)
        entity.add_supported_context("1.2.840.10008.1.1")
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, handler)])
        entities.append(entity)
        return Endpoint(*server.server_address, called_ae_title="PEER", dimse_timeout_s=dimse_timeout_s)

    yield start
    for entity in entities:
        entity.shutdown()


def test_an_archive_without_c_find_says_so_and_is_not_condemned(answering):
    with pytest.raises(PeerRefused) as caught:
        find_instances(answering(lambda _: iter(()), sop_class="1.2.840.10008.5.1.4.1.1.2"), "1.2", ["1.2.3"])
    assert type(caught.value) is PeerRefused
    assert caught.value.code == "find-not-supported"


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (0xA700, PeerUnavailable, "find-out-of-resources"),
        (0xA900, PeerRefused, "find-refused"),
        (0xC001, PeerRefused, "find-refused"),
        (0x0122, PeerRefused, "find-refused"),
    ],
)
def test_a_refused_query_ends_as_its_status_says(answering, status, error, code):
    def refuse(_):
        yield status, None

    with pytest.raises(error, match=f"{status:04X}") as caught:
        find_instances(answering(refuse), "1.2", ["1.2.3"])
    assert caught.value.code == code


def test_an_abort_in_the_middle_of_the_answers_is_no_answer(answering):
    def abort(event):
        yield 0xFF00, event.identifier
        event.assoc.abort()

    with pytest.raises(PeerUnavailable) as caught:
        find_instances(answering(abort, dimse_timeout_s=300), "1.2", ["1.2.3"])
    assert caught.value.code == "find-no-answer"
    assert caught.value.reached_peer


def test_instances_of_other_studies_are_left_out(answering):
    def ignore_keys(event):
        for study in ("1.2", "1.9"):
            match = event.identifier
            match.StudyInstanceUID, match.SOPInstanceUID = study, f"{study}.1.1"
            yield 0xFF00, match

    assert find_instances(answering(ignore_keys), "1.2", ["1.2.3"]) == {"1.2.1.1"}


def test_thousands_of_answers_are_all_taken(answering):
    def many(event):
        match = event.identifier
        for number in range(2000):
            match.SOPInstanceUID = f"1.2.3.{number}"
            yield 0xFF00, match

    assert len(find_instances(answering(many), "1.2", ["1.2.3"])) == 2000
