"""What the platform tests share: a reader, a DBA's connection, and a few rows to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from archsync.platformdb.reader import Platform


@pytest.fixture
def dba(platform_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """The site's own connection, every statement committed at once."""
    with psycopg.connect(platform_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def platform(platform_dsn: str) -> Iterator[Platform]:
    """A reader of the reference schema."""
    with Platform.from_dsn(platform_dsn) as reader:
        yield reader


@pytest.fixture
def add_studies(dba: psycopg.Connection[Any]) -> Callable[..., None]:
    """Adds studies 1 to n of one patient each, every one with some instances; the files are not there."""

    def add(studies: int, instances: int = 2) -> None:
        dba.execute(
            "insert into pacs.facility values ('CITY', 'City Hospital', 'metro', 'CITYMRN', '1.2.3', 'ISO', 'CITY')"
        )
        dba.execute(
            "insert into pacs.patient (patient_id, issuer_of_patient_id, name, birth_date, sex)"
            " select 'P' || n, 'CITYMRN', 'Doe^Jane', '1970-01-01', 'F' from generate_series(1, %s) n",
            [studies],
        )
        dba.execute(
            "insert into pacs.study (study_instance_uid, patient_key, facility_id, accession_number, study_date,"
            " study_time, description, referring_physician, study_id)"
            " select '1.2.' || n, n, 'CITY', 'A' || n, '2026-01-02', '13:04:05.5', 'Chest', 'Who^Doctor', 'S' || n"
            " from generate_series(1, %s) n order by n",
            [studies],
        )
        dba.execute(
            "insert into pacs.instance (study_key, series_instance_uid, series_number, modality, sop_instance_uid,"
            " sop_class_uid, transfer_syntax_uid, instance_number, location, size_bytes)"
            " select s, '1.2.' || s || '.1', 1, 'CT', '1.2.' || s || '.1.' || i, '1.2.840.10008.5.1.4.1.1.2',"
            " '1.2.840.10008.1.2.1', i, 'file:///images/' || s || '/' || i || '.dcm', 1000 + i"
            " from generate_series(1, %s) s, generate_series(1, %s) i order by s, i",
            [studies, instances],
        )

    return add
