"""The operator that withdraws and the sensor that notices, without a running Airflow, on a real archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from archsync.core.destination import Destination, Verification
from archsync.core.job import JobStatus
from archsync.core.profiles import ArchiveProfile
from archsync.core.study import ExamStatus, RemovalReason
from archsync.hooks.platform import PlatformHook
from archsync.ledger import destinations, jobs
from archsync.ledger.database import Ledger
from archsync.operators.archive_study import ArchiveStudyOperator
from archsync.operators.send_rejection_note import SendRejectionNoteOperator
from archsync.sensors.post_archive_change import PostArchiveChangeSensor
from archsync.simulate.archive import IocmRules, SimulatedArchive
from archsync.simulate.platform import SimulatedPlatform


@dataclass
class FakeTaskInstance:
    """What an operator reads of its task instance."""

    dag_id: str = "my_dag"
    run_id: str = "manual__1"
    try_number: int = 1


@dataclass
class Archived:
    """A study that an archive which honours rejection notes has got."""

    platform: SimulatedPlatform
    archive: SimulatedArchive
    ledger_dsn: str
    study_key: str
    uid: str

    def archive_again(self) -> int | None:
        operator = ArchiveStudyOperator(task_id="archive", destination="vna1", study_instance_uid=self.uid)
        return operator.execute({"ti": FakeTaskInstance()})

    def withdraw(self, **arguments: object) -> int | None:
        wanted = {"destination": "vna1", "study_instance_uid": self.uid, **arguments}
        operator = SendRejectionNoteOperator(task_id="withdraw", **wanted)
        return operator.execute({"ti": FakeTaskInstance()})

    def differs(self, **arguments: object) -> object:
        """What the sensor returns; False while it waits."""
        wanted = {"study_instance_uid": self.uid, **arguments}
        found = PostArchiveChangeSensor(task_id="watch", **wanted).poke({})
        if not found:
            return False
        return found.xcom_value


@pytest.fixture
def archived(
    ledger_dsn: str, platform_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, airflow_db
) -> Iterator[Archived]:
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", ledger_dsn.replace("postgresql://", "postgres://"))
    platform_uri = platform_dsn.replace("postgresql://", "postgres://") + "?schema=archsync_platform"
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", platform_uri)
    platform = SimulatedPlatform(platform_dsn, tmp_path / "platform", slices=3, matrix=16)
    platform.install()
    with SimulatedArchive(tmp_path / "archive", port=0, ae_title="VNA1", iocm=IocmRules()) as archive:
        host, port = archive.address
        with Ledger(ledger_dsn) as ledger:
            destinations.insert(
                ledger,
                Destination(
                    name="vna1",
                    called_ae_title="VNA1",
                    host=host,
                    port=port,
                    profile=ArchiveProfile.DCM4CHEE,
                    verification=Verification.C_FIND,
                    breaker_threshold=1,
                    settle_s=3600.0,
                    settle_max_s=3600.0,
                ),
            )
        study_key = platform.add_volume(exam_status=ExamStatus.COMPLETED)
        with PlatformHook().get_platform() as reader:
            uid = reader.fetch_studies([study_key]).studies[0].study_instance_uid
        made = Archived(platform, archive, ledger_dsn, study_key, uid)
        assert made.archive_again() is not None
        yield made


def test_the_operator_withdraws_at_once_and_twice_sends_nothing_new(archived: Archived) -> None:
    archived.platform.remove_instances(archived.study_key, 2, reason=RemovalReason.QUALITY)

    job_id = archived.withdraw()

    assert job_id is not None
    assert len(archived.archive.rejected) == 2
    sent = len(archived.archive.requests)
    assert archived.withdraw() is None
    assert len(archived.archive.requests) == sent
    with Ledger(archived.ledger_dsn) as ledger:
        job = jobs.get(ledger, job_id)
    assert (job.status, job.requested_by) == (JobStatus.SUCCEEDED, "my_dag/manual__1")


def test_a_study_that_left_the_platform_is_withdrawn_by_the_uid_the_archive_has(archived: Archived) -> None:
    shown = set(archived.archive.shown())
    archived.platform.remove_study(archived.study_key, hard=True)

    assert archived.withdraw() is not None
    assert set(archived.archive.rejected) == shown


def test_the_operator_waits_for_replacements_without_holding_a_slot(archived: Archived) -> None:
    target = archived.platform.split_study(archived.study_key, instances=1)
    with pytest.raises(AirflowRescheduleException):
        archived.withdraw()
    assert archived.archive.rejected == {}

    with PlatformHook().get_platform() as reader:
        target_uid = reader.fetch_studies([target]).studies[0].study_instance_uid
    ArchiveStudyOperator(task_id="archive", destination="vna1", study_instance_uid=target_uid).execute(
        {"ti": FakeTaskInstance()}
    )
    assert archived.withdraw() is not None
    assert len(archived.archive.rejected) == 1


def test_the_operator_frees_its_slot_while_the_destination_is_down(archived: Archived) -> None:
    archived.platform.remove_instances(archived.study_key, 1)
    archived.archive.stop()
    with pytest.raises(AirflowRescheduleException):
        archived.withdraw()


def test_the_operator_fails_for_a_study_nobody_knows_and_without_arguments(archived: Archived) -> None:
    with pytest.raises(AirflowFailException, match=r"has a study 1\.2\.3"):
        archived.withdraw(study_instance_uid="1.2.3")
    with pytest.raises(AirflowFailException, match="needs job_id, or destination and study_instance_uid"):
        archived.withdraw(destination=None)
    with pytest.raises(AirflowFailException, match="is not a job number"):
        archived.withdraw(job_id="None")


def test_the_sensor_tells_kinds_and_counts_of_what_differs(archived: Archived) -> None:
    assert archived.differs() is False
    archived.platform.remove_instances(archived.study_key, 2)
    assert archived.differs() == {"vna1": {"to_withdraw": 2}}
    archived.platform.add_late_series(archived.study_key, slices=1)
    assert archived.differs(destination="vna1") == {"vna1": {"to_withdraw": 2, "missing": 1}}

    archived.archive_again()
    archived.withdraw()
    assert archived.differs() is False


def test_the_sensor_waits_for_a_study_nobody_knows_and_refuses_an_unknown_destination(archived: Archived) -> None:
    assert archived.differs(study_instance_uid="1.2.3") is False
    with pytest.raises(AirflowFailException, match="nowhere"):
        archived.differs(destination="nowhere")
