"""An administrator's day at the Jobs page: what they see, why it failed, and what they do about it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import expect

from archsync.core.job import JobStatus
from archsync.core.study import ExamStatus
from archsync.services import destinations
from archsync.simulate.archive import Rudeness
from archsync.simulate.platform import SimulatedPlatform

MANY = 200
#: For as many jobs on a machine that does other things, too.
LONG_S = 600
REFUSES_IMAGES = Rudeness(answer_every_store=0x0122)  # "SOP class not supported": no use in trying again


@pytest.fixture(autouse=True)
def _polite_archives(stack):
    yield
    for archive in stack.archives.values():
        archive.behave(None)


@pytest.fixture
def make_job(stack):
    """Have an exam completed, and give the job on it once it has this status."""

    def make(*statuses: JobStatus) -> Any:
        study = stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
        return stack.wait_for_job(study, "vna1", *statuses)

    return make


def test_somebody_who_logs_in_sees_a_job_appear_and_end_without_reloading(stack, visit) -> None:
    visitor = visit(user=None)
    page = visitor.page
    visitor.log_in("admin", stack.installation.passwords["admin"])
    visitor.complaints.clear()  # Airflow's own page asks, before the log-in, what only users may ask
    page.get_by_role("link", name="Archive Sync").first.click()
    expect(page.get_by_role("navigation", name="Archive Sync")).to_be_visible()
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    page.evaluate("globalThis.neverReloaded = true")
    stack.archives["vna1"].behave(Rudeness(store_delay_s=1.0))
    stack.platform.add_volume(exam_status=ExamStatus.COMPLETED)
    row = page.locator("tr[data-job]")
    expect(row.get_by_text("Running", exact=True)).to_be_visible()
    visitor.picture("job-runs")
    stack.archives["vna1"].behave(None)
    expect(row.get_by_text("Succeeded", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Succeeded: 1")).to_be_visible()
    assert page.evaluate("globalThis.neverReloaded")


def test_a_failed_job_says_why_and_succeeds_after_what_was_wrong_is_mended(stack, visit, make_job) -> None:
    stack.archives["vna1"].behave(REFUSES_IMAGES)
    job = make_job(JobStatus.FAILED)
    visitor = visit()
    page = visitor.page
    visitor.open("view=jobs")
    page.get_by_role("button", name=re.compile("^Failed: ")).click()
    expect(page).to_have_url(re.compile("status=failed"))
    row = visitor.row(job.job_id)
    expect(row).to_contain_text(job.reason)
    expect(row.get_by_role("link", name=f"What to do about {job.reason_code}")).to_be_visible()
    expect(page.locator("[aria-busy='true']")).to_have_count(0)
    visitor.picture("jobs-failed")
    row.get_by_role("link", name=f"Job {job.job_id}").click()
    reason = page.get_by_test_id("reason")
    expect(reason).to_contain_text(job.reason)
    expect(reason).to_contain_text("What to do:")
    expect(page.get_by_text(re.compile(r"Attempt \d+: failed"))).to_be_visible()
    page.get_by_role("button", name=re.compile("^Show .+ instances?$")).click()
    instances = page.get_by_role("table", name="Instances", exact=True).locator("tbody tr")
    expect(instances).to_have_count(job.instances_total)
    expect(instances.first).to_contain_text("failed")
    visitor.picture("job-failed")
    stack.archives["vna1"].behave(None)
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("1 job to be tried again").first).to_be_visible()
    expect(page.get_by_role("heading", level=1).locator("xpath=..").get_by_text("Succeeded")).to_be_visible()
    visitor.picture("job-succeeded")


def test_what_explains_a_code_and_the_log_in_airflow_are_one_click_away(stack, visit, make_job) -> None:
    stack.archives["vna1"].behave(REFUSES_IMAGES)
    job = make_job(JobStatus.FAILED)
    visitor = visit()
    page = visitor.page
    visitor.open(f"view=job&id={job.job_id}")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=re.compile(f"All about {job.reason_code}")).click()
    explained = opened.value
    expect(explained.locator(f"[id='{job.reason_code}']")).to_be_visible()
    explained.close()
    page.get_by_role("link", name="Log in Airflow").first.click()
    expect(page).to_have_url(re.compile(f"/dags/{job.dag_id}/runs/"))
    page.get_by_role("link", name="Archive job").click()
    expect(page.get_by_role("heading", name=re.compile(f"^Job {job.job_id} "))).to_be_visible()
    visitor.picture("task-instance-tab")
    page.get_by_role("link", name=f"Job {job.job_id} in Archive Sync").click()
    expect(page).to_have_url(re.compile(f"view=job&id={job.job_id}"))


def test_the_filter_is_in_the_address_and_back_undoes_it(stack, visit, make_job) -> None:
    job = make_job(JobStatus.SUCCEEDED)
    visitor = visit()
    page = visitor.page
    visitor.open(f"view=jobs&study={job.study_instance_uid}&type=archive")
    expect(visitor.row(job.job_id)).to_be_visible()
    expect(page.locator("tr[data-job]")).to_have_count(1)
    page.get_by_role("button", name="Type: ARCHIVE").click()
    page.get_by_role("menuitemcheckbox", name="ADT").click()
    page.get_by_role("menuitemcheckbox", name="ARCHIVE").click()
    page.keyboard.press("Escape")
    expect(page.get_by_text("No job matches")).to_be_visible()
    expect(page).to_have_url(re.compile("type=adt"))
    page.go_back()
    page.go_back()
    expect(visitor.row(job.job_id)).to_be_visible()
    page.get_by_role("button", name="Show all", exact=True).click()
    expect(page).not_to_have_url(re.compile("study="))


def test_an_accession_number_finds_its_study_and_never_stands_in_the_address(stack, visit, make_job) -> None:
    job = make_job(JobStatus.SUCCEEDED)
    with stack.platform.transaction() as connection:
        (accession,) = connection.execute(
            "select accession_number from pacs.study where study_instance_uid = %s", [job.study_instance_uid]
        ).fetchone()
    visitor = visit()
    page = visitor.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    visitor.open("view=jobs")
    page.get_by_role("search").get_by_role("textbox").fill(accession)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("study=" + re.escape(job.study_instance_uid)))
    expect(visitor.row(job.job_id)).to_be_visible()
    assert [url for url in asked if accession in url] == []
    page.get_by_role("search").get_by_role("textbox").fill(str(job.job_id))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"view=job&id={job.job_id}"))


def test_the_list_is_kept_as_a_file_for_a_spreadsheet(visit, make_job) -> None:
    job = make_job(JobStatus.SUCCEEDED)
    visitor = visit()
    visitor.open(f"view=jobs&study={job.study_instance_uid}")
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="CSV").click()
    head, *rows = download.value.path().read_text().splitlines()
    assert "job_id" in head
    assert len(rows) == 1
    assert str(job.job_id) in rows[0]


def test_who_may_only_look_is_offered_nothing_else(stack, visit, make_job) -> None:
    stack.archives["vna1"].behave(REFUSES_IMAGES)
    job = make_job(JobStatus.FAILED)
    visitor = visit("viewer")
    page = visitor.page
    visitor.open("view=jobs")
    expect(visitor.row(job.job_id)).to_be_visible()
    assert page.get_by_role("checkbox").count() == 0
    assert page.get_by_role("button", name=re.compile("^Actions for job")).count() == 0
    visitor.open(f"view=job&id={job.job_id}")
    expect(page.get_by_role("button", name="Retry")).to_be_disabled()
    answer = page.evaluate(
        """async (id) => (await fetch("/archsync/api/v1/jobs/actions", {method: "POST",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify({action: "retry", job_ids: [id]})})).status""",
        job.job_id,
    )
    assert answer == 403
    visitor.complaints.clear()  # Chromium's console tells of the 403


def test_a_job_is_cancelled_with_the_keyboard_alone(stack, visit, make_job) -> None:
    stack.archives["vna1"].behave(REFUSES_IMAGES)
    job = make_job(JobStatus.FAILED)
    visitor = visit()
    page = visitor.page
    visitor.open(f"view=jobs&study={job.study_instance_uid}")
    menu = page.get_by_role("button", name=f"Actions for job {job.job_id}")

    def choose_cancel() -> None:
        menu.press("Enter")
        expect(page.get_by_role("menu")).to_be_focused()
        page.keyboard.press("c")
        expect(page.get_by_role("menuitem", name="Cancel …")).to_have_attribute("data-highlighted", "")
        page.keyboard.press("Enter")

    choose_cancel()
    why = page.get_by_role("alertdialog").get_by_role("textbox")
    expect(why).to_be_focused()
    page.keyboard.press("Escape")
    expect(why).to_have_count(0)
    expect(menu).to_be_focused()
    choose_cancel()
    page.keyboard.type("sent on a disc")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    row = visitor.row(job.job_id)
    expect(row.get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(row).to_contain_text("sent on a disc")


def test_waiting_jobs_are_moved_to_the_front_and_a_selection_is_cancelled_with_a_reason(stack, visit) -> None:
    def switch(enabled: bool) -> None:
        with stack.ledger() as ledger:
            destinations.change(ledger, None, "vna1", {"enabled": enabled}, actor="test", now=datetime.now(UTC))

    switch(False)
    studies = [stack.platform.add_volume(exam_status=ExamStatus.COMPLETED) for _ in range(3)]
    first, *others = (stack.wait_for_job(study, "vna1", JobStatus.WAITING) for study in studies)
    visitor = visit("user")
    page = visitor.page
    visitor.open("view=jobs&status=waiting")
    visitor.row(first.job_id).get_by_role("button", name=f"Actions for job {first.job_id}").click()
    page.get_by_role("menuitem", name="Move to the front").click()
    expect(page.get_by_text("1 job moved to the front").first).to_be_visible()
    for job in others:
        page.get_by_role("checkbox", name=f"Select job {job.job_id}").check(force=True)
    expect(page.get_by_text("2 jobs selected")).to_be_visible()
    page.get_by_role("button", name="Cancel …", exact=True).click()
    dialog = page.get_by_role("alertdialog")
    expect(dialog.get_by_role("button", name="Cancel 2 jobs")).to_be_disabled()
    dialog.get_by_role("textbox").fill("read elsewhere")
    visitor.picture("selection-cancel")
    assert visitor.barriers("[role='alertdialog']") == []
    dialog.get_by_role("button", name="Cancel 2 jobs").click()
    for job in others:
        expect(visitor.row(job.job_id)).to_have_count(0)
    visitor.open(f"view=job&id={others[0].job_id}")
    expect(page.get_by_test_id("reason")).to_contain_text("read elsewhere")
    visitor.open(f"view=job&id={first.job_id}")
    expect(page.get_by_role("region", name="Facts")).to_contain_text("moved to the front")
    switch(True)
    expect(page.get_by_text("Succeeded", exact=True).first).to_be_visible()
    with stack.ledger() as ledger:
        audited = ledger.fetch_all("select actor, action from audit_event where actor = 'user' order by audit_event_id")
    assert [row["action"] for row in audited] == ["job.front", "job.cancel", "job.cancel"]


def test_while_airflow_cannot_be_reached_the_list_says_so_keeps_what_it_knew_and_goes_on_by_itself(
    visit, make_job
) -> None:
    job = make_job(JobStatus.SUCCEEDED)
    visitor = visit(is_shared=False)
    page = visitor.page
    visitor.open("view=jobs")
    expect(visitor.row(job.job_id)).to_be_visible()
    page.context.set_offline(True)
    expect(page.get_by_text("This list is not up to date")).to_be_visible()
    expect(visitor.row(job.job_id)).to_be_visible()
    visitor.row(job.job_id).get_by_role("link", name=f"Job {job.job_id}").click()
    expect(page.get_by_role("alert")).to_contain_text("Airflow can't be reached")
    visitor.picture("offline")
    page.context.set_offline(False)
    expect(page.get_by_role("heading", name=re.compile(f"^Job {job.job_id} "))).to_be_visible()
    visitor.complaints.clear()  # Chromium's console tells of what it could not load


def test_who_was_logged_out_meanwhile_logs_in_and_is_back_at_the_same_filter(stack, visit, make_job) -> None:
    job = make_job(JobStatus.SUCCEEDED)
    visitor = visit(is_shared=False)
    page = visitor.page
    visitor.open(f"view=jobs&study={job.study_instance_uid}")
    expect(visitor.row(job.job_id)).to_be_visible()
    page.context.clear_cookies()
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(stack.installation.passwords["admin"])
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(f"study={re.escape(job.study_instance_uid)}"))
    expect(visitor.row(job.job_id)).to_be_visible()
    visitor.complaints.clear()  # Chromium's console tells of the 401


@pytest.mark.timeout(3 * LONG_S)
def test_two_hundred_failed_jobs_are_retried_at_once(stack, visit) -> None:
    small = SimulatedPlatform(stack.installation.platform_dsn, stack.folder / "small", seed=7, slices=1, matrix=16)
    stack.archives["vna1"].behave(REFUSES_IMAGES)
    studies = [small.add_volume(exam_status=ExamStatus.COMPLETED) for _ in range(MANY)]

    def are(status: JobStatus) -> bool:
        with stack.ledger() as ledger:
            found = ledger.fetch_one(
                "select count(*) as n from job where study_key = any(%s) and status = %s", [studies, str(status)]
            )
        return found["n"] == MANY

    stack.wait_for(lambda: are(JobStatus.FAILED), LONG_S, lambda: "not all failed")
    stack.archives["vna1"].behave(None)
    visitor = visit()
    page = visitor.page
    visitor.open("view=jobs&status=failed")
    page.get_by_role("checkbox", name="Select all jobs on this page").check(force=True)
    page.get_by_role("button", name=re.compile(r"Take all \d+ that match")).click()
    visitor.picture("bulk-selected")
    page.get_by_role("button", name="Retry", exact=True).click()
    dialog = page.get_by_role("alertdialog")
    number = int(re.search(r"Retry (\d+) jobs\?", dialog.get_by_role("heading").text_content())[1])
    assert number >= MANY
    visitor.picture("bulk-confirmation")
    dialog.get_by_role("button", name=re.compile("^Retry")).click()
    expect(page.get_by_text(f"{number} jobs to be tried again").first).to_be_visible()
    expect(page.get_by_text("No job matches")).to_be_visible()
    visitor.picture("bulk-retried")
    stack.wait_for(lambda: are(JobStatus.SUCCEEDED), LONG_S, lambda: "not all succeeded")


@pytest.mark.parametrize("width", [1280, 768])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_every_page_fits_the_screen_and_has_no_barrier(stack, visit, is_dark, width) -> None:
    with stack.ledger() as ledger:
        last = ledger.fetch_one("select job_id, study_instance_uid from job order by job_id desc limit 1")
    pages = {
        "jobs": "view=jobs",
        "job": f"view=job&id={last['job_id']}",
        "overview": "view=overview",
        "destinations": "view=destinations",
        "destination": "view=destination&name=vna1",
        "gateways": "view=gateways",
        "studies": "view=studies",
        "study": f"view=studies&study={last['study_instance_uid']}",
        "setup": "view=setup",
        "setup-destination": "view=setup&step=2",
    }
    visitor = visit(width=width, is_dark=is_dark)
    page = visitor.page
    faults: list[str] = []
    for name, query in pages.items():
        visitor.open(query)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text(re.compile("^Loading "))).to_have_count(0)
        visitor.picture(f"{name}-{'dark' if is_dark else 'light'}-{width}")
        if (overflow_px := visitor.overflow_px()) > 0:
            faults.append(f"{name}: {overflow_px} px wider than its window")
        lightness = _lightness(page, page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        if not (lightness < 0.4 if is_dark else lightness > 0.8):
            faults.append(f"{name}: its background is {lightness:.0%} white")
        faults += [f"{name}: {barrier}" for barrier in visitor.barriers()]
    assert not faults, "\n".join(faults)


def _lightness(page: Any, colour: str) -> float:
    """From 0, black, to 1, white."""
    red, green, blue = page.evaluate(
        """(colour) => {
            const context = document.createElement("canvas").getContext("2d");
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }""",
        colour,
    )
    return (red + green + blue) / (3 * 255)


def test_the_dashboard_has_a_tile_that_leads_to_the_jobs(stack, visit) -> None:
    visitor = visit()
    visitor.page.goto(f"{stack.installation.url}/")
    tile = visitor.page.get_by_role("region", name="Archive Sync")
    expect(tile.get_by_role("link", name=re.compile("to do"))).to_be_visible()
    visitor.picture("dashboard")
    assert visitor.barriers("section[aria-label='Archive Sync']") == []
    tile.get_by_role("link", name="Archive Sync").click()
    expect(visitor.page).to_have_url(re.compile("/plugin/archsync"))
