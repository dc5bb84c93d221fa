"""Setting up an archive and looking after studies, in the browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from archsync.core.destination import Destination
from archsync.core.job import JobStatus, JobType
from archsync.core.study import ExamStatus, RemovalReason
from archsync.launcher.postgres import free_port
from archsync.ledger import destinations, jobs
from archsync.ledger.jobs import JobFilter
from archsync.simulate.archive import Rudeness, SimulatedArchive

WAIT_S = 90.0


@pytest.fixture
def strict_archive(stack):
    """An archive, VNA2, that takes associations for its own AE title only."""
    archive = SimulatedArchive(stack.folder / "archives" / "vna2", port=free_port(), ae_title="VNA2")
    archive.start()
    archive.behave(Rudeness(check_called_ae_title=True))
    yield archive
    archive.stop()


def test_a_wrong_ae_title_is_diagnosed_mended_and_the_destination_set_up_in_three_steps(
    stack, visit, strict_archive
) -> None:
    visitor = visit("op")
    page = visitor.page
    visitor.open("view=setup")
    visitor.picture("set-up-1")
    page.get_by_role("button", name="Go on without a gateway").click()

    def fill(setting: str, value: str) -> None:
        page.locator(f"[data-setting='{setting}'] input").fill(value)

    page.get_by_role("button", name="Make the destination").click()
    expect(page.locator("[data-setting='called_ae_title']")).to_contain_text(re.compile("must|required|needed|missing"))
    fill("name", "vna2")
    fill("called_ae_title", "VNA_TWO")
    fill("host", "127.0.0.1")
    fill("port", str(strict_archive.address[1]))
    page.get_by_role("button", name="Test", exact=True).click()
    result = page.get_by_test_id("test-result")
    expect(result).to_contain_text("The archive does not take us yet")
    expect(result.locator("[data-step='association']")).to_contain_text("AE title")
    expect(result.locator("[data-step='association']")).to_contain_text("What to do:")
    result.scroll_into_view_if_needed()
    visitor.picture("set-up-2-wrong-ae-title")
    assert visitor.barriers() == []
    fill("called_ae_title", "VNA2")
    page.get_by_role("button", name="Test", exact=True).click()
    expect(result).to_contain_text("The archive takes us")
    assert result.locator("[data-state='failed']").count() == 0
    visitor.picture("set-up-2-test-is-green")
    page.get_by_role("button", name="Make the destination").click()
    expect(page).to_have_url(re.compile("step=3"))
    visitor.picture("set-up-3")
    page.get_by_role("button", name="Switch it on").click()
    expect(page.get_by_text("vna2 is switched on").first).to_be_visible()
    visitor.open("view=destinations")
    expect(page.locator("[data-destination='vna2']")).to_contain_text("VNA2")
    visitor.picture("destinations")


def test_a_change_of_a_destination_is_checked_field_by_field_before_it_is_saved(stack, visit) -> None:
    visitor = visit("op")
    page = visitor.page
    visitor.open("view=destination&name=vna1")
    delay = page.locator("[data-setting='retry_delay_s']")
    if not delay.is_visible():
        page.get_by_role("button", name=re.compile("etries")).first.click()
    delay.locator("input").fill("-1")
    delay.locator("input").blur()
    expect(delay).to_contain_text("must be from 0 to 86400")
    page.get_by_role("button", name="Save").click()
    expect(delay.locator("input")).to_be_focused()
    delay.locator("input").fill("1.5")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("All saved")).to_be_visible()
    page.reload()
    if not delay.is_visible():
        page.get_by_role("button", name=re.compile("etries")).first.click()
    expect(delay.locator("input")).to_have_value("1.5")


def test_who_may_not_configure_sees_the_settings_and_can_change_none(visit) -> None:
    visitor = visit("user")
    page = visitor.page
    visitor.open("view=destination&name=vna1")
    expect(page.get_by_text("You may see these settings, but not change them")).to_be_visible()
    expect(page.locator("[data-setting='host'] input")).to_be_disabled()
    assert page.get_by_role("button", name="Save").count() == 0
    visitor.open("view=setup")
    expect(page.get_by_text("Setting up needs another role")).to_be_visible()


def test_a_gateway_is_made_and_listed(visit) -> None:
    visitor = visit("op")
    page = visitor.page
    visitor.open("view=gateways")
    page.get_by_role("button", name="New gateway").click()
    page.get_by_label("Name").fill("north_1")
    page.get_by_label("Facility group").fill("region")
    page.get_by_role("button", name="Make the gateway").click()
    expect(page.get_by_role("table", name="Gateways")).to_contain_text("north_1")
    visitor.picture("gateways")


def test_a_study_shows_what_its_archive_holds_and_can_be_held_and_released(stack, visit) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    job = stack.wait_for_job(study, "vna1", JobStatus.SUCCEEDED)
    visitor = visit("admin")
    page = visitor.page
    visitor.open("view=studies")
    page.get_by_role("search").get_by_role("textbox").fill(job.study_instance_uid)
    page.get_by_role("button", name="Find").click()
    held = page.get_by_role("table", name="Archives").locator("tr", has_text="vna1")
    expect(held).to_contain_text("As the platform says")
    page.get_by_role("button", name="Hold …").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("waits for the second reading")
    page.get_by_role("dialog").get_by_role("button", name="Hold").click()
    expect(page.get_by_text("waits for the second reading")).to_be_visible()
    visitor.picture("study-on-hold")
    page.get_by_role("button", name="Release").click()
    expect(page.get_by_text("On hold", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Plan now …").click()
    expect(page.get_by_role("dialog")).to_contain_text("vna1")
    visitor.picture("study-plan")
    assert visitor.barriers("[role='dialog']") == []
    page.get_by_role("dialog").get_by_role("button", name="Plan now").click()
    expect(page.get_by_text(re.compile("^Planned: ")).first).to_be_visible()
    page.get_by_role("button", name="Push again …").click()
    page.get_by_role("dialog").get_by_role("button", name="Push again").click()
    table = page.get_by_role("table", name="Jobs of this study")
    expect(table.locator("tbody tr")).to_have_count(2)


def test_patients_are_shown_on_request_only_and_to_those_who_may(stack, visit) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    job = stack.wait_for_job(study, "vna1", JobStatus.SUCCEEDED)
    with stack.platform.transaction() as connection:
        (patient_id,) = connection.execute(
            "select patient_id from pacs.study join pacs.patient using (patient_key) where study_instance_uid = %s",
            [job.study_instance_uid],
        ).fetchone()
    visitor = visit("op")
    visitor.open(f"view=studies&study={job.study_instance_uid}")
    expect(visitor.page.get_by_role("region", name="Patient")).to_contain_text("Hidden")
    assert patient_id not in visitor.page.content()
    visitor.page.get_by_role("button", name="Show patient data").click()
    expect(visitor.page.get_by_role("region", name="Patient")).to_contain_text(patient_id)
    unprivileged = visit("user")
    unprivileged.open(f"view=studies&study={job.study_instance_uid}")
    expect(unprivileged.page.get_by_role("table", name="Archives")).to_be_visible()
    assert unprivileged.page.get_by_role("button", name="Show patient data").count() == 0


def test_what_facts_are_tied_to_changes_with_a_reason_only_that_is_recorded(stack, visit) -> None:
    study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    stack.wait_for_job(study, "vna1", JobStatus.SUCCEEDED)
    visitor = visit("op")
    page = visitor.page
    visitor.open("view=destination&name=vna1")
    expect(page.get_by_text("Some settings are locked")).to_be_visible()
    host = page.locator("[data-setting='host'] input")
    why = page.get_by_label("Why you change them nevertheless")
    for address, reason in (("localhost", "the archive has a name now"), ("127.0.0.1", "and lost it again")):
        host.fill(address)
        expect(page.get_by_role("button", name="Save")).to_be_disabled()
        why.fill(reason)
        visitor.picture("destination-locked")
        assert visitor.barriers() == []
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("All saved")).to_be_visible()
    with stack.ledger() as ledger:
        audited = ledger.fetch_all(
            "select actor, subject, detail from audit_event where action = 'destination.override' order by 1"
        )
    assert [(row["actor"], row["subject"]) for row in audited] == [("op", "destination vna1")] * 2
    assert "lock overridden: the archive has a name now" in audited[0]["detail"]


def test_a_destination_is_switched_on_and_off_and_removed(stack, visit) -> None:
    with stack.ledger() as ledger:
        destinations.insert(
            ledger,
            Destination(
                name="old1", called_ae_title="OLD1", host="127.0.0.1", port=104, enabled=False, facilities=("NORTH",)
            ),
        )
    visitor = visit("op")
    page = visitor.page
    visitor.open("view=destinations")
    row = page.locator("[data-destination='old1']")
    expect(row).to_contain_text("Switched off")
    row.get_by_role("button", name="Switch old1 on").click()
    expect(row).not_to_contain_text("Switched off")
    row.get_by_role("button", name="Switch old1 off").click()
    expect(row).to_contain_text("Switched off")
    row.get_by_role("link", name="old1").click()
    page.get_by_role("button", name="Remove …").click()
    dialog = page.get_by_role("alertdialog")
    expect(dialog).to_contain_text("Remove destination old1?")
    visitor.picture("destination-removal")
    why = dialog.get_by_role("textbox")
    if why.is_visible():  # studies were due there meanwhile
        why.fill("it was replaced")
    dialog.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("table", name="Destinations")).to_be_visible()
    expect(row).to_have_count(0)
    with stack.ledger() as ledger:
        audited = ledger.fetch_all(
            "select actor, action from audit_event where subject = 'destination old1' order by audit_event_id"
        )
    assert [row["actor"] for row in audited] == ["op"] * 3
    assert audited[-1]["action"] == "destination.delete"


def test_a_change_after_archiving_shows_its_steps_the_note_and_the_message_with_the_patient_on_request(
    stack, visit
) -> None:
    stack.add_destination("vna9", honours_changes=True)
    for kind in ("archive", "iocm", "adt"):
        stack.wait_until_parsed(f"archsync_{kind}__vna9")
    study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    job = stack.wait_for_job(study, "vna9", JobStatus.SUCCEEDED)
    stack.platform.remove_instances(study, 1, reason=RemovalReason.PATIENT_SAFETY)
    with stack.platform.transaction() as connection:
        (patient_key,) = connection.execute(
            "select patient_key from pacs.study where study_key = %s", [study]
        ).fetchone()
    stack.platform.change_mrn(patient_key, "CHANGED-1")

    def done(job_type: JobType) -> Any:
        with stack.ledger() as ledger:
            found = jobs.listing(ledger, JobFilter(job_types=[job_type], destinations=["vna9"]))
        return next((item.job for item in found if item.job.status is JobStatus.SUCCEEDED), None)

    change, message = (
        stack.wait_for(lambda kind=kind: done(kind), WAIT_S, lambda kind=kind: f"no {kind} job")
        for kind in (JobType.IOCM, JobType.ADT)
    )
    visitor = visit("op")
    page = visitor.page
    visitor.open(f"view=job&id={change.job_id}")
    relatives = page.get_by_role("region", name="Other jobs")
    expect(relatives).to_contain_text("Its steps")
    visitor.picture("job-iocm")
    relatives.get_by_role("link", name=re.compile("^Job ")).last.click()
    expect(page.get_by_role("heading", name=re.compile("Rejection note$"))).to_be_visible()
    notes = page.get_by_role("region", name="Rejection notes")
    expect(notes).to_contain_text(re.compile("1 instance of study"))
    expect(notes).to_contain_text(job.study_instance_uid)
    visitor.picture("job-kos")
    visitor.open(f"view=job&id={message.job_id}")
    text = page.get_by_role("region", name="HL7 message").locator("pre")
    expect(text).to_contain_text("MSH|")
    assert "CHANGED-1" not in page.content()
    page.get_by_role("button", name="Show patient data").click()
    expect(text).to_contain_text("CHANGED-1")
    page.get_by_role("button", name="Mask again").click()
    expect(text).not_to_contain_text("CHANGED-1")
    visitor.picture("job-adt")
    assert visitor.barriers() == []
    with stack.ledger() as ledger:
        audited = ledger.fetch_one("select actor, subject from audit_event where action = 'job.show-phi'")
    assert audited == {"actor": "op", "subject": f"job {message.job_id}"}
