"""Destinations: their settings, which facilities they cover, and when their send window opens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_type_hints
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.adt import AdtEndpoint, AdtSettings, Hl7Version
from archsync.core.destination import SETTING_GROUPS, Destination, check_ae_title, check_name
from archsync.core.destination_iocm import NoteOrder
from archsync.core.profiles import ArchiveProfile
from archsync.core.rejection import RejectionTitle, TitleModifier
from archsync.core.settings import parse_settings, setting_fields
from archsync.core.settings_schema import describe_settings, group_settings
from archsync.core.study import Facility, RemovalReason
from archsync.core.tls import TlsSettings
from archsync.errors import ConfigurationError
from archsync.services.destinations import examine

CITY = Facility("CITY", "City Hospital", "metro")


def destination(**settings: object) -> Destination:
    return Destination(name="vna1", called_ae_title="VNA1", host="h", port=104, **settings)


def test_every_setting_says_what_it_means() -> None:
    for name, field in setting_fields(Destination).items():
        assert field.metadata["meaning"].endswith("."), name
        unit = "bytes/s" if name.endswith("_bytes_per_s") else "s" if name.endswith("_s") else ""
        assert field.metadata["unit"] == unit, name


def test_every_example_and_default_is_valid() -> None:
    fields = setting_fields(Destination)
    parse_settings(Destination, {name: f.metadata["example"] for name, f in fields.items() if f.metadata["example"]})
    made = destination()
    parse_settings(Destination, {name: getattr(made, name) for name in fields})


@pytest.mark.parametrize("title", ["A", "A" * 16, "ARCHIVE 1", "vna-1_x.y"])
def test_good_ae_titles_pass(title) -> None:
    assert check_ae_title(title) is None


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("A" * 17, "has 17"),
        ("A\\B", "without backslash"),
        ("A\tB", "printable"),
        ("ÄRCHIV", "ASCII"),
    ],
)
def test_bad_ae_titles_are_refused_with_a_reason(title, reason) -> None:
    assert reason in (check_ae_title(title) or "")


@pytest.mark.parametrize("name", ["a", "vna1", "a_1", "a" * 40])
def test_good_names_pass(name) -> None:
    assert check_name(name) is None


@pytest.mark.parametrize("name", ["", "1a", "A", "a-b", "a b", "a" * 41, "ä", "a\n", "schema"])
def test_bad_names_are_refused(name) -> None:
    assert check_name(name) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settle_s": 10.0, "settle_max_s": 9.0}, "settle_max_s"),
        ({"tls_certificate_file": "c.pem"}, "give both or neither"),
        ({"tls_private_key_file": "k.pem"}, "give both or neither"),
        ({"adt_tls_certificate_file": "c.pem"}, "adt_tls_certificate_file and adt_tls_private_key_file"),
        ({"adt_host": "h"}, "adt_receiving_application"),
        ({"quality_modifier": TitleModifier.NO_IMAGE, "rejection_titles": ("quality=none",)}, "quality_modifier"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        destination(**settings)


@pytest.mark.parametrize(
    ("facilities", "groups", "is_covered"),
    [
        ((), (), True),
        (("CITY",), (), True),
        (("NORTH",), (), False),
        ((), ("metro",), True),
        ((), ("region",), False),
        (("NORTH",), ("metro",), True),
        (("metro",), ("CITY",), False),
    ],
)
def test_a_facility_is_covered_by_its_name_its_group_or_when_nothing_is_named(facilities, groups, is_covered) -> None:
    assert destination(facilities=facilities, facility_groups=groups).covers(CITY) is is_covered


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@pytest.mark.parametrize(
    ("window", "now", "opening"),
    [
        (None, "2026-05-04T12:00", "2026-05-04T12:00"),
        ("08:00-18:00", "2026-05-04T08:00", "2026-05-04T08:00"),
        ("08:00-18:00", "2026-05-04T07:59", "2026-05-04T08:00"),
        ("08:00-18:00", "2026-05-04T17:59:59", "2026-05-04T17:59:59"),
        ("08:00-18:00", "2026-05-04T18:00", "2026-05-05T08:00"),
        ("22:00-06:00", "2026-05-04T23:00", "2026-05-04T23:00"),
        ("22:00-06:00", "2026-05-04T05:59", "2026-05-04T05:59"),
        ("22:00-06:00", "2026-05-04T06:00", "2026-05-04T22:00"),
        ("22:00-06:00", "2026-12-31T12:00", "2026-12-31T22:00"),
        ("00:00-00:00", "2026-05-04T12:00", "2026-05-04T12:00"),
    ],
)
def test_the_send_window_says_when_sending_may_begin(window, now, opening) -> None:
    assert destination(send_window=window).next_opening(at(now)) == at(opening)


def test_the_send_window_is_in_the_destinations_own_time_zone() -> None:
    berlin = destination(send_window="22:00-06:00", time_zone="Europe/Berlin")
    assert berlin.next_opening(at("2026-07-01T19:00")) == at("2026-07-01T20:00")
    assert berlin.next_opening(at("2026-12-01T19:00")) == at("2026-12-01T21:00")


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_window_that_opens_in_the_hour_clocks_change_still_opens_that_day(day) -> None:
    berlin = destination(send_window="02:30-05:00", time_zone="Europe/Berlin")
    now = at(f"{day}T00:00", "Europe/Berlin")
    opening = berlin.next_opening(now)
    assert now < opening < now + timedelta(hours=4)


def test_every_setting_of_adt_messages_is_a_setting_of_destinations() -> None:
    ours, theirs = setting_fields(Destination), setting_fields(AdtSettings)
    types, wanted = get_type_hints(Destination), get_type_hints(AdtSettings)
    for name, field in theirs.items():
        assert ours[f"adt_{name}"].metadata == field.metadata, name
        if name == "receiving_application":  # needed only where ADT messages are sent
            assert (ours[f"adt_{name}"].default, types[f"adt_{name}"]) == (None, str | None)
        else:
            assert (ours[f"adt_{name}"].default, types[f"adt_{name}"]) == (field.default, wanted[name]), name


def test_without_an_adt_host_there_is_no_receiver() -> None:
    assert destination(adt_receiving_application="VNA").adt is None


def test_the_adt_receiver_is_what_the_settings_say() -> None:
    made = destination(
        adt_host="adt",
        adt_receiving_application="VNA",
        adt_version=Hl7Version.V2_3_1,
        adt_ack_overrides=("AE=busy",),
        adt_connect_timeout_s=3.0,
        adt_tls=True,
        adt_tls_ca_file="ca.pem",
        adt_tls_check_hostname=False,
        tls_ca_file="other.pem",
    )
    assert made.adt == AdtEndpoint(
        host="adt",
        port=2575,
        settings=AdtSettings(receiving_application="VNA", version=Hl7Version.V2_3_1, ack_overrides=("AE=busy",)),
        tls=TlsSettings(ca_file="ca.pem", check_hostname=False),
        connect_timeout_s=3.0,
        idle_close_s=60.0,
        concurrency=2,
    )


@pytest.mark.parametrize(
    ("profile", "said", "supported"),
    [
        (ArchiveProfile.GENERIC, None, False),
        (ArchiveProfile.GENERIC, True, True),
        (ArchiveProfile.DCM4CHEE, None, True),
        (ArchiveProfile.DCM4CHEE, False, False),
        (ArchiveProfile.ORTHANC, None, False),
        (ArchiveProfile.ORTHANC, True, True),
    ],
)
def test_what_is_set_counts_before_what_the_profile_says(profile, said, supported) -> None:
    assert destination(profile=profile, supports_iocm=said).iocm.supports_iocm is supported


def test_a_destinations_own_titles_stand_in_for_the_usual_ones() -> None:
    titles = destination(rejection_titles=("unspecified=113001",)).iocm.titles
    assert titles[RemovalReason.UNSPECIFIED] is RejectionTitle.QUALITY
    assert titles[RemovalReason.QUALITY] is RejectionTitle.QUALITY
    assert titles[RemovalReason.RETENTION_EXPIRED] is None


@pytest.mark.parametrize("titles", ["quality=1", "nothing=113001", "quality=113001,quality=none"])
def test_bad_titles_are_refused_under_the_name_of_their_setting(titles) -> None:
    with pytest.raises(ConfigurationError, match=r"^rejection_titles: (?!rejection)"):
        parse_settings(Destination, {"rejection_titles": titles})


@pytest.mark.parametrize(
    ("order", "reason", "wrong_patient", "first"),
    [
        (NoteOrder.REPLACEMENTS_FIRST, RemovalReason.PATIENT_SAFETY, True, False),
        (NoteOrder.SAFETY_FIRST, RemovalReason.PATIENT_SAFETY, False, True),
        (NoteOrder.SAFETY_FIRST, RemovalReason.WRONG_WORKLIST_ENTRY, True, False),
        (NoteOrder.WRONG_PATIENT_FIRST, RemovalReason.WRONG_WORKLIST_ENTRY, True, True),
        (NoteOrder.WRONG_PATIENT_FIRST, RemovalReason.WRONG_WORKLIST_ENTRY, False, False),
        (NoteOrder.WRONG_PATIENT_FIRST, RemovalReason.PATIENT_SAFETY, False, True),
    ],
)
def test_the_note_goes_first_where_showing_the_image_does_more_harm(order, reason, wrong_patient, first) -> None:
    assert order.puts_note_first(reason, is_wrong_patient=wrong_patient) is first


CLOCK = st.times().map(lambda t: f"{t:%H:%M}")


@given(
    st.tuples(CLOCK, CLOCK).map("-".join),
    st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  (zone beside it)
    st.sampled_from(["UTC", "Asia/Kolkata", "Australia/Adelaide"]),
)
def test_at_its_opening_a_window_is_open_and_at_most_a_day_away(window, now, zone) -> None:
    planned = destination(send_window=window, time_zone=zone)
    opening = planned.next_opening(now)
    assert now <= opening <= now + timedelta(hours=25)
    assert planned.next_opening(opening) == opening


NEW = {"name": "vna1", "called_ae_title": "VNA1", "host": "vna1.example", "port": "11112"}


def wrong(values, current=None) -> dict[str, str]:
    """What is wrong with the settings, by setting."""
    _, problems = examine(values, current)
    return {name: sentence for problem in problems for name, sentence in problem.fields.items()}


def test_all_that_is_wrong_with_a_new_destination_is_said_field_by_field() -> None:
    found = wrong(
        {
            **NEW,
            "name": "VNA 1",
            "port": "0",
            "colour": "red",
            "settle_s": "900",
            "adt_host": "adt.example",
            "adt_ack_overrides": "AE",
            "tls_certificate_file": "c.pem",
        }
    )
    assert found["name"].startswith("must be 1 to 40 lower-case letters")
    assert found["port"] == "must be from 1 to 65535 (got '0')"
    assert found["colour"] == "unknown setting 'colour'"
    assert found["settle_max_s"] == "must not be shorter than settle_s"
    assert found["adt_receiving_application"] == "needed where adt_host is given"
    assert "is not such as AE=busy" in found["adt_ack_overrides"]
    both = "tls_certificate_file and tls_private_key_file: give both or neither"
    assert found["tls_certificate_file"] == found["tls_private_key_file"] == both
    assert "host" not in found


def test_what_is_missing_of_a_new_destination_is_said_field_by_field() -> None:
    assert wrong({"name": "vna1", "host": ""}) == {
        "called_ae_title": "is needed",
        "port": "is needed",
        "host": "must not be empty (got '')",
    }
    assert wrong(NEW) == {}


def test_a_setting_that_is_wrong_by_itself_is_not_also_said_to_contradict_others() -> None:
    found = wrong({**NEW, "settle_s": "900", "settle_max_s": "soon"})
    assert found == {"settle_max_s": "must be a number (got 'soon')"}


def test_changes_are_judged_together_with_what_stays() -> None:
    current = destination(settle_s=100.0, settle_max_s=600.0)
    assert wrong({"settle_max_s": "50"}, current) == {"settle_max_s": "must not be shorter than settle_s"}
    assert wrong({"settle_s": "10", "settle_max_s": "50"}, current) == {}
    assert "can't be renamed" in wrong({"name": "vna2"}, current)["name"]


def test_the_form_has_every_setting_once_under_a_title() -> None:
    grouped = group_settings(Destination, SETTING_GROUPS)
    assert list(grouped) == list(SETTING_GROUPS)
    assert [info.name for group in grouped.values() for info in group] == list(setting_fields(Destination))


def test_a_setting_is_described_for_forms() -> None:
    known = {info.name: info for info in describe_settings(Destination)}
    port, settle, supports = known["port"], known["settle_s"], known["supports_iocm"]
    assert (port.label, port.kind, port.is_required, str(port.range)) == ("Port", "integer", True, "from 1 to 65535")
    assert (settle.label, settle.kind, settle.default, settle.unit) == ("Settle", "number", 30.0, "s")
    assert (supports.label, supports.kind, supports.default) == ("Supports IOCM", "boolean", None)
    assert known["trigger_status"].choices == ("Pending", "Inflight", "Completed")
    assert known["trigger_status"].default == "Completed"
    assert (known["facilities"].kind, known["facilities"].default) == ("list", [])
    assert known["called_ae_title"].label == "Called AE title"
