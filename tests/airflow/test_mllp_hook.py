"""MllpHook: an HL7 receiver behind an Airflow connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest

from archsync.core.adt import AdtSettings
from archsync.core.study import Facility, Patient
from archsync.errors import ConfigurationError, PeerRefused, PeerUnavailable
from archsync.hooks.mllp import MllpHook
from archsync.messages.adt import build_a08
from archsync.simulate.adt_receiver import AdtScript, Reply, SimulatedAdtReceiver

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MESSAGE = build_a08(
    Patient("key-1", "4711", None, "Doe^Jane", date(1970, 1, 1), "F"),
    Facility("CITY", "City Hospital", "NORTH", "HOSP", hl7_receiving_facility="SITE"),
    AdtSettings(receiving_application="VNA"),
    change_id="update",
    occurred_at=NOW,
    recorded_at=NOW,
)


@pytest.fixture
def receiver() -> Iterator[SimulatedAdtReceiver]:
    with SimulatedAdtReceiver() as receiver:
        receiver.register("4711^HOSP")
        yield receiver


def define(monkeypatch: pytest.MonkeyPatch, address: tuple[str, int], **extra: object) -> MllpHook:
    connection = {"conn_type": "mllp", "host": address[0], "port": address[1], "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_HL7", json.dumps(connection))
    return MllpHook("hl7")


def test_a_message_is_sent_to_the_receiver_of_the_connection(
    receiver: SimulatedAdtReceiver, monkeypatch: pytest.MonkeyPatch, airflow_db
) -> None:
    hook = define(monkeypatch, receiver.address, ack_timeout_s=20)
    assert hook.send(MESSAGE).code == "AA"
    assert receiver.patients["4711^HOSP"].name == "Doe^Jane"
    assert hook.test_connection() == (True, "The receiver accepts connections.")


def test_several_messages_share_the_clients_connection(
    receiver: SimulatedAdtReceiver, monkeypatch: pytest.MonkeyPatch, airflow_db
) -> None:
    with define(monkeypatch, receiver.address).client() as client:
        client.send(MESSAGE)
        client.send(MESSAGE)
    assert receiver.connection_count == 1


@pytest.mark.parametrize(("overrides", "kind"), [("", PeerRefused), ("AE=busy, 205=stop", PeerUnavailable)])
def test_the_extra_says_what_an_answer_means(
    receiver: SimulatedAdtReceiver,
    monkeypatch: pytest.MonkeyPatch,
    airflow_db,
    overrides: str,
    kind: type[Exception],
) -> None:
    receiver.behave(AdtScript(otherwise=Reply(ack_code="AE")))
    hook = define(monkeypatch, receiver.address, ack_overrides=overrides)
    with pytest.raises(kind):
        hook.send(MESSAGE)


@pytest.mark.parametrize("extra", [{"ack_timeout_s": "soon"}, {"ack_overrides": ["AE=later"]}])
def test_a_wrong_value_in_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, airflow_db, extra: dict[str, object]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(extra))):
        define(monkeypatch, ("127.0.0.1", 1), **extra).client()
