"""Destinations through the API: listed with their health, described, checked, made, changed, tried, deleted."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from archsync.api import destinations as routes
from archsync.core.destination import Destination
from archsync.core.naming import DagKind
from archsync.core.retry import Health
from archsync.core.settings import setting_fields
from archsync.launcher.postgres import free_port
from archsync.ledger import destinations as store
from archsync.simulate.adt_receiver import SimulatedAdtReceiver
from archsync.simulate.archive import Rudeness, SimulatedArchive

API = "/archsync/api/v1"
NEW = {"name": "vna1", "called_ae_title": "VNA1", "host": "127.0.0.1", "port": 11112}


@pytest.fixture
def audit(ledger):
    def read() -> list[tuple[str, str, str]]:
        rows = ledger.fetch_all("select actor, action, subject from audit_event order by audit_event_id")
        return [(row["actor"], row["action"], row["subject"]) for row in rows]

    return read


def test_a_destination_is_made_read_changed_switched_and_deleted(admin, pacs, audit, ledger) -> None:
    made = admin.post(f"{API}/destinations", json={"settings": {**NEW, "facilities": "CITY", "settle_s": None}})
    assert made.status_code == 201, made.text
    assert made.json()["settings"]["facilities"] == ["CITY"]
    assert made.json()["settings"]["settle_s"] == 30.0
    assert made.json()["lock"] == {
        "is_locked": False,
        "reason": None,
        "settings": [],
        "needs_reason_to_delete": False,
    }
    changed = admin.patch(f"{API}/destinations/vna1", json={"settings": {"port": "104", "facilities": None}})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["settings"]["port"], changed.json()["settings"]["facilities"]) == (104, [])
    assert admin.post(f"{API}/destinations/vna1/disable", json={}).json()["settings"]["enabled"] is False
    assert admin.post(f"{API}/destinations/vna1/enable", json={}).json()["settings"]["enabled"] is True
    assert admin.request("DELETE", f"{API}/destinations/vna1", json={}).json() == {"studies": 0, "jobs": 0}
    assert admin.get(f"{API}/destinations/vna1").json()["code"] == "unknown-destination"
    assert audit() == [
        ("admin", f"destination.{action}", "destination vna1") for action in ("create", "set", "set", "set", "delete")
    ]


def test_its_pool_is_made_in_airflow(admin, pacs) -> None:
    from airflow.models.pool import Pool

    answer = admin.post(f"{API}/destinations", json={"settings": {**NEW, "name": "pooled", "concurrency": 7}})
    assert answer.json()["warnings"] == []
    assert Pool.get_pool("archsync_pooled").slots == 7


@pytest.mark.parametrize(
    ("settings", "field", "sentence"),
    [
        ({"port": "0"}, "port", "must be from 1 to 65535 (got '0')"),
        ({"port": None}, "port", "is needed"),
        ({"name": "VNA 1"}, "name", "must be 1 to 40 lower-case letters"),
        ({"settle_s": 900}, "settle_max_s", "must not be shorter than settle_s"),
        ({"tls_certificate_file": "c.pem"}, "tls_private_key_file", "give both or neither"),
        ({"facilities": ["MOON"]}, "facilities", "the platform has no facility 'MOON' (it has CITY, NORTH, SOUTH)"),
        ({"gateway": "north_1"}, "gateway", "there is no gateway 'north_1'"),
        ({"prot": 104}, "prot", "did you mean 'port'?"),
        ({"host": {"no": "text"}}, None, ""),
    ],
)
def test_what_is_wrong_is_said_at_its_field_by_the_check_and_by_the_making(admin, pacs, settings, field, sentence):
    checked = admin.post(f"{API}/destinations/check", json={"settings": {**NEW, **settings}})
    made = admin.post(f"{API}/destinations", json={"settings": {**NEW, **settings}})
    assert made.status_code == 422, made.text
    if field is None:
        assert (checked.status_code, checked.json()["code"]) == (422, "bad-request")
        return
    assert sentence in checked.json()["fields"][field]
    assert made.json()["fields"] == checked.json()["fields"]
    assert admin.get(f"{API}/destinations").json()["items"] == []


def test_the_check_of_a_change_looks_at_the_destination_itself(admin, pacs, add_destination) -> None:
    add_destination("vna1")
    taken = admin.post(f"{API}/destinations/check", json={"settings": NEW}).json()
    assert taken["fields"] == {"name": "there is a destination 'vna1' already"}
    again = admin.post(f"{API}/destinations", json={"settings": NEW})
    assert (again.status_code, again.json()["code"]) == (409, "duplicate-destination")
    change = admin.post(f"{API}/destinations/check", json={"name": "vna1", "settings": {**NEW, "max_attempts": 0}})
    assert change.json() == {"fields": {"max_attempts": "must be from 1 to 100 (got 0)"}, "locked": {}}
    assert admin.post(f"{API}/destinations/check", json={"name": "x", "settings": {}}).status_code == 404


def test_what_facts_are_tied_to_is_locked_and_its_override_audited(admin, pacs, add_destination, ledger, audit) -> None:
    vna = add_destination("vna1")
    ledger.execute("insert into held_instance (destination_id, placement_id) values (%s, 1)", [vna.destination_id])
    lock = admin.get(f"{API}/destinations/vna1").json()["lock"]
    assert (lock["is_locked"], lock["settings"]) == (True, ["called_ae_title", "host"])
    assert "vna1 holds studies" in lock["reason"]
    checked = admin.post(f"{API}/destinations/check", json={"name": "vna1", "settings": {"host": "10.0.0.9"}})
    assert checked.json()["fields"] == {}
    assert list(checked.json()["locked"]) == ["host"]
    body = {"settings": {"host": "10.0.0.9"}}
    refused = admin.patch(f"{API}/destinations/vna1", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "identity-locked")
    blank = admin.patch(f"{API}/destinations/vna1", json={**body, "override_reason": "  "})
    assert blank.status_code == 422
    assert audit() == []
    done = admin.patch(f"{API}/destinations/vna1", json={**body, "override_reason": "it moved"})
    assert done.json()["settings"]["host"] == "10.0.0.9"
    assert audit() == [("admin", "destination.override", "destination vna1")]
    kept = admin.request("DELETE", f"{API}/destinations/vna1", json={})
    assert (kept.status_code, kept.json()["code"]) == (409, "destination-in-use")
    assert admin.request("DELETE", f"{API}/destinations/vna1", json={"override_reason": "gone"}).status_code == 200


def test_the_list_says_how_each_is_in_as_many_queries_however_many_there_are(
    admin, ledger, add_destination, monkeypatch
) -> None:
    now = datetime.now(UTC)
    made_at = now - timedelta(hours=2)
    down = add_destination("vna1", adt_host="h", adt_receiving_application="R")
    store.set_health(ledger, down.destination_id, DagKind.ARCHIVE, Health(3, now, now, "connection-refused", "No."))
    store.set_suspended(ledger, down.destination_id, DagKind.ADT, True)
    for status in ("waiting", "failed", "running"):
        ledger.execute(
            "insert into job (job_type, status, destination_id, priority, patient_key, study_key, created_at)"
            " values ('archive', %s, %s, 2, 'p', %s, %s)",
            [status, down.destination_id, status, made_at],
        )
    questions: list[int] = []
    fetch_all = type(ledger).fetch_all

    def counted(self, *arguments):
        questions[-1] += 1
        return fetch_all(self, *arguments)

    monkeypatch.setattr(type(ledger), "fetch_all", counted)
    questions.append(0)
    (item,) = admin.get(f"{API}/destinations").json()["items"]
    assert {h["kind"]: (h["state"], h["reason_code"]) for h in item["health"]} == {
        "archive": ("down", "connection-refused"),
        "iocm": ("down", "connection-refused"),
        "adt": ("suspended", None),
    }
    assert item["health"][0]["troubleshooting_url"].endswith("#connection-refused")
    assert (item["queue_depth"], item["running"], item["failed"]) == (1, 1, 1)
    assert datetime.fromisoformat(item["oldest_waiting_at"]) == made_at
    assert item["throughput_last_hour"] == {"jobs": 0, "failed": 0, "instances": 0, "bytes": 0, "bytes_per_s": 0}
    assert (item["holds_instances"], item["holds_is_estimate"]) == (0, False)
    for number in range(2, 12):
        add_destination(f"vna{number}")
    questions.append(0)
    listed = admin.get(f"{API}/destinations")
    assert [i["health"][0]["state"] for i in listed.json()["items"]].count("unknown") == 10
    assert questions[0] == questions[1] < 10
    assert admin.get(f"{API}/destinations", headers={"If-None-Match": listed.headers["ETag"]}).status_code == 304


def test_the_form_is_described_by_the_settings_themselves(admin) -> None:
    groups = admin.get(f"{API}/destinations/schema").json()["groups"]
    fields = {field["name"]: field for group in groups for field in group["fields"]}
    assert list(fields) == list(setting_fields(Destination))
    assert groups[0]["title"] == "Archive"
    assert fields["port"] == {
        "name": "port",
        "label": "Port",
        "type": "integer",
        "meaning": "TCP port of the archive.",
        "default": None,
        "unit": "",
        "example": "11112",
        "choices": None,
        "minimum": 1,
        "maximum": 65535,
        "required": True,
        "locked_by_facts": False,
    }
    assert fields["host"]["locked_by_facts"]
    assert fields["trigger_status"]["choices"] == ["Pending", "Inflight", "Completed"]


# -- the test, against real archives ----------------------------------------------------------------------------------


def states(answer) -> dict[str, tuple[str, str | None]]:
    assert answer.status_code == 200, answer.text
    return {step["step"]: (step["state"], step["code"]) for step in answer.json()["steps"]}


def at(archive: SimulatedArchive, **settings) -> dict[str, object]:
    host, port = archive.address
    return {"name": "sim", "called_ae_title": archive.ae_title, "host": host, "port": port, **settings}


def test_a_good_archive_passes_every_step_and_nothing_is_stored(admin, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "archive") as archive, SimulatedAdtReceiver() as receiver:
        host, port = receiver.address
        adt = {"adt_host": host, "adt_port": port, "adt_receiving_application": "SIM"}
        answer = admin.post(f"{API}/destinations/test", json={"settings": at(archive, **adt)})
        assert archive.requests == receiver.received == []
    found = states(answer)
    assert found.pop("tls") == ("skipped", None)
    assert list(found) == ["tcp", "association", "echo", "storage", "notes", "find", "adt"]
    assert set(found.values()) == {("ok", None)}
    assert all(step["took_ms"] is not None for step in answer.json()["steps"] if step["state"] == "ok")


def test_a_wrong_ae_title_is_diagnosed_with_what_to_do(admin, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "archive", rudeness=Rudeness(check_called_ae_title=True)) as archive:
        answer = admin.post(f"{API}/destinations/test", json={"settings": at(archive, called_ae_title="WRONG")})
    found = states(answer)
    assert found["tcp"] == ("ok", None)
    assert found["association"] == ("failed", "called-ae-title-unknown")
    assert {found[name] for name in ("echo", "storage", "notes", "find")} == {("skipped", None)}
    step = next(step for step in answer.json()["steps"] if step["step"] == "association")
    assert "'WRONG'" in step["detail"]
    assert step["next_step"].startswith("Compare the destination's called AE title")
    assert step["troubleshooting_url"].endswith("#called-ae-title-unknown")


def test_an_archive_that_is_down_fails_at_the_first_step(admin, add_destination) -> None:
    add_destination("vna1", port=free_port(), adt_host="127.0.0.1", adt_port=free_port(), adt_receiving_application="R")
    found = states(admin.post(f"{API}/destinations/test", json={"name": "vna1"}))
    assert found["tcp"] == found["adt"] == ("failed", "connection-refused")
    assert found["association"] == ("skipped", None)


def test_tls_towards_an_archive_without_it_fails_at_tls(admin, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "archive") as archive:
        answer = admin.post(
            f"{API}/destinations/test",
            json={"settings": at(archive, tls=True, connect_timeout_s=5, tls_check_hostname=False)},
        )
    found = states(answer)
    assert found["tcp"] == ("ok", None)
    assert found["tls"][0] == "failed"


def test_what_an_archive_lacks_is_a_warning_where_it_is_not_needed(admin, tmp_path) -> None:
    ct = ("1.2.840.10008.5.1.4.1.1.2",)
    with SimulatedArchive(tmp_path / "archive", rudeness=Rudeness(accept_sop_classes=ct)) as archive:
        found = states(admin.post(f"{API}/destinations/test", json={"settings": at(archive)}))
        assert found["storage"] == ("warning", "sop-class-not-accepted")
        assert found["notes"][0] == "ok"
        needed = {"supports_iocm": True, "verification": "c-find"}
        found = states(admin.post(f"{API}/destinations/test", json={"settings": at(archive, **needed)}))
    assert found["notes"] == ("failed", "notes-not-accepted")


def test_a_test_needs_one_subject_that_is_sound(admin) -> None:
    assert admin.post(f"{API}/destinations/test", json={}).status_code == 422
    assert admin.post(f"{API}/destinations/test", json={"name": "none"}).status_code == 404
    wrong = admin.post(f"{API}/destinations/test", json={"settings": {**NEW, "port": 0}})
    assert (wrong.status_code, list(wrong.json()["fields"])) == (422, ["port"])


def test_no_more_tests_run_at_a_time_than_the_server_has_threads_to_spare(admin, add_destination) -> None:
    add_destination("vna1", port=free_port())
    with ExitStack() as taken:
        for _ in range(routes.MOST_TESTS):
            taken.enter_context(routes._slot())
        busy = admin.post(f"{API}/destinations/test", json={"name": "vna1"})
        assert (busy.status_code, busy.json()["code"]) == (429, "too-many-tests")
    assert admin.post(f"{API}/destinations/test", json={"name": "vna1"}).status_code == 200


def test_two_who_make_the_same_destination_make_one(client_of, pacs) -> None:
    clients = [client_of("admin"), client_of("op")]
    answers: list[int] = []

    def make(client) -> None:
        answers.append(client.post(f"{API}/destinations", json={"settings": NEW}).status_code)

    threads = [threading.Thread(target=make, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(answers) == [201, 409]


# -- gateways ----------------------------------------------------------------------------------------------------------


def test_a_gateway_is_made_and_listed_with_its_destinations(admin, pacs, add_destination, audit) -> None:
    made = admin.post(f"{API}/gateways", json={"name": "north_1", "facility_group": "region"})
    assert (made.status_code, made.json()["queue"], made.json()["state"]) == (201, "north_1", "pending")
    add_destination("vna1", gateway="north_1")
    (item,) = admin.get(f"{API}/gateways").json()["items"]
    assert (item["name"], item["facility_group"], item["destinations"]) == ("north_1", "region", ["vna1"])
    assert audit() == [("admin", "gateway.create", "gateway north_1")]
    again = admin.post(f"{API}/gateways", json={"name": "north_1", "facility_group": "region"})
    assert (again.status_code, list(again.json()["fields"])) == (409, ["name"])


def test_what_is_wrong_with_a_gateway_is_said_at_its_field(admin, pacs) -> None:
    missing = admin.post(f"{API}/gateways", json={"name": "north_1", "facility_group": None})
    assert (missing.status_code, missing.json()["fields"]) == (422, {"facility_group": "is needed"})
    unknown = admin.post(f"{API}/gateways", json={"name": "north_1", "facility_group": "moon"})
    assert "the platform has no facility group 'moon'" in unknown.json()["fields"]["facility_group"]
    name = admin.post(f"{API}/gateways", json={"name": "North 1", "facility_group": "region"})
    assert name.status_code == 422
    assert "lower-case" in name.json()["fields"]["name"]
