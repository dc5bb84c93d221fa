"""The probe of the circuit breaker, and the diagnosis an administrator reads."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from pynetdicom import AE, evt

from archsync.core.transfer import Endpoint
from archsync.errors import DestinationMisconfigured, PeerUnavailable
from archsync.net.dicom.echo import diagnose, echo
from archsync.simulate.archive import Rudeness


def steps(endpoint, **options):
    return [(step.name, step.ok, step.code) for step in diagnose(endpoint, **options)]


def test_a_polite_archive_passes_every_step(endpoint):
    assert steps(endpoint) == [(name, True, "") for name in ("tcp", "association", "echo", "storage", "notes", "find")]


def test_diagnosis_stores_nothing_and_takes_one_association(archive, endpoint):
    list(diagnose(endpoint))
    assert archive.requests == []
    assert archive.association_count == 1


def test_a_closed_port_ends_the_diagnosis_at_tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoint = Endpoint("127.0.0.1", port, called_ae_title="NOBODY")
    assert steps(endpoint) == [("tcp", False, "connection-refused")]


def test_a_refused_ae_title_is_named(archive, endpoint):
    archive.behave(Rudeness(check_called_ae_title=True))
    *_, last = diagnose(replace(endpoint, called_ae_title="WRONG"))
    assert (last.name, last.ok, last.code) == ("association", False, "called-ae-title-unknown")
    assert "'WRONG'" in last.message
    assert last.next_step.startswith("Compare the destination's called AE title")


def test_classes_that_are_not_taken_are_named_and_do_not_end_the_diagnosis(archive, endpoint):
    archive.behave(Rudeness(accept_sop_classes=("1.2.840.10008.5.1.4.1.1.2",)))
    found = {step.name: step for step in diagnose(endpoint)}
    assert not found["storage"].ok
    assert "MR Image Storage" in found["storage"].message
    assert "CT Image Storage" not in found["storage"].message
    assert found["find"].ok
    assert found["storage"].code == "sop-class-not-accepted"
    assert steps(endpoint, sop_classes=["1.2.840.10008.5.1.4.1.1.4"])[3] == ("storage", False, "no-sop-class-accepted")
    assert steps(endpoint, sop_classes=["1.2.840.10008.5.1.4.1.1.2"])[3] == ("storage", True, "")


@pytest.fixture
def peer():
    """Starts a pynetdicom AE with the given contexts and C-ECHO status; gives its endpoint."""
    entities = []

    def start(contexts, status=0x0000):
        entity = AE(ae_title="PEER")
        for context in contexts:
            entity.add_supported_context(context)
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: status)])
        entities.append(entity)
        return Endpoint(*server.server_address, called_ae_title="PEER", dimse_timeout_s=20)

    yield start
    for entity in entities:
        entity.shutdown()


CT, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"


def test_an_archive_without_c_echo_and_c_find_is_there_all_the_same(peer):
    endpoint = peer([CT])
    echo(endpoint)
    assert steps(endpoint, sop_classes=[CT])[2:] == [
        ("echo", False, "echo-not-supported"),
        ("storage", True, ""),
        ("notes", True, ""),
        ("find", False, "find-not-supported"),
    ]
    assert steps(endpoint, sop_classes=[CT], needs_notes=True)[4] == ("notes", False, "notes-not-accepted")


def test_an_archive_that_refuses_c_echo_refuses_us_as_such(peer):
    with pytest.raises(DestinationMisconfigured, match="0122") as caught:
        echo(peer([VERIFICATION], status=0x0122))
    assert caught.value.code == "echo-refused"


def test_a_polite_archive_answers_the_probe(archive, endpoint):
    echo(endpoint)
    assert archive.association_count == 1


def test_the_probe_of_an_archive_that_is_down_says_so(archive, endpoint):
    archive.stop()
    with pytest.raises(PeerUnavailable) as caught:
        echo(endpoint)
    assert not caught.value.reached_peer
