"""Destinations, gateways and circuit breakers as the ledger keeps them."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from archsync.core.adt import CharacterSet, Hl7Version, MergeTrigger, PriorIdentifier, ProcessingId, UpdateTrigger
from archsync.core.destination import Destination, Verification
from archsync.core.destination_iocm import NoteOrder, WithoutIocm
from archsync.core.naming import DagKind
from archsync.core.profiles import ArchiveProfile
from archsync.core.rejection import TitleModifier
from archsync.core.retry import HEALTHY, Health
from archsync.core.settings import setting_fields
from archsync.core.study import ExamStatus
from archsync.errors import ConfigurationError
from archsync.ledger import destinations
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import Gateway

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)

#: A value for every setting that is not its default.
UNUSUAL = {
    "name": "vna",
    "called_ae_title": "VNA 1",
    "host": "vna.example",
    "port": 11112,
    "calling_ae_title": "US",
    "gateway": "north_1",
    "enabled": False,
    "trigger_status": ExamStatus.INFLIGHT,
    "facilities": ("CITY", "it's, {odd}"),
    "facility_groups": ("metro",),
    "max_attempts": 3,
    "retry_delay_s": 1.5,
    "retry_multiplier": 1.1,
    "retry_cap_s": 77.0,
    "retry_jitter": 0.3,
    "give_up_after_s": 5.0,
    "settle_s": 0.25,
    "settle_max_s": 0.5,
    "send_window": "22:00-06:00",
    "time_zone": "Europe/Berlin",
    "concurrency": 7,
    "max_bytes_per_s": 5_000_000_000,
    "verification": Verification.C_FIND,
    "connect_timeout_s": 1.25,
    "acse_timeout_s": 2.25,
    "dimse_timeout_s": 3.25,
    "network_timeout_s": 4.25,
    "breaker_threshold": 9,
    "probe_delay_s": 0.5,
    "probe_cap_s": 6.5,
    "tls": True,
    "tls_ca_file": "/etc/ca.pem",
    "tls_certificate_file": "/etc/us.pem",
    "tls_private_key_file": "/etc/us.key",
    "tls_check_hostname": False,
    "profile": ArchiveProfile.ORTHANC,
    "supports_iocm": False,
    "without_iocm": WithoutIocm.OPERATOR,
    "rejection_titles": ("unspecified=none", "retention_expired=113039"),
    "quality_modifier": TitleModifier.MOTION_BLUR,
    "note_order": NoteOrder.WRONG_PATIENT_FIRST,
    "max_note_references": 12,
    "adt_host": "adt.example",
    "adt_port": 2576,
    "adt_concurrency": 3,
    "adt_connect_timeout_s": 1.25,
    "adt_idle_close_s": 2.25,
    "adt_tls": True,
    "adt_tls_ca_file": "/etc/adt-ca.pem",
    "adt_tls_certificate_file": "/etc/adt-us.pem",
    "adt_tls_private_key_file": "/etc/adt-us.key",
    "adt_tls_check_hostname": False,
    "adt_receiving_application": "VNA",
    "adt_receiving_facility": "SITE",
    "adt_sending_application": "US",
    "adt_sending_facility": "HERE",
    "adt_version": Hl7Version.V2_3_1,
    "adt_character_set": CharacterSet.LATIN_1,
    "adt_update_trigger": UpdateTrigger.A31,
    "adt_merge_trigger": MergeTrigger.A47,
    "adt_prior_identifier": PriorIdentifier.FREED,
    "adt_processing_id": ProcessingId.TRAINING,
    "adt_patient_class": "O",
    "adt_identifier_type": "PI",
    "adt_wants_commit_ack": True,
    "adt_ack_timeout_s": 3.25,
    "adt_ack_overrides": ("AE=busy", "204=accepted"),
}


def test_every_setting_comes_back_as_it_was_written(ledger):
    destinations.insert_gateway(ledger, Gateway("north_1", "north", "north"))
    assert set(UNUSUAL) == set(setting_fields(Destination)), "a new setting needs a value here"
    wanted = Destination(**UNUSUAL)
    assert not [f for f in setting_fields(Destination) if UNUSUAL[f] == getattr(_plain(), f)], (
        "no default tells nothing"
    )

    made = destinations.insert(ledger, wanted)

    assert dataclasses.replace(made, destination_id=None) == wanted
    assert [type(getattr(made, name)) for name in UNUSUAL] == [type(value) for value in UNUSUAL.values()]
    assert destinations.get(ledger, "vna") == made == destinations.get_by_id(ledger, made.destination_id)
    assert destinations.all_destinations(ledger) == [made]
    assert destinations.queues(ledger) == {"vna": "north"}


def test_changing_settings_changes_all_of_them(ledger):
    destinations.insert_gateway(ledger, Gateway("north_1", "north", "north"))
    made = destinations.insert(ledger, dataclasses.replace(_plain(), name="vna"))

    changed = Destination(**UNUSUAL, destination_id=made.destination_id)
    destinations.update(ledger, changed)

    assert destinations.get(ledger, "vna") == changed


def _plain() -> Destination:
    return Destination(name="plain", called_ae_title="PLAIN", host="plain.example", port=104)


def test_a_name_is_taken_once_and_the_refusal_leaves_nothing(ledger, destination, sql):
    with pytest.raises(ConfigurationError, match="there is a destination 'vna' already") as refusal:
        destinations.insert(ledger, dataclasses.replace(_plain(), name="vna"))

    assert refusal.value.code == "duplicate-destination"
    assert sql("select count(*) from destination_health") == [(3,)]
    assert sql("select count(*) from pg_inherits where inhparent = 'held_instance'::regclass") == [(1,)]


def test_of_many_who_make_the_same_destination_at_once_one_succeeds(ledger_dsn):
    def make(_: int) -> bool:
        with Ledger(ledger_dsn) as own:
            try:
                destinations.insert(own, _plain())
            except ConfigurationError:
                return False
            return True

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(make, range(6))) == [False] * 5 + [True]


def test_a_gateway_has_to_exist(ledger, destination):
    with pytest.raises(ConfigurationError, match="no gateway 'nowhere'") as refusal:
        destinations.insert(ledger, dataclasses.replace(_plain(), gateway="nowhere"))
    assert refusal.value.code == "unknown-gateway"
    with pytest.raises(ConfigurationError, match="no gateway 'nowhere'"):
        destinations.update(ledger, dataclasses.replace(destination, gateway="nowhere"))


def test_an_unknown_name_is_answered_with_the_known_ones(ledger, destination):
    with pytest.raises(ConfigurationError, match=r"no destination 'vba' \(known: vna\)"):
        destinations.get(ledger, "vba")


def test_gateways_are_kept_and_their_names_are_taken_once(ledger):
    destinations.insert_gateway(ledger, Gateway("north_1", "north", "north"))
    with pytest.raises(ConfigurationError, match="there is a gateway 'north_1' already"):
        destinations.insert_gateway(ledger, Gateway("north_1", "south", "south"))
    destinations.update_gateway(ledger, Gateway("north_1", "region", "queue_2"))

    assert destinations.gateways(ledger) == [Gateway("north_1", "region", "queue_2")]


def test_a_breaker_starts_closed_and_keeps_what_it_is_told(ledger, destination):
    destination_id = destination.destination_id
    assert destinations.health(ledger)[destination_id, DagKind.ARCHIVE].health == HEALTHY

    down = Health(4, NOW, NOW, "peer-unavailable", "no route")
    destinations.set_health(ledger, destination_id, DagKind.ARCHIVE, down)

    with ledger.transaction():
        assert destinations.lock_health(ledger, destination_id, DagKind.ARCHIVE) == down
    destinations.set_health(ledger, destination_id, DagKind.ARCHIVE, HEALTHY)
    assert destinations.health(ledger)[destination_id, DagKind.ARCHIVE].health == HEALTHY


def test_a_paused_dag_is_remembered(ledger, destination):
    destinations.set_suspended(ledger, destination.destination_id, DagKind.ARCHIVE, True)
    assert destinations.health(ledger)[destination.destination_id, DagKind.ARCHIVE].is_suspended
    destinations.set_suspended(ledger, destination.destination_id, DagKind.ARCHIVE, False)
    assert not destinations.health(ledger)[destination.destination_id, DagKind.ARCHIVE].is_suspended
