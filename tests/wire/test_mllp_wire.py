"""The MLLP client against a receiver that applies ADT messages, politely and rudely, over real sockets."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hl7apy.core import Message
from hl7apy.mllp import AbstractHandler, MLLPServer
from hl7apy.parser import parse_message

from archsync.core.adt import AdtSettings, CharacterSet, Hl7Version, MergeTrigger, UpdateTrigger
from archsync.core.study import Facility, Patient
from archsync.core.tls import TlsSettings
from archsync.errors import (
    ArchsyncError,
    ConfigurationError,
    DestinationMisconfigured,
    InvalidInput,
    OutcomeUnknown,
    PeerRefused,
    PeerUnavailable,
)
from archsync.messages.adt import build_a08, build_a40
from archsync.net.mllp import MllpClient
from archsync.simulate.adt_receiver import (
    AdtScript,
    Hangup,
    RegisteredPatient,
    Reply,
    SimulatedAdtReceiver,
)

CITY = Facility("CITY", "City Hospital", "NORTH", "HOSP", "1.2.3.4", "ISO", "SITE")
JANE = Patient("key-1", "4711", None, "Planted^Jane", date(1970, 1, 1), "F")
OLD_JANE = replace(JANE, patient_id="OLD")
VNA = AdtSettings(receiving_application="VNA")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SHORT_S, LONG_S = 0.3, 20.0


def a08(change_id: str = "update", patient: Patient = JANE, settings: AdtSettings = VNA) -> bytes:
    return build_a08(patient, CITY, settings, change_id=change_id, occurred_at=NOW, recorded_at=NOW)


def a40(
    change_id: str = "merge", survivor: Patient = JANE, prior: Patient = OLD_JANE, settings: AdtSettings = VNA
) -> bytes:
    return build_a40(survivor, CITY, prior, settings, change_id=change_id, occurred_at=NOW, recorded_at=NOW)


A47 = replace(VNA, merge_trigger=MergeTrigger.A47)


@pytest.fixture
def receiver() -> Iterator[SimulatedAdtReceiver]:
    """A receiver that knows Jane."""
    with SimulatedAdtReceiver() as receiver:
        receiver.register("4711^HOSP")
        yield receiver


@pytest.fixture
def connect(receiver: SimulatedAdtReceiver) -> Iterator[Callable[..., MllpClient]]:
    """Makes clients for the receiver."""
    clients: list[MllpClient] = []

    def make(**settings) -> MllpClient:
        settings = {"connect_timeout_s": LONG_S, "ack_timeout_s": LONG_S, **settings}
        clients.append(MllpClient(*receiver.address, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., MllpClient]) -> MllpClient:
    return connect()


# -- what the receiver does with our messages ------------------------------------------------------------------------


@pytest.mark.parametrize("version", Hl7Version)
@pytest.mark.parametrize("trigger", UpdateTrigger)
def test_an_update_is_applied(
    receiver: SimulatedAdtReceiver, client: MllpClient, version: Hl7Version, trigger: UpdateTrigger
) -> None:
    message = a08(settings=replace(VNA, version=version, update_trigger=trigger))
    assert client.send(message).code == "AA"
    assert receiver.patients["4711^HOSP"] == RegisteredPatient("Planted^Jane", "19700101", "F")
    assert [received.data for received in receiver.received] == [message]


@pytest.mark.parametrize(
    ("name", "character_set"),
    [
        ("O'Brien|&~\\F\\^x\\T", CharacterSet.ASCII),
        ("Müller^Jürgen", CharacterSet.LATIN_1),
        ("Yıldız^Şule", CharacterSet.LATIN_5),
        ("山田^太郎", CharacterSet.JAPANESE),
        ("홍^길동", CharacterSet.UTF_8),
    ],
)
def test_a_name_arrives_as_it_is(
    receiver: SimulatedAdtReceiver, client: MllpClient, name: str, character_set: CharacterSet
) -> None:
    client.send(a08(patient=replace(JANE, name=name), settings=replace(VNA, character_set=character_set)))
    assert receiver.patients["4711^HOSP"].name == name


def test_a_cleared_birth_date_is_deleted_and_an_unknown_one_left_alone(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.register("4711^HOSP", RegisteredPatient("Old^Name", "19600101", "M"))
    unknown = replace(JANE, birth_date=None)
    client.send(a08("one", unknown))
    assert receiver.patients["4711^HOSP"].birth_date == "19600101"
    client.send(build_a08(unknown, CITY, VNA, change_id="two", occurred_at=NOW, recorded_at=NOW, clear_birth_date=True))
    assert receiver.patients["4711^HOSP"].birth_date == ""


@pytest.mark.parametrize("is_known", [True, False])
def test_a_merge_is_applied_whether_or_not_the_survivor_is_known(
    receiver: SimulatedAdtReceiver, client: MllpClient, is_known: bool
) -> None:
    survivor = JANE if is_known else replace(JANE, patient_id="NEW")
    receiver.register("OLD^HOSP")
    client.send(a40(survivor=survivor))
    assert receiver.patients["OLD^HOSP"].merged_into == f"{survivor.patient_id}^HOSP"
    assert receiver.patients[f"{survivor.patient_id}^HOSP"].name == "Planted^Jane"


def test_a_change_of_identifier_is_refused_where_the_new_one_is_in_use(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.register("OLD^HOSP")
    client.send(a40("one", replace(JANE, patient_id="NEW"), settings=A47))
    with pytest.raises(PeerRefused) as refused:
        client.send(a40("two", prior=replace(JANE, patient_id="NEW"), settings=A47))
    assert refused.value.code == "adt-identifier-in-use"


def test_an_update_of_an_unknown_or_merged_patient_is_refused(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.register("OLD^HOSP")
    client.send(a40())
    for number, patient in enumerate((OLD_JANE, replace(JANE, patient_id="NOBODY"))):
        with pytest.raises(PeerRefused) as refused:
            client.send(a08(f"update-{number}", patient))
        assert refused.value.code == "adt-unknown-patient"
        assert "PID-3" in refused.value.message


def test_an_update_before_its_merge_is_worth_waiting_for(client: MllpClient) -> None:
    with pytest.raises(PeerUnavailable) as busy:
        client.send(a08(patient=replace(JANE, patient_id="NEW")), merge_is_pending=True)
    assert busy.value.code == "adt-merge-first"
    assert busy.value.reached_peer


def test_a_receiver_may_create_the_patients_it_does_not_know(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.behave(AdtScript(creates_patients=True))
    client.send(a08(patient=replace(JANE, patient_id="NEW")))
    assert receiver.patients["NEW^HOSP"].name == "Planted^Jane"


def test_a_message_in_an_unknown_version_stops_the_destination(client: MllpClient) -> None:
    with pytest.raises(DestinationMisconfigured) as stopped:
        client.send(a08().replace(b"|2.5.1|", b"|2.7|"))
    assert stopped.value.code == "hl7-not-supported"


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (Reply(ack_code="AE"), PeerRefused, "hl7-error"),
        (Reply(ack_code="AE", error_code="101", error_location="PID^1^5"), PeerRefused, "hl7-content"),
        (Reply(ack_code="AE", error_code="207"), PeerUnavailable, "hl7-busy"),
        (Reply(ack_code="AR"), PeerUnavailable, "hl7-rejected"),
        (Reply(ack_code="AR", error_code="206"), PeerUnavailable, "hl7-busy"),
        (
            Reply(ack_code="AR", error_code="203", error_location="MSH^1^12"),
            DestinationMisconfigured,
            "hl7-not-supported",
        ),
        (Reply(ack_code="AR", error_location="MSH^1^11"), DestinationMisconfigured, "hl7-header-refused"),
        (Reply(ack_code="AR", error_code="204", error_location="PID^1^3"), PeerRefused, "adt-unknown-patient"),
        (Reply(ack_code="CE"), PeerRefused, "hl7-error"),
        (Reply(ack_code="CR"), PeerUnavailable, "hl7-rejected"),
    ],
)
@pytest.mark.parametrize("version", [Hl7Version.V2_3_1, Hl7Version.V2_5_1])
def test_a_refusal_has_its_consequence_and_keeps_the_connection(
    receiver: SimulatedAdtReceiver,
    client: MllpClient,
    reply: Reply,
    kind: type[ArchsyncError],
    code: str,
    version: Hl7Version,
) -> None:
    receiver.behave(AdtScript(replies=(reply,)))
    with pytest.raises(kind) as refused:
        client.send(a08(settings=replace(VNA, version=version)))
    assert refused.value.code == code
    client.send(a08("another"))
    assert receiver.connection_count == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(ack_code="AA", error_code="0", severity="I"),
        Reply(ack_code="AA", error_code="207", severity="W"),
        Reply(ack_code="CA"),
        Reply(delay_s=0.2),
        Reply(pieces=40),
        Reply(pieces=4, piece_delay_s=0.05),
        Reply(noise=b"\r\nnoise\x1c\r"),
        Reply(noise=b"\x0b\x06\x1c\r"),
        Reply(noise=b"\x06"),
        Reply(text="für Jürgen Müller", encoding="latin-1"),
        Reply(text="für Jürgen Müller", encoding="utf-8"),
        Reply(text="für Jürgen Müller", encoding="utf-8-sig"),
        Reply(has_message_structure=False),
    ],
)
def test_a_positive_answer_is_understood_however_it_comes(
    receiver: SimulatedAdtReceiver, client: MllpClient, reply: Reply
) -> None:
    receiver.behave(AdtScript(replies=(reply, reply)))
    client.send(a08("one"))
    client.send(a08("two"))
    assert receiver.connection_count == 1
    assert receiver.duplicate_control_ids == []


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(is_missing=True), "hl7-no-ack"),
        (Reply(control_id="OTHER"), "hl7-wrong-ack"),
        (Reply(control_id=""), "hl7-wrong-ack"),
        (Reply(hangup=Hangup.BEFORE_ACK), "hl7-no-ack"),
        (Reply(hangup=Hangup.DURING_ACK), "hl7-truncated-ack"),
        (Reply(pieces=2, piece_delay_s=LONG_S), "hl7-truncated-ack"),
        (Reply(delay_s=LONG_S), "hl7-no-ack"),
        (Reply(ack_code="ZZ"), "hl7-invalid-ack"),
        (Reply(text="x" * (1 << 20)), "mllp-answer-too-long"),
    ],
)
def test_without_a_valid_answer_the_outcome_is_unknown_and_the_same_bytes_go_again(
    receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient], reply: Reply, code: str
) -> None:
    client = connect(ack_timeout_s=SHORT_S if "no-ack" in code or "truncated" in code else LONG_S)
    receiver.behave(AdtScript(replies=(reply,)))
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send(a08())
    assert unknown.value.code == code
    assert not client.is_connected
    assert len(receiver.received) == 1
    assert client.send(a08(), was_unanswered=True).code == "AA"
    assert receiver.duplicate_control_ids == [receiver.received[0].control_id]
    assert receiver.changed_resends == []
    assert receiver.connection_count == 2


def test_the_time_out_is_for_the_whole_answer_not_for_each_piece(
    receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient]
) -> None:
    receiver.behave(AdtScript(replies=(Reply(pieces=1000, piece_delay_s=0.05),)))
    # each piece comes in time; all of them do not
    with pytest.raises(OutcomeUnknown) as unknown:
        connect(ack_timeout_s=SHORT_S).send(a08())
    assert unknown.value.code == "hl7-truncated-ack"


def test_noise_that_never_ends_is_no_answer(raw_peer: Callable[..., tuple[str, int]]) -> None:
    def babble(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"x" * (1 << 22))  # more than the buffers hold: there is always some to read

    with MllpClient(*raw_peer(babble), ack_timeout_s=SHORT_S) as client, pytest.raises(OutcomeUnknown) as unknown:
        client.send(a08())
    assert unknown.value.code == "hl7-no-ack"


def test_a_destination_may_mean_an_answer_differently(
    receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient]
) -> None:
    receiver.behave(AdtScript(otherwise=Reply(ack_code="AE")))
    with pytest.raises(PeerUnavailable) as busy:
        connect(ack_overrides=["AE=busy"]).send(a08())
    assert busy.value.reached_peer


def test_enhanced_mode_counts_the_commit_answer_and_drops_the_applications(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.behave(AdtScript(is_enhanced=True))
    message = replace(VNA, wants_commit_ack=True)
    for number in range(20):
        assert client.send(a08(f"update-{number}", settings=message)).code == "CA"
    assert receiver.connection_count == 1
    assert receiver.duplicate_control_ids == []


def test_the_same_message_may_go_again_on_the_same_connection(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.behave(AdtScript(replies=(Reply(ack_code="AR", error_code="206"),)))
    with pytest.raises(PeerUnavailable):
        client.send(a08())
    client.send(a08())
    assert [received.answer for received in receiver.received] == ["AR", "AA"]
    assert receiver.connection_count == 1


# -- connections -----------------------------------------------------------------------------------------------------


def test_one_connection_serves_many_messages(receiver: SimulatedAdtReceiver, client: MllpClient) -> None:
    for number in range(50):
        client.send(a08(f"update-{number}"))
    assert receiver.connection_count == 1
    assert len(receiver.received) == 50


def test_a_connection_that_the_receiver_closed_while_idle_is_replaced_without_sending_twice(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08("one"))
    receiver.hang_up()
    _wait_until(lambda: receiver.open_connections == 0)
    client.send(a08("two"))
    assert receiver.connection_count == 2
    assert len(receiver.received) == 2


def test_a_receiver_that_closes_idle_connections_loses_nothing(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.behave(AdtScript(idle_close_s=0.1))
    for number in range(3):
        client.send(a08(f"update-{number}"))
        _wait_until(lambda: receiver.open_connections == 0)
    assert len(receiver.received) == 3
    assert receiver.connection_count == 3


def test_a_connection_that_was_idle_for_long_is_opened_anew(
    receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient]
) -> None:
    client = connect(idle_close_s=0)
    client.send(a08("one"))
    client.send(a08("two"))
    assert receiver.connection_count == 2


def test_a_kept_connection_lost_under_a_message_is_opened_again_and_the_same_bytes_sent_once_more(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08("one"))
    receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK),)))
    assert client.send(a08("two")).code == "AA"
    assert [received.data for received in receiver.received] == [a08("one"), a08("two"), a08("two")]
    assert receiver.connection_count == 2


def test_the_same_bytes_are_sent_once_more_and_not_for_ever(receiver: SimulatedAdtReceiver, client: MllpClient) -> None:
    client.send(a08("one"))
    receiver.behave(AdtScript(otherwise=Reply(hangup=Hangup.BEFORE_ACK)))
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send(a08("two"))
    assert unknown.value.code == "hl7-no-ack"
    assert len(receiver.received) == 3


def test_a_new_connection_lost_under_a_message_is_not_tried_again_by_itself(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK),)))
    with pytest.raises(OutcomeUnknown):
        client.send(a08())
    assert len(receiver.received) == 1


def test_a_kept_connection_lost_in_the_middle_of_an_answer_is_not_tried_again_by_itself(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08("one"))
    receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.DURING_ACK),)))
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send(a08("two"))
    assert unknown.value.code == "hl7-truncated-ack"
    assert len(receiver.received) == 2


def test_the_outcome_stays_unknown_when_the_receiver_goes_away_before_the_second_try() -> None:
    with SimulatedAdtReceiver() as receiver, MllpClient(*receiver.address, connect_timeout_s=LONG_S) as client:
        receiver.register("4711^HOSP")
        client.send(a08("one"))
        receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK),)))
        receiver.stop_listening()
        with pytest.raises(OutcomeUnknown) as unknown:
            client.send(a08("two"))
        assert isinstance(unknown.value.__cause__, PeerUnavailable)
        assert len(receiver.received) == 2


def test_a_merge_whose_answer_was_lost_counts_as_applied(receiver: SimulatedAdtReceiver, client: MllpClient) -> None:
    receiver.register("OLD^HOSP")
    client.send(a08())
    receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK),)))
    assert client.send(a40()).error.code == "204"
    assert receiver.patients["OLD^HOSP"].merged_into == "4711^HOSP"


def test_a_merge_that_did_not_arrive_is_applied_by_its_repetition(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.register("OLD^HOSP")
    receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK, is_applied=False),)))
    with pytest.raises(OutcomeUnknown):
        client.send(a40())
    assert receiver.patients["OLD^HOSP"].merged_into is None
    assert client.send(a40(), was_unanswered=True).errors == ()
    assert receiver.patients["OLD^HOSP"].merged_into == "4711^HOSP"


def test_a_merge_that_was_never_tried_and_is_refused_is_for_an_operator(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    receiver.register("OLD^HOSP", RegisteredPatient(merged_into="OTHER^HOSP"))
    with pytest.raises(PeerRefused) as refused:
        client.send(a40())
    assert refused.value.code == "adt-merge-unclear"


def test_a_connection_closed_while_idle_is_no_unanswered_attempt(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08())
    receiver.register("OLD^HOSP", RegisteredPatient(merged_into="OTHER^HOSP"))
    receiver.hang_up()
    _wait_until(lambda: receiver.open_connections == 0)
    with pytest.raises(PeerRefused) as refused:
        client.send(a40())
    assert refused.value.code == "adt-merge-unclear"


def test_an_answer_to_a_message_of_another_connection_is_a_wrong_one(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08("one"))
    client.close()
    receiver.behave(AdtScript(replies=(Reply(control_id=receiver.received[0].control_id),)))
    with pytest.raises(OutcomeUnknown) as unknown:
        client.send(a08("two"))
    assert unknown.value.code == "hl7-wrong-ack"


def test_after_closing_the_next_message_opens_another_connection(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08("one"))
    client.close()
    client.close()
    client.send(a08("two"))
    assert receiver.connection_count == 2


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with pytest.raises(PeerUnavailable) as nobody:
        MllpClient(*address).send(a08())
    assert nobody.value.code == "connection-refused"
    assert not nobody.value.reached_peer


def test_a_host_without_an_address_is_named() -> None:
    with pytest.raises(PeerUnavailable) as unknown:
        MllpClient("no-such-host.invalid", 2575).send(a08())
    assert unknown.value.code == "host-not-found"


@pytest.mark.parametrize(
    "message", [b"", b"not HL7", a08().replace(b"|P|", b"\x0b|P|"), b"MSH|^~\\&|A|B|C|D|1||ADT^A08\r"]
)
def test_what_is_no_message_is_not_sent(receiver: SimulatedAdtReceiver, client: MllpClient, message: bytes) -> None:
    with pytest.raises(InvalidInput):
        client.send(message)
    assert receiver.connection_count == 0


def test_a_wrong_override_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match="ack_overrides"):
        MllpClient("127.0.0.1", 1, ack_overrides=["AE=later"])


# -- a receiver that is not ours -------------------------------------------------------------------------------------


class _Hl7apyHandler(AbstractHandler):
    """Answers with what hl7apy reads of the message."""

    def reply(self) -> str:
        parsed = parse_message(self.incoming_message.removesuffix("\r"))
        answer = Message("ACK", version="2.5.1")
        answer.msh.msh_9 = "ACK"
        answer.msa.msa_1 = "AA" if "Planted^Jane" in parsed.to_er7() else "AE"
        answer.msa.msa_2 = parsed.msh.msh_10.to_er7()
        return str(answer.to_mllp())


def test_hl7apys_server_which_hangs_up_after_each_message_is_served() -> None:
    handlers = dict.fromkeys(("ADT^A08^ADT_A01", "ADT^A40^ADT_A39"), (_Hl7apyHandler,))
    with MLLPServer("127.0.0.1", 0, handlers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with MllpClient(*server.server_address, ack_timeout_s=LONG_S) as client:
                for message in (a08("one"), a40("two"), a08("three")):
                    assert client.send(message).code == "AA"
        finally:
            server.shutdown()
            thread.join()


# -- patient data ----------------------------------------------------------------------------------------------------


def test_no_patient_data_gets_into_errors_and_logs(
    receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    replies = [
        Reply(ack_code=code, error_code=error, text="Planted^Jane 4711", error_location="PID^1^3")
        for code in ("AE", "AR", "AA")
        for error in ("101", "204", "207", "Planted")
    ]
    replies += [Reply(is_missing=True), Reply(control_id="Planted"), Reply(hangup=Hangup.DURING_ACK, text="Planted")]
    receiver.behave(AdtScript(replies=tuple(replies)))
    client = connect(ack_timeout_s=SHORT_S)
    told = []
    for number, _ in enumerate(replies):
        try:
            client.send(a08(f"update-{number}"))
        except ArchsyncError as exc:
            told += [exc.message, exc.next_step, repr(exc), repr(exc.__cause__)]
    assert len(told) >= 4 * 11
    for planted in ("Planted", "Jane", "4711"):
        assert planted not in "".join(told)
        assert planted not in caplog.text


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, str]]:
    """Makes self-signed certificates for 127.0.0.1; gives the certificate's and the key's file."""
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem, private = folder / f"{name}.pem", folder / f"{name}.key"
        pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(pem), str(private)

    return make


@pytest.fixture(scope="module")
def certificates(issue: Callable[[str], tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: issue(name) for name in ("receiver", "sender", "stranger")}


def server_context(certificates: dict[str, tuple[str, str]], *, asks_for_ours: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificates["receiver"])
    if asks_for_ours:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates["sender"][0])
    return context


def test_messages_go_over_mutual_tls_on_one_kept_connection(certificates: dict[str, tuple[str, str]]) -> None:
    context = server_context(certificates, asks_for_ours=True)
    tls = TlsSettings(certificates["receiver"][0], *certificates["sender"])
    with (
        SimulatedAdtReceiver(ssl_context=context) as receiver,
        MllpClient(*receiver.address, tls=tls, connect_timeout_s=LONG_S) as client,
    ):
        receiver.register("4711^HOSP")
        for number in range(5):
            client.send(a08(f"update-{number}"))
        assert receiver.connection_count == 1
        receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK),)))
        client.send(a08("again"))
        assert receiver.changed_resends == []
        assert len(receiver.received) == 7


@pytest.mark.parametrize(
    ("trusted", "ours", "code"),
    [
        ("stranger", "sender", "tls-server-certificate"),
        ("receiver", None, "tls-client-certificate-required"),
        ("receiver", "stranger", "tls-client-certificate-refused"),
    ],
)
def test_a_wrong_certificate_is_named_and_stops_the_destination(
    certificates: dict[str, tuple[str, str]], trusted: str, ours: str | None, code: str
) -> None:
    context = server_context(certificates, asks_for_ours=True)
    tls = TlsSettings(certificates[trusted][0], *(certificates[ours] if ours else (None, None)))
    with (
        SimulatedAdtReceiver(ssl_context=context) as receiver,
        MllpClient(*receiver.address, tls=tls, connect_timeout_s=LONG_S) as client,
    ):
        with pytest.raises(DestinationMisconfigured) as refused:
            client.send(a08())
        assert refused.value.code == code
        assert not client.is_connected
        assert receiver.received == []


def test_a_receiver_without_tls_is_named(receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient]) -> None:
    with pytest.raises(ArchsyncError) as named:
        connect(tls=TlsSettings(), connect_timeout_s=SHORT_S).send(a08())
    assert named.value.code in ("tls-no-answer", "tls-not-spoken")
    assert receiver.received == []


def test_a_missing_pem_file_is_named_and_nothing_is_sent(
    receiver: SimulatedAdtReceiver, connect: Callable[..., MllpClient], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="tls_ca_file"):
        connect(tls=TlsSettings(str(tmp_path / "none.pem"))).send(a08())
    assert receiver.received == []


# -- the receiver itself ---------------------------------------------------------------------------------------------


def test_the_receiver_notices_a_control_id_that_comes_again_with_other_bytes(
    receiver: SimulatedAdtReceiver, client: MllpClient
) -> None:
    client.send(a08("one"))
    client.send(a08("one"))
    assert receiver.changed_resends == []
    client.send(a08("one", replace(JANE, sex="M")))
    assert receiver.changed_resends == receiver.duplicate_control_ids == [receiver.received[0].control_id]


def test_the_receiver_takes_its_port_only_once(receiver: SimulatedAdtReceiver) -> None:
    with pytest.raises(ConfigurationError, match="port"):
        SimulatedAdtReceiver(receiver.address[1]).start()


def test_the_receiver_refuses_bytes_that_are_not_in_the_named_set(client: MllpClient) -> None:
    with pytest.raises(PeerRefused) as refused:
        client.send(a08().replace(b"UNICODE UTF-8", b"8859/42"))
    assert refused.value.code == "hl7-content"


def test_the_receiver_runs_from_the_command_line_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "archsync", "simulate", "adt-receiver", "--port", "0", "--create-patients"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            port = int(announced.rsplit(" ", 1)[1])
            with MllpClient("127.0.0.1", port, ack_timeout_s=LONG_S) as client:
                client.send(a08())
            process.terminate()
            _, log = process.communicate(timeout=LONG_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "A08" in log
    for planted in ("Planted", "4711"):
        assert planted not in log


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
