"""A-ASSOCIATE-RJ and A-ABORT as errors (PS3.8 Tables 9-21 and 9-26)."""

import pytest

from archsync.errors import DestinationMisconfigured, PeerUnavailable
from archsync.messages.association import describe_abort, negotiation_abort_error, rejection_error


def rejected(result, source, reason):
    return rejection_error(result, source, reason, called_ae_title="VNA1", calling_ae_title="ARCHSYNC")


@pytest.mark.parametrize(
    ("source", "reason", "code", "words"),
    [
        (1, 2, "application-context", "application context"),
        (1, 3, "calling-ae-title-refused", "does not accept our calling AE title 'ARCHSYNC'"),
        (1, 7, "called-ae-title-unknown", "does not know the called AE title 'VNA1'"),
        (2, 1, "association-rejected", "network layer"),
        (2, 2, "protocol-version", "protocol version"),
    ],
)
def test_a_permanent_refusal_with_a_lasting_reason_stops_the_destination(source, reason, code, words):
    error = rejected(1, source, reason)
    assert isinstance(error, DestinationMisconfigured)
    assert error.code == code
    assert words in error.message
    assert f"result 1, source {source}, reason {reason}" in error.message


@pytest.mark.parametrize("source_reason", [(1, 1), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2), (3, 9), (7, 7)])
def test_a_transient_refusal_is_tried_again_and_counts_as_an_attempt(source_reason):
    error = rejected(2, *source_reason)
    assert isinstance(error, PeerUnavailable)
    assert error.reached_peer


@pytest.mark.parametrize("source_reason", [(3, 1), (3, 2)])
def test_congestion_passes_even_when_called_permanent(source_reason):
    assert isinstance(rejected(1, *source_reason), PeerUnavailable)


@pytest.mark.parametrize("source_reason", [(1, 1), (1, 5), (3, 0), (9, 9)])
def test_a_permanent_refusal_without_a_known_reason_is_tried_again_until_attempts_run_out(source_reason):
    error = rejected(1, *source_reason)
    assert isinstance(error, PeerUnavailable)
    assert error.reached_peer
    assert error.code == "association-rejected"


def test_an_abort_in_place_of_an_answer_is_tried_again():
    error = negotiation_abort_error(2, 1)
    assert isinstance(error, PeerUnavailable)
    assert error.reached_peer
    assert "did not recognize a PDU" in error.message


def test_an_abort_names_who_aborted():
    assert "application" in describe_abort(0, 0)
    assert "network layer" in describe_abort(2, 6)
    assert "unknown reason" in describe_abort(2, 99)
