"""Finding jobs and studies by what somebody typed: a job's number, a Study Instance UID, an accession number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from archsync.errors import StoreUnavailable
from archsync.ledger import job_pages, jobs
from archsync.ledger.database import Ledger
from archsync.ledger.job_pages import JobFilter
from archsync.platformdb.reader import Platform

#: At most this many studies are named.
LIMIT = 20
_UID = re.compile(r"(?=.{3,64}$)[0-2](\.(0|[1-9][0-9]*))+")
_JOB = re.compile(r"#?([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class FoundStudy:
    """A study that was meant. ``is_by_accession``: its accession number was typed."""

    study_instance_uid: str
    is_by_accession: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What was found. Not ``is_complete``: the platform could not be asked for accession numbers."""

    jobs: tuple[int, ...]
    studies: tuple[FoundStudy, ...]
    is_complete: bool = True


def search(ledger: Ledger, platform: Platform, text: str) -> Found:
    """Find what ``text`` may name. The answer has UIDs and numbers alone: it repeats no accession number."""
    text = text.strip()
    job = _JOB.fullmatch(text)
    found_jobs = tuple(i.job.job_id for i in jobs.listed(ledger, [int(job[1])])) if job else ()
    studies: dict[str, FoundStudy] = {}
    if _UID.fullmatch(text) and job_pages.find(ledger, JobFilter(study_instance_uid=text, limit=1)):
        studies[text] = FoundStudy(text, is_by_accession=False)
    is_complete = True
    if text:
        try:
            _add_from_platform(platform, text, studies)
        except StoreUnavailable:
            is_complete = False
    return Found(found_jobs, tuple(studies.values())[:LIMIT], is_complete)


def _add_from_platform(platform: Platform, text: str, studies: dict[str, FoundStudy]) -> None:
    by_accession = platform.find_study_keys(accession_number=text)
    keys = dict.fromkeys([*platform.find_study_keys(study_instance_uid=text), *by_accession])
    batch = platform.fetch_studies(list(keys)[:LIMIT])
    for study in batch.studies:
        uid = study.study_instance_uid
        studies.setdefault(uid, FoundStudy(uid, is_by_accession=study.study_key in by_accession))
