"""Operators, sensor, hooks and retry policy without a running Airflow, on real databases and a real archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from archsync.core.destination import Destination, Verification
from archsync.core.job import JobStatus
from archsync.core.profiles import ArchiveProfile
from archsync.core.study import ExamStatus
from archsync.errors import ConfigurationError, LedgerUnavailable, PeerRefused
from archsync.hooks.dicom import DicomHook
from archsync.hooks.mllp import MllpHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger import destinations
from archsync.ledger.database import Ledger
from archsync.operators._engine import DestinationRetryPolicy
from archsync.operators._outcome import JobWillRetry, raise_for
from archsync.operators.archive_study import ArchiveStudyOperator
from archsync.sensors.study_status import StudyStatusSensor
from archsync.services.attempt import Ended
from archsync.simulate.archive import SimulatedArchive
from archsync.simulate.platform import SimulatedPlatform


@dataclass
class FakeTaskInstance:
    """What an operator reads of its task instance."""

    dag_id: str = "my_dag"
    run_id: str = "manual__1"
    try_number: int = 1


@dataclass
class Site:
    """A platform, a ledger and an archive, named by Airflow connections."""

    platform: SimulatedPlatform
    archive: SimulatedArchive
    ledger_dsn: str

    def uid_of(self, study_key: str) -> str:
        with PlatformHook().get_platform() as platform:
            return platform.fetch_studies([study_key]).studies[0].study_instance_uid


@pytest.fixture
def site(
    ledger_dsn: str, platform_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, airflow_db
) -> Iterator[Site]:
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", ledger_dsn.replace("postgresql://", "postgres://"))
    platform_uri = platform_dsn.replace("postgresql://", "postgres://") + "?schema=archsync_platform"
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", platform_uri)
    platform = SimulatedPlatform(platform_dsn, tmp_path / "platform", slices=2, matrix=16)
    platform.install()
    with SimulatedArchive(tmp_path / "archive", port=0, ae_title="VNA1") as archive:
        host, port = archive.address
        with Ledger(ledger_dsn) as ledger:
            destinations.insert(
                ledger,
                Destination(
                    name="vna1",
                    called_ae_title="VNA1",
                    host=host,
                    port=port,
                    breaker_threshold=1,
                    verification=Verification.C_FIND,
                ),
            )
        monkeypatch.setenv("AIRFLOW_CONN_VNA", f"dicom://{host}:{port}/?called_ae_title=VNA1&calling_ae_title=ARCHSYNC")
        yield Site(platform, archive, ledger_dsn)


def archive_operator(site: Site, study: str, **kwargs) -> ArchiveStudyOperator:
    return ArchiveStudyOperator(task_id="archive", destination="vna1", study_instance_uid=site.uid_of(study), **kwargs)


def test_the_operator_archives_a_pending_study_at_once_and_twice_sends_nothing_new(site: Site) -> None:
    study = site.platform.add_volume(exam_status=ExamStatus.PENDING)
    operator = archive_operator(site, study)
    job_id = operator.execute({"ti": FakeTaskInstance()})
    assert job_id is not None
    stored = len(site.archive.stored)
    assert stored >= 2
    assert operator.execute({"ti": FakeTaskInstance(run_id="manual__2")}) is None
    assert len(site.archive.requests) == stored


def test_the_operator_frees_its_slot_while_the_destination_is_down(site: Site) -> None:
    study = site.platform.add_volume()
    site.archive.stop()
    with pytest.raises(AirflowRescheduleException):
        archive_operator(site, study).execute({"ti": FakeTaskInstance()})


def test_the_operator_fails_for_a_study_the_platform_does_not_have(site: Site) -> None:
    operator = ArchiveStudyOperator(task_id="archive", destination="vna1", study_instance_uid="1.2.3")
    with pytest.raises(AirflowFailException, match=r"no study with Study Instance UID 1\.2\.3"):
        operator.execute({"ti": FakeTaskInstance()})


def test_the_operator_names_the_known_destinations_for_an_unknown_one(site: Site) -> None:
    study = site.platform.add_volume()
    operator = ArchiveStudyOperator(task_id="archive", destination="vna9", study_instance_uid=site.uid_of(study))
    with pytest.raises(AirflowFailException, match=r"no destination 'vna9'.*vna1"):
        operator.execute({"ti": FakeTaskInstance()})


def test_a_run_started_by_hand_without_a_job_says_what_to_do(site: Site) -> None:
    with pytest.raises(AirflowFailException, match="not a job number"):
        ArchiveStudyOperator(task_id="archive", job_id="None").execute({"ti": FakeTaskInstance()})


def test_the_sensor_waits_for_the_status_and_takes_a_later_one(site: Site) -> None:
    study = site.platform.add_volume(exam_status=ExamStatus.PENDING)
    sensor = StudyStatusSensor(task_id="wait", study_instance_uid=site.uid_of(study), status="inflight")
    assert not sensor.poke({})
    site.platform.set_status(study, ExamStatus.COMPLETED)
    seen = sensor.poke({})
    assert seen
    assert seen.xcom_value == site.uid_of(study)


def test_the_sensor_waits_for_a_study_that_is_not_there_yet(site: Site) -> None:
    assert not StudyStatusSensor(task_id="wait", accession_number="none such").poke({})


def test_the_sensor_refuses_a_status_that_does_not_exist(site: Site) -> None:
    with pytest.raises(AirflowFailException, match="must be one of Pending, Inflight, Completed"):
        StudyStatusSensor(task_id="wait", study_instance_uid="1.2", status="Done").poke({})


def test_the_dicom_hook_echoes_and_says_why_it_cannot(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DicomHook("vna").test_connection() == (True, "The peer answered C-ECHO.")
    monkeypatch.setenv("AIRFLOW_CONN_LONG", "dicom://localhost:104/?called_ae_title=SEVENTEEN_LETTERS")
    worked, why = DicomHook("long").test_connection()
    assert not worked
    assert "at most 16 characters" in why
    assert DicomHook("none_such").test_connection()[0] is False


def test_the_dicom_hook_reads_statuses_by_the_profile_of_its_connection(
    monkeypatch: pytest.MonkeyPatch, airflow_db
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ARC", "dicom://localhost:104/?called_ae_title=A&profile=orthanc")
    assert DicomHook("arc").get_conn().profile is ArchiveProfile.ORTHANC
    monkeypatch.setenv("AIRFLOW_CONN_ARC", "dicom://localhost:104/?called_ae_title=A&profile=other")
    with pytest.raises(ConfigurationError, match="profile: must be one of generic, dcm4chee, orthanc"):
        DicomHook("arc").get_conn()


def test_the_mllp_hook_says_when_nobody_listens(monkeypatch: pytest.MonkeyPatch, airflow_db) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HL7", "mllp://127.0.0.1:1")
    worked, why = MllpHook("hl7").test_connection()
    assert not worked
    assert "127.0.0.1:1" in why


@pytest.mark.parametrize(
    ("ended", "raised"),
    [
        (Ended(1, JobStatus.FAILED, "refused"), AirflowFailException),
        (Ended(1, JobStatus.RETRYING, "busy", retry_delay_s=3.0), JobWillRetry),
        (Ended(1, JobStatus.WAITING, "down"), AirflowSkipException),
        (Ended(1, JobStatus.CANCELLED, "by admin"), AirflowSkipException),
        (Ended(1, JobStatus.RUNNING, "another run has it", did_run=False), AirflowSkipException),
    ],
)
def test_each_outcome_becomes_what_airflow_shows(ended: Ended, raised: type[Exception]) -> None:
    with pytest.raises(raised, match="Job 1"):
        raise_for(ended)


def test_a_job_that_succeeded_raises_nothing() -> None:
    raise_for(Ended(1, JobStatus.SUCCEEDED, "done"))


def test_the_retry_policy_carries_out_the_decision_and_nothing_else() -> None:
    policy = DestinationRetryPolicy()
    decision = policy.evaluate(JobWillRetry("Job 1: busy", 7.5), 1, 100)
    assert (decision.action, decision.retry_delay.total_seconds()) == (RetryAction.RETRY, 7.5)
    assert policy.evaluate(LedgerUnavailable("away"), 1, 100).action is RetryAction.RETRY
    assert policy.evaluate(PeerRefused("no"), 1, 100).action is RetryAction.FAIL
    assert policy.evaluate(KeyError("x"), 1, 100).action is RetryAction.FAIL
    assert isinstance(DestinationRetryPolicy.deserialize(policy.serialize()), DestinationRetryPolicy)
