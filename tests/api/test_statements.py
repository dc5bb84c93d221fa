"""What a page asks of the databases does not grow with what it shows: no query for each row of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from archsync.ledger import destinations
from archsync.ledger.destinations import Gateway

API = "/archsync/api/v1"
PAGES = (
    "jobs",
    "jobs?status=waiting&status=failed",
    "jobs/counts",
    "jobs/{job}",
    "destinations",
    "gateways",
    "holds",
    "filters",
    "overview",
)


@pytest.fixture
def statements(monkeypatch) -> list[str]:
    """Every statement that this process sends from now on."""
    sent: list[str] = []
    execute = psycopg.Connection.execute

    def noted(self, query, *args, **kwargs):
        sent.append(str(query))
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "execute", noted)
    return sent


@pytest.fixture
def grow(ledger, add_destination, add_job) -> Callable[[int], int]:
    """Makes so many gateways and destinations more, with jobs of each status at each; gives the number of a job."""
    names: Iterator[int] = iter(range(1000))

    def more(number: int) -> int:
        for _ in range(number):
            name = f"vna{next(names)}"
            destinations.insert_gateway(ledger, Gateway(name=f"at_{name}", facility_group="region", queue=name))
            add_destination(name, gateway=f"at_{name}")
            parent = add_job(name, job_type="iocm")
            for status in ("waiting", "retrying", "failed", "succeeded"):
                last = add_job(name, status=status, job_type="dicom", parent_job_id=parent)
        return last

    return more


def test_a_page_asks_as_much_for_many_rows_as_for_few(admin, pacs, statements, grow) -> None:
    def asked(job: int) -> dict[str, int]:
        counted = {}
        for page in PAGES:
            address = f"{API}/{page.format(job=job)}"
            assert admin.get(address).status_code == 200  # what is remembered between requests, is now
            before = len(statements)
            assert admin.get(address).status_code == 200
            counted[page] = len(statements) - before
        return counted

    few = asked(grow(2))
    assert all(few.values())
    assert asked(grow(12)) == few
