"""What the ledger tests share: a ledger, a destination, studies to make jobs for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from archsync.core.destination import Destination
from archsync.core.job import JobType
from archsync.core.planning import Work
from archsync.core.study import Facility, Instance, Patient, Priority, Study
from archsync.ledger import destinations, planned_jobs
from archsync.ledger.database import Ledger

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(ledger_dsn: str) -> Iterator[Ledger]:
    with Ledger(ledger_dsn) as ledger:
        yield ledger


@pytest.fixture
def sql(ledger_dsn: str) -> Iterator[Callable[..., list[tuple]]]:
    """Runs SQL on a connection of its own: what the tests see, the code under test did not hide."""
    with psycopg.connect(ledger_dsn, autocommit=True) as connection:

        def run(query: str, *parameters) -> list[tuple]:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def destination(add_destination: Callable[..., Destination]) -> Destination:
    return add_destination("vna")


@pytest.fixture
def add_destination(ledger: Ledger) -> Callable[..., Destination]:
    """Makes a destination by name; keyword arguments are its settings."""

    def add(name: str, **values) -> Destination:
        return destinations.insert(
            ledger, Destination(name=name, called_ae_title="VNA", host="vna.example", port=104, **values)
        )

    return add


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    """Makes a study with instances in some series; nothing is written."""
    return _make_study


def _make_study(study_key: str = "s1", *, instances: int = 2, patient_key: str = "p1", series: int = 1) -> Study:
    return Study(
        study_key=study_key,
        study_instance_uid=f"1.2.{study_key.strip('s')}",
        patient=Patient(patient_key, f"MRN-{patient_key}", "CITYMRN", "Doe^Jane"),
        facility=Facility("CITY", "City Hospital", "metro"),
        exam_status="Completed",
        instances=tuple(
            Instance(
                instance_key=f"{study_key}/{n}",
                study_key=study_key,
                series_instance_uid=f"1.2.{study_key.strip('s')}.{n % series}",
                series_number=n % series,
                modality="CT",
                sop_instance_uid=f"1.2.{study_key.strip('s')}.{n % series}.{n}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                instance_number=n,
                location=f"file:///images/{n}.dcm",
                size_bytes=1000,
            )
            for n in range(instances)
        ),
    )


@pytest.fixture(scope="session")
def make_work() -> Callable[..., Work]:
    """Makes what a job for a study would say; due long ago unless keyword arguments say otherwise."""
    return _make_work


def _make_work(study: Study, **values) -> Work:
    work = Work(Priority.ROUTINE, study.content_digest(), study.present_instances, LONG_AGO, None)
    return replace(work, **values)


@pytest.fixture
def add_job(ledger: Ledger, destination: Destination) -> Callable[..., int]:
    """Makes a due job for a study and gives its number."""

    def add(
        study: Study | None = None, *, job_type: JobType = JobType.ARCHIVE, requested_by: str | None = None, **work
    ) -> int:
        study = study or _make_study()
        job_id = planned_jobs.insert_store(
            ledger, job_type, destination.destination_id, study, _make_work(study, **work), requested_by=requested_by
        )
        assert job_id is not None
        return job_id

    return add
