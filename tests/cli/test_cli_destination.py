"""``archsync destination`` and ``archsync gateway``."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.destination import Destination
from archsync.core.naming import DagKind
from archsync.core.retry import Health
from archsync.core.settings import setting_fields
from archsync.ledger import destinations as store
from archsync.ledger import plan_queue
from archsync.ledger.database import Ledger
from archsync.services import destinations
from archsync.simulate.adt_receiver import SimulatedAdtReceiver
from archsync.simulate.archive import Rudeness, SimulatedArchive

REACHED = ("--ae-title", "VNA1", "--host", "vna1.example", "--port", "11112")


@pytest.fixture
def vna1(run, ledger) -> Destination:
    run("destination", "create", "vna1", *REACHED)
    return store.get(ledger, "vna1")


def holds_something(ledger, destination: Destination) -> None:
    """The archive was offered an instance and may have it: it did not answer."""
    ledger.execute(
        "insert into held_instance (destination_id, placement_id) values (%s, 1)", [destination.destination_id]
    )


def test_a_destination_is_made_with_every_option(run, ledger, pacs) -> None:
    run("gateway", "create", "north_1", "--facility-group", "region")
    values = {
        "called_ae_title": "VNA1",
        "host": "vna1.example",
        "port": "104",
        "calling_ae_title": "US",
        "gateway": "north_1",
        "trigger_status": "inflight",
        "facilities": "CITY",
        "facility_groups": "region",
        "max_attempts": "3",
        "retry_delay_s": "1.5",
        "retry_multiplier": "3",
        "retry_cap_s": "100",
        "retry_jitter": "0",
        "give_up_after_s": "1000",
        "settle_s": "0",
        "settle_max_s": "1",
        "send_window": "22:00-06:00",
        "time_zone": "Europe/Berlin",
        "concurrency": "7",
        "max_bytes_per_s": "12500000",
        "verification": "c-find",
        "connect_timeout_s": "1",
        "acse_timeout_s": "2",
        "dimse_timeout_s": "3",
        "network_timeout_s": "4",
        "breaker_threshold": "5",
        "probe_delay_s": "6",
        "probe_cap_s": "7",
        "tls_ca_file": "/ca.pem",
        "tls_certificate_file": "/cert.pem",
        "tls_private_key_file": "/key.pem",
        "profile": "dcm4chee",
        "supports_iocm": "false",
        "without_iocm": "operator",
        "rejection_titles": "retention_expired=113039",
        "quality_modifier": "motion_blur",
        "note_order": "wrong_patient_first",
        "max_note_references": "100",
        "adt_host": "adt.example",
        "adt_port": "2576",
        "adt_concurrency": "3",
        "adt_connect_timeout_s": "1",
        "adt_idle_close_s": "2",
        "adt_tls_ca_file": "/ca.pem",
        "adt_tls_certificate_file": "/cert.pem",
        "adt_tls_private_key_file": "/key.pem",
        "adt_receiving_application": "VNA",
        "adt_receiving_facility": "SITE",
        "adt_sending_application": "US",
        "adt_sending_facility": "HERE",
        "adt_version": "2.3.1",
        "adt_character_set": "8859/1",
        "adt_update_trigger": "A31",
        "adt_merge_trigger": "A47",
        "adt_prior_identifier": "freed",
        "adt_processing_id": "T",
        "adt_patient_class": "O",
        "adt_identifier_type": "PI",
        "adt_ack_timeout_s": "5",
        "adt_ack_overrides": "AE=busy,204=accepted",
    }
    flags = {
        "enabled": False,
        "tls": True,
        "tls_check_hostname": False,
        "adt_tls": True,
        "adt_tls_check_hostname": False,
        "adt_wants_commit_ack": True,
    }
    assert {"name", *values, *flags} == set(setting_fields(Destination))
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    arguments += [f"--{'' if on else 'no-'}{name.replace('_', '-')}" for name, on in flags.items()]
    run("destination", "create", "vna1", *arguments)
    made = store.get(ledger, "vna1")
    defaults = Destination(name="vna1", called_ae_title="x", host="x", port=1)
    same = [n for n in setting_fields(Destination) if n != "name" and getattr(made, n) == getattr(defaults, n)]
    assert same == []


def test_any_setting_can_be_given_as_key_and_value(run, ledger) -> None:
    run("destination", "create", "vna1", "--ae-title", "A", "--set", "host=h", "--set", "port=104", "--set", "tls=yes")
    made = store.get(ledger, "vna1")
    assert (made.host, made.port, made.tls) == ("h", 104, True)


def test_a_setting_given_twice_is_refused(run) -> None:
    result = run("destination", "create", "vna1", *REACHED, "--set", "port=3", status=2)
    assert "port is given twice" in result.stderr


def test_making_a_destination_has_every_study_compared_and_wakes_the_dispatcher(run, ledger) -> None:
    plan_queue.advance(ledger, "1", [])
    run("destination", "create", "vna1", *REACHED)
    assert plan_queue.watermark(ledger) is None


def test_without_airflow_the_pool_is_left_to_be_made_and_that_is_said(run) -> None:
    result = run("destination", "create", "vna1", *REACHED)
    assert "Run `archsync pools sync` on a machine of the Airflow core." in result.stderr


def test_a_bad_setting_is_refused_with_its_name_and_reason(run, ledger, pacs, audit) -> None:
    for arguments, message in (
        ("--ae-title AAAAAAAAAAAAAAAAA", "called_ae_title: an AE title has at most 16 characters, this one has 17"),
        ("--port 0", "port: must be from 1 to 65535"),
        ("--port eleven", "port: must be a whole number (got 'eleven')"),
        ("--facilities CITY,MOON", "the platform has no facility 'MOON' (it has CITY, NORTH, SOUTH)"),
        ("--facility-groups moon", "the platform has no facility group 'moon' (it has metro, region)"),
        ("--gateway south_1", "gateway: there is no gateway 'south_1'"),
        ("--set prt=5", "unknown setting 'prt'; did you mean 'port'?"),
        ("--settle-s 900", "settle_max_s: must not be shorter than settle_s"),
        ("--tls-certificate-file c.pem", "tls_certificate_file and tls_private_key_file: give both or neither"),
        ("--time-zone Europe/Atlantis", "time_zone: is not a known time zone"),
        ("--rejection-titles quality=1", "rejection_titles: 'quality=1' must be one of quality, "),
        ("--quality-modifier 113001", "quality_modifier: must be one of "),
        ("--adt-host h", "adt_receiving_application: needed where adt_host is given"),
        ("--adt-ack-overrides AE=maybe", "adt_ack_overrides: 'AE=maybe' is not such as AE=busy"),
    ):
        result = run("destination", "create", "vna1", *REACHED, *arguments.split(), status=2)
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert store.all_destinations(ledger) == []
    assert audit() == []


def test_all_bad_settings_are_named_at_once(run) -> None:
    result = run("destination", "create", "VNA-1", "--ae-title", "", "--host", "h", "--port", "70000", status=2)
    for setting in ("name: must be", "called_ae_title: must not be empty", "port: must be"):
        assert setting in result.stderr


def test_a_missing_setting_is_named(run) -> None:
    result = run("destination", "create", "vna1", "--host", "h", status=2)
    assert "a destination needs called_ae_title, port" in result.stderr


def test_a_destination_name_is_taken_only_once(run, vna1) -> None:
    result = run("destination", "create", "vna1", *REACHED, status=2)
    assert "there is a destination 'vna1' already" in result.stderr


def test_an_unknown_destination_is_refused_with_those_known(run, vna1) -> None:
    for arguments in (["show", "vna"], ["set", "vna", "port=1"], ["enable", "vna"], ["test", "vna"]):
        result = run("destination", *arguments, status=2)
        assert "there is no destination 'vna' (known: vna1)" in result.stderr


def test_the_list_shows_scope_and_state(run, ledger, pacs, vna1) -> None:
    run(
        "destination", "create", "vna2", *REACHED, "--facilities", "CITY", "--facility-groups", "region", "--no-enabled"
    )
    down = Health(failures=3, down_since=datetime(2026, 5, 4, 10, tzinfo=UTC), reason_code="connection-refused")
    store.set_health(ledger, vna1.destination_id, DagKind.ARCHIVE, down)
    waiting = "insert into job (job_type, destination_id, priority, patient_key) values ('archive', %s, 2, 'p')"
    ledger.execute(waiting, [vna1.destination_id])
    lines = [" ".join(line.split()) for line in run("destination", "list").stdout.splitlines()]
    assert lines[1].endswith("Completed all down since 2026-05-04 10:00:00Z (connection-refused) 1 0")
    assert lines[2].endswith("Completed CITY, group region disabled 0 0")


def test_the_list_as_json_has_every_setting_and_the_health(run_json, vna1) -> None:
    (item,) = run_json("destination", "list")
    assert set(setting_fields(Destination)) <= item.keys()
    assert item["name"] == "vna1"
    assert item["trigger_status"] == "Completed"
    assert item["down_since"] is None
    assert (item["queue_depth"], item["failed"], item["holds_instances"]) == (0, 0, 0)


def test_show_marks_what_differs_from_the_default(run, run_json, vna1) -> None:
    run("destination", "set", "vna1", "retry_delay_s=5")
    output = run("destination", "show", "vna1").stdout
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "retry_delay_s 5 s * Wait before the second attempt." in lines
    assert any(line.startswith("max_attempts 8 Attempts that reach") for line in lines)
    assert run_json("destination", "show", "vna1")["retry_delay_s"] == 5.0


def test_set_says_what_changed_and_records_it(run, ledger, audit, vna1) -> None:
    result = run("destination", "set", "vna1", "port=104", "retry-delay-s=5", "send_window=22:00-06:00")
    assert result.stdout.splitlines() == [
        "vna1: port: 11112 → 104",
        "vna1: retry_delay_s: 30 → 5",
        "vna1: send_window: ∅ → 22:00-06:00",
    ]
    assert store.get(ledger, "vna1").retry_delay_s == 5.0
    assert audit()[-1][1:] == (
        "destination.set",
        "destination vna1",
        "port: 11112 → 104; retry_delay_s: 30 → 5; send_window: ∅ → 22:00-06:00",
    )


def test_an_empty_value_takes_a_setting_away(run, ledger, vna1) -> None:
    run("destination", "set", "vna1", "send_window=22:00-06:00")
    run("destination", "set", "vna1", "send_window=")
    assert store.get(ledger, "vna1").send_window is None


def test_setting_what_is_set_already_changes_and_records_nothing(run, audit, vna1) -> None:
    before = audit()
    assert run("destination", "set", "vna1", "port=11112").stdout == "vna1: nothing to change\n"
    assert audit() == before


def test_a_bad_value_changes_nothing_at_all(run, ledger, vna1) -> None:
    run("destination", "set", "vna1", "max_attempts=3", "port=x", status=2)
    assert store.get(ledger, "vna1") == vna1


def test_two_changes_at_the_same_time_both_stay(ledger, ledger_dsn, vna1) -> None:
    def change_delay() -> None:
        with Ledger(ledger_dsn) as other:
            destinations.change(other, list, "vna1", {"retry_delay_s": 7}, actor="b", now=datetime.now(UTC))

    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction():
            destinations.change(ledger, list, "vna1", {"max_attempts": 3}, actor="a", now=datetime.now(UTC))
            second = pool.submit(change_delay)
            with Ledger(ledger_dsn) as watcher:
                while not watcher.fetch_all(
                    "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
                ):
                    assert not second.done(), second.exception()
        second.result(timeout=30)
    changed = store.get(ledger, "vna1")
    assert (changed.max_attempts, changed.retry_delay_s) == (3, 7.0)


def test_a_destination_can_not_be_renamed(run, vna1) -> None:
    assert "can't be renamed" in run("destination", "set", "vna1", "name=vna2", status=2).stderr


@pytest.mark.parametrize("change", ["trigger_status=Pending", "facilities=CITY", "facility_groups=region"])
def test_a_change_of_what_is_due_has_every_study_compared_again(run, ledger, pacs, vna1, change) -> None:
    plan_queue.advance(ledger, "7", [])
    run("destination", "set", "vna1", change)
    assert plan_queue.watermark(ledger) is None


def test_other_changes_do_not_read_the_platform_again(run, ledger, vna1) -> None:
    plan_queue.advance(ledger, "7", [])
    run("destination", "set", "vna1", "retry_delay_s=5")
    run("destination", "disable", "vna1")
    run("destination", "enable", "vna1")
    assert plan_queue.watermark(ledger) == "7"


def test_every_change_has_the_dispatcher_look_at_the_destination_again(run, ledger, vna1) -> None:
    store.look_again(ledger, vna1.destination_id, datetime(9999, 1, 1, tzinfo=UTC))
    run("destination", "set", "vna1", "send_window=00:00-00:00")
    (row,) = ledger.fetch_all("select bool_and(look_again_at <= now()) as is_now from destination_health")
    assert row["is_now"]


def test_a_destination_that_is_down_is_probed_at_once_when_its_address_changes(run, ledger, vna1) -> None:
    now = datetime.now(UTC)
    down = Health(failures=9, down_since=now, probe_at=now + timedelta(days=1), reason_code="x", reason="y")
    store.set_health(ledger, vna1.destination_id, DagKind.ARCHIVE, down)
    run("destination", "set", "vna1", "retry_delay_s=5")
    assert not store.health(ledger)[vna1.destination_id, DagKind.ARCHIVE].health.may_probe(datetime.now(UTC))
    run("destination", "set", "vna1", "port=104")
    health = store.health(ledger)[vna1.destination_id, DagKind.ARCHIVE].health
    assert health.is_down
    assert health.may_probe(datetime.now(UTC))


def test_disable_and_enable(run, ledger, audit, vna1) -> None:
    run("destination", "disable", "vna1")
    assert not store.get(ledger, "vna1").enabled
    run("destination", "enable", "vna1")
    assert store.get(ledger, "vna1").enabled
    assert [detail for _, _, _, detail in audit()[-2:]] == ["enabled: true → false", "enabled: false → true"]


@pytest.mark.parametrize("change", ["called_ae_title=OTHER", "host=elsewhere.example"])
def test_a_destination_that_holds_studies_keeps_its_identity_unless_overridden(
    run, ledger, audit, vna1, change
) -> None:
    run("destination", "set", "vna1", change.replace("OTHER", "FIRST").replace("elsewhere", "first"))
    held = store.get(ledger, "vna1")
    holds_something(ledger, held)
    result = run("destination", "set", "vna1", change, status=2)
    assert "vna1 holds studies" in result.stderr
    assert "--override-lock REASON" in result.stderr
    assert store.get(ledger, "vna1") == held
    run("destination", "set", "vna1", change, "--override-lock", " ", status=2)
    assert store.get(ledger, "vna1") == held
    run("destination", "set", "vna1", change, "--override-lock", "new hardware, same archive")
    assert store.get(ledger, "vna1") != held
    _, action, subject, detail = audit()[-1]
    assert (action, subject) == ("destination.override", "destination vna1")
    assert detail.endswith("; lock overridden: new hardware, same archive")


def test_how_a_destination_is_reached_and_told_of_patients_may_change_while_it_holds_studies(run, ledger, vna1) -> None:
    holds_something(ledger, vna1)
    run("destination", "set", "vna1", "port=105", "adt_host=engine.example", "adt_receiving_application=ENGINE")
    run("destination", "set", "vna1", "adt_host=other.example", "adt_port=2576")
    assert store.get(ledger, "vna1").adt.host == "other.example"


def has_job(ledger, destination: Destination, status: str) -> None:
    ledger.execute(
        "insert into job (job_type, status, destination_id, priority, patient_key, study_key)"
        " values ('archive', %s, %s, 2, 'p1', 's1')",
        [status, destination.destination_id],
    )


def test_a_mistyped_address_is_corrected_freely_though_jobs_wait_for_it(run, ledger, vna1) -> None:
    has_job(ledger, vna1, "waiting")
    run("destination", "set", "vna1", "host=right.example")
    assert store.get(ledger, "vna1").host == "right.example"


def test_while_a_job_runs_the_identity_stays(run, ledger, vna1) -> None:
    has_job(ledger, vna1, "running")
    assert "one is on its way" in run("destination", "set", "vna1", "host=other.example", status=2).stderr


def test_a_destination_that_was_never_used_is_deleted_with_its_partition(run, ledger, audit, vna1) -> None:
    run("destination", "create", "vna2", *REACHED)
    assert "deleted" in run("destination", "delete", "vna1", "--yes").stdout
    assert [d.name for d in store.all_destinations(ledger)] == ["vna2"]
    rows = ledger.fetch_all(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'held_instance'::regclass"
    )
    assert [row["name"] for row in rows] == [f"held_instance_{store.get(ledger, 'vna2').destination_id}"]
    assert audit()[-1][1:] == (
        "destination.delete", "destination vna1", "0 archived studies and 0 jobs forgotten",
    )  # fmt: skip


def test_deleting_asks_first(run, ledger, vna1) -> None:
    run("destination", "delete", "vna1", typed="n\n", status=1)
    assert store.get(ledger, "vna1") == vna1


@pytest.mark.parametrize("use", [holds_something, lambda ledger, d: has_job(ledger, d, "succeeded")])
def test_a_destination_that_was_used_is_deleted_only_when_the_lock_is_overridden(run, ledger, audit, vna1, use) -> None:
    use(ledger, vna1)
    before = audit()
    result = run("destination", "delete", "vna1", "--yes", status=2)
    assert "the ledger would forget them" in result.stderr
    assert "archsync destination disable vna1" in result.stderr
    assert (store.get(ledger, "vna1"), audit()) == (vna1, before)
    run("destination", "delete", "vna1", "--yes", "--override-lock", "archive retired")
    assert store.all_destinations(ledger) == []
    assert audit()[-1][3].endswith("; lock overridden: archive retired")


_ALL_TABLES = """
    update job set superseded_by = (select max(job_id) from job where destination_id = %(d)s)
        where destination_id = %(d)s and status = 'succeeded';
    insert into job_dependency select min(job_id), max(job_id) from job where destination_id = %(d)s;
    insert into job_attempt (job_id, dag_id, run_id, try_number)
        select job_id, 'd', 'r', 1 from job where destination_id = %(d)s;
    insert into job_failure (job_id, instance_key, sop_instance_uid, code, message)
        select job_id, 'i', '1.2', 'c', 'm' from job where destination_id = %(d)s;
    insert into rejection_note (job_id, destination_id, study_key, study_instance_uid, sop_instance_uid, title, scope,
                                part, instances)
        select min(job_id), %(d)s, 's1', '1.2', '1.2.' || %(d)s, '113001', 1, 1, 1
        from job where destination_id = %(d)s;
    insert into adt_message (job_id, trigger_event, control_id, patient_key, patient_id, name)
        select min(job_id), 'A08', %(d)s, 'p1', 'P', 'N' from job where destination_id = %(d)s;
    insert into held_patient (destination_id, patient_key, patient_id, name) values (%(d)s, 'p1', 'P', 'N');
    insert into held_study (destination_id, study_key, archived_at) values (%(d)s, 's1', now())
"""


def fill_tables(ledger, destination: Destination) -> None:
    """Put something about a destination into every table."""
    for statement in _ALL_TABLES.split(";"):
        ledger.execute(statement, {"d": destination.destination_id})


def test_with_a_destination_goes_all_that_was_known_of_it_and_nothing_else(
    run, ledger, ledger_dsn, contents, vna1
) -> None:
    run("destination", "create", "other", *REACHED)
    other = store.get(ledger, "other")
    for destination in (other, vna1):
        holds_something(ledger, destination)
        for status in ("succeeded", "failed"):
            has_job(ledger, destination, status)
        fill_tables(ledger, destination)
    before = contents(ledger_dsn)
    output = run("destination", "delete", "vna1", "--yes", "--override-lock", "retired").stdout
    assert "1 archived study and 2 jobs forgotten" in output
    after = contents(ledger_dsn)
    assert f"public.held_instance_{vna1.destination_id}" not in after
    tables = ["job", "job_dependency", "job_attempt", "job_failure", "rejection_note", "adt_message", "destination"]
    for table in (*tables, "destination_health", "held_patient", "held_study", "held_instance"):
        assert len(before[f"public.{table}"]) == 2 * len(after[f"public.{table}"]) > 0, table


def test_a_destination_whose_job_runs_is_not_deleted_at_all(run, ledger, vna1) -> None:
    has_job(ledger, vna1, "running")
    result = run("destination", "delete", "vna1", "--yes", "--override-lock", "in a hurry", status=1)
    assert "a job of vna1 is running" in result.stderr
    assert store.get(ledger, "vna1") == vna1


@pytest.mark.parametrize(
    "change", ["supports_iocm=true", "profile=dcm4chee", "rejection_titles=unspecified=none", "without_iocm=operator"]
)
def test_what_decides_about_withdrawals_has_every_study_compared_again(run, ledger, vna1, change) -> None:
    plan_queue.advance(ledger, "7", [])
    run("destination", "set", "vna1", change)
    assert plan_queue.watermark(ledger) is None


def test_an_adt_receiver_that_is_down_shows_and_is_probed_at_once_when_its_settings_change(
    run, run_json, ledger, vna1
) -> None:
    now = datetime.now(UTC)
    down = Health(failures=9, down_since=now, probe_at=now + timedelta(days=1), reason_code="x", reason="y")
    store.set_health(ledger, vna1.destination_id, DagKind.ADT, down)
    assert "ADT receiver  down since" in run("destination", "show", "vna1").stdout
    assert run_json("destination", "show", "vna1")["health"]["adt"]["reason_code"] == "x"
    run("destination", "set", "vna1", "port=105")
    assert not store.health(ledger)[vna1.destination_id, DagKind.ADT].health.may_probe(datetime.now(UTC))
    run("destination", "set", "vna1", "adt_version=2.5")
    assert store.health(ledger)[vna1.destination_id, DagKind.ADT].health.may_probe(datetime.now(UTC))


def archive_destination(run, archive: SimulatedArchive, **settings: str) -> None:
    host, port = archive.address
    values = {"called_ae_title": archive.ae_title, "host": host, "port": str(port), **settings}
    run("destination", "create", "sim", *[f"--set={name}={value}" for name, value in values.items()])


def test_test_passes_every_step_at_a_good_archive(run, run_json, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "archive") as archive:
        archive_destination(run, archive)
        lines = run("destination", "test", "sim").stdout.splitlines()
        steps = run_json("destination", "test", "sim")
        assert archive.requests == []
    assert [line.split()[:2] for line in lines] == [["ok", step["step"]] for step in steps]
    assert [step["step"] for step in steps] == ["tcp", "association", "echo", "storage", "notes", "find"]
    assert all(step["ok"] and step["code"] == "" for step in steps)


def test_test_says_that_the_ae_title_is_refused_and_which(run, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "archive", rudeness=Rudeness(check_called_ae_title=True)) as archive:
        archive_destination(run, archive, called_ae_title="WRONG")
        result = run("destination", "test", "sim", status=1)
    assert result.stdout.splitlines()[0].startswith("ok      tcp")
    assert result.stdout.splitlines()[-1].startswith("FAILED  association")
    assert "'WRONG'" in result.stdout


def test_test_says_that_our_ae_title_is_refused_and_which(run, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "a", rudeness=Rudeness(known_calling_ae_titles=("OTHER",))) as archive:
        archive_destination(run, archive, calling_ae_title="STRANGER")
        result = run("destination", "test", "sim", status=1)
    assert "calling AE title 'STRANGER'" in result.stdout


def test_test_says_that_a_port_is_closed(run, run_json) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        run("destination", "create", "sim", "--ae-title", "A", "--host", "127.0.0.1", "--port", str(port))
        (step,) = run_json("destination", "test", "sim", status=1)
    assert (step["step"], step["ok"], step["code"]) == ("tcp", False, "connection-refused")


def test_test_tells_a_destination_that_needs_notes_that_the_archive_takes_none(run, run_json, tmp_path) -> None:
    ct = ("1.2.840.10008.5.1.4.1.1.2",)
    with SimulatedArchive(tmp_path / "archive", rudeness=Rudeness(accept_sop_classes=ct)) as archive:
        archive_destination(run, archive)
        found = {step["step"]: step for step in run_json("destination", "test", "sim")}
        assert found["notes"]["ok"]
        assert "not accepted" in found["notes"]["message"]
        assert (found["storage"]["state"], found["storage"]["code"]) == ("warning", "sop-class-not-accepted")
        assert "warning storage      not accepted: MR Image" in run("destination", "test", "sim").stdout
        run("destination", "set", "sim", "supports_iocm=true")
        found = {step["step"]: step for step in run_json("destination", "test", "sim", status=1)}
    assert (found["notes"]["ok"], found["notes"]["code"]) == (False, "notes-not-accepted")


def test_test_tries_the_adt_receiver_and_sends_it_nothing(run, run_json, tmp_path) -> None:
    with SimulatedArchive(tmp_path / "archive") as archive:
        with SimulatedAdtReceiver() as receiver:
            host, port = receiver.address
            archive_destination(run, archive, adt_host=host, adt_port=str(port), adt_receiving_application="SIM")
            step = run_json("destination", "test", "sim")[-1]
            assert receiver.received == []
        assert (step["step"], step["ok"]) == ("adt", True)
        step = run_json("destination", "test", "sim", status=1)[-1]
    assert (step["step"], step["ok"], step["code"]) == ("adt", False, "connection-refused")


def test_a_gateway_is_made_listed_and_recorded(run, run_json, pacs, audit) -> None:
    run("gateway", "create", "north_1", "--facility-group", "region", "--queue", "edge.north")
    (item,) = run_json("gateway", "list")
    assert (item["name"], item["facility_group"], item["queue"]) == ("north_1", "region", "edge.north")
    assert "north_1  region          edge.north  pending" in run("gateway", "list").stdout
    assert audit()[-1][1:3] == ("gateway.create", "gateway north_1")


def test_a_bad_gateway_is_refused(run, run_json, pacs) -> None:
    run("gateway", "create", "north_1", "--facility-group", "region")
    for name, facility_group, queue, message in (
        ("north_1", "region", "q", "there is a gateway 'north_1' already"),
        ("north_2", "moon", "q", "the platform has no facility group 'moon' (it has metro, region)"),
        ("North-2", "region", "q", "name: must be"),
        ("north_2", "", "q", "facility_group: must not be empty"),
        ("north_2", "region", "a b", "queue: must be"),
    ):
        result = run("gateway", "create", name, "--facility-group", facility_group, "--queue", queue, status=2)
        assert message in result.stderr
    assert len(run_json("gateway", "list")) == 1


def test_empty_lists_say_so(run, run_json) -> None:
    assert run("gateway", "list").stdout == "There is no gateway.\n"
    assert run("destination", "list").stdout.startswith("There is no destination.")
    assert run_json("destination", "list") == []
