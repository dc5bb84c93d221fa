"""The pages in Debian's Chromium, on a running Airflow with jobs of its own.

Screenshots go to the folder that the environment variable SCREENSHOTS names, else to a temporary one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from running_stack import Stack, stack  # noqa: F401  (a fixture)

CHROMIUM = shutil.which("chromium")
#: A machine that does other things, too, is no failure.
PATIENCE_MS = 30_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this tier time: each drives real jobs."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody at a browser, and what their browser complained about."""

    page: Any
    url: str
    screenshots: Path
    complaints: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> None:
        """Open Archive Sync, at the view that the query names."""
        self.page.goto(f"{self.url}/plugin/archsync{'?' + query if query else ''}")

    def log_in(self, user: str, password: str) -> None:
        """Log in at Airflow's own page."""
        self.page.goto(f"{self.url}/")
        self.page.get_by_label("Username").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_test_id("nav-home-link").wait_for()

    def picture(self, name: str) -> None:
        """Take a screenshot."""
        self.page.screenshot(path=self.screenshots / f"{name}.png", animations="disabled")

    def row(self, job_id: int) -> Any:
        """The row of a job in the list."""
        return self.page.locator(f"tr[data-job='{job_id}']")

    def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def barriers(self, within: str = "#archsync") -> list[str]:
        """What axe-core finds on our part of the page that keeps people from using it (WCAG 2.1, A and AA)."""
        from axe_playwright_python.sync_playwright import Axe

        rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
        found = Axe().run(self.page, context=within, options=rules).response["violations"]
        return [f"{v['id']} at {node['target'][0]}: {node['failureSummary']}" for v in found for node in v["nodes"]]


Visit = Callable[..., Visitor]


@pytest.fixture(scope="module")
def windows(stack: Stack, chromium: Any) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """A browser for each user, size and theme, logged in. Tests share it: to load all of Airflow anew takes seconds."""
    kept: dict[Any, Any] = {}
    logins: dict[str, Any] = {}

    def new(user: str | None, width: int, height: int, is_dark: bool) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if is_dark else "light",
            storage_state=logins.get(user) if user else None,
        )
        context.set_default_timeout(PATIENCE_MS)
        if user and user not in logins:
            page = context.new_page()
            Visitor(page, stack.installation.url, Path()).log_in(user, stack.installation.passwords[user])
            page.close()
            logins[user] = context.storage_state()
        return context

    def of(user: str | None, width: int, height: int, is_dark: bool, is_shared: bool) -> Any:
        key = (user, width, height, is_dark) if is_shared else object()
        if key not in kept:
            kept[key] = new(user, width, height, is_dark)
        return kept[key]

    yield of
    for context in kept.values():
        context.close()


@pytest.fixture
def visit(windows: Callable[..., Any], stack: Stack, screenshots: Path) -> Iterator[Visit]:  # noqa: F811
    """Opens a browser window for a user, logged in; at the end no window may have complained in its console.

    ``is_shared`` False: in a browser of its own, for what would disturb others, such as logging out.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    visitors: list[Visitor] = []

    def start(
        user: str | None = "admin",
        *,
        width: int = 1280,
        height: int = 900,
        is_dark: bool = False,
        is_shared: bool = True,
    ) -> Visitor:
        page = windows(user, width, height, is_dark, is_shared and user is not None).new_page()
        visitor = Visitor(page, stack.installation.url, screenshots)
        page.on("console", lambda m: m.type == "error" and visitor.complaints.append(m.text))
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        visitors.append(visitor)
        return visitor

    yield start
    complaints = [complaint for visitor in visitors for complaint in visitor.complaints]
    for visitor in visitors:
        visitor.page.close()
    assert complaints == []
