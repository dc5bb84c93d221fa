"""SendAdtOperator without a running Airflow, on real databases, a real archive and a real HL7 receiver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from archsync.core.destination import Destination
from archsync.core.job import JobStatus, JobType
from archsync.core.study import ExamStatus
from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.ledger import destinations, jobs
from archsync.ledger.database import Ledger
from archsync.ledger.jobs import JobFilter
from archsync.operators.archive_study import ArchiveStudyOperator
from archsync.operators.send_adt import SendAdtOperator
from archsync.services import planner
from archsync.simulate.adt_receiver import AdtScript, Reply, SimulatedAdtReceiver
from archsync.simulate.archive import SimulatedArchive
from archsync.simulate.platform import SimulatedPlatform


@dataclass
class FakeTaskInstance:
    """What an operator reads of its task instance."""

    dag_id: str = "my_dag"
    run_id: str = "manual__1"
    try_number: int = 1


CONTEXT = {"ti": FakeTaskInstance()}


@dataclass
class Site:
    """An archived study whose patient changes, and the receiver that is told."""

    platform: SimulatedPlatform
    receiver: SimulatedAdtReceiver
    study_instance_uid: str
    patient_key: str
    patient_id: str

    def operator(self, **who: str) -> SendAdtOperator:
        return SendAdtOperator(
            task_id="tell", **(who or {"study_instance_uid": self.study_instance_uid}), destination="vna1"
        )

    def change(self) -> None:
        self.platform.correct_name(self.patient_key, "Corrected^Name")
        self.platform.change_mrn(self.patient_key, "CORRECTED")


@pytest.fixture
def site(
    ledger_dsn: str, platform_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, airflow_db
) -> Iterator[Site]:
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", ledger_dsn.replace("postgresql://", "postgres://"))
    platform_uri = platform_dsn.replace("postgresql://", "postgres://") + "?schema=archsync_platform"
    monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", platform_uri)
    platform = SimulatedPlatform(platform_dsn, tmp_path / "platform", slices=2, matrix=16)
    platform.install()
    with (
        SimulatedArchive(tmp_path / "archive", port=0, ae_title="VNA1") as archive,
        archive.make_adt_receiver() as receiver,
        Ledger(ledger_dsn) as ledger,
    ):
        host, port = archive.address
        destinations.insert(
            ledger,
            Destination(
                name="vna1",
                called_ae_title="VNA1",
                host=host,
                port=port,
                adt_host=host,
                adt_port=receiver.address[1],
                adt_receiving_application="VNA",
            ),
        )
        study_key = platform.add_volume(exam_status=ExamStatus.COMPLETED)
        with PlatformHook().get_platform() as reader:
            study = reader.fetch_studies([study_key]).studies[0]
        archive_it = ArchiveStudyOperator(
            task_id="archive", destination="vna1", study_instance_uid=study.study_instance_uid
        )
        archive_it.execute(CONTEXT)
        yield Site(platform, receiver, study.study_instance_uid, study.patient.patient_key, study.patient.patient_id)


def adt_jobs() -> list[tuple[int, JobStatus]]:
    with LedgerHook().get_conn() as ledger:
        found = jobs.listing(ledger, JobFilter(job_types=[JobType.ADT]))
    return sorted((item.job.job_id, item.job.status) for item in found)


def test_the_operator_tells_all_differences_in_order_and_a_second_time_nothing(site: Site) -> None:
    site.change()
    last = site.operator().execute(CONTEXT)
    assert [message.trigger for message in site.receiver.received] == ["A40", "A08"]
    assert [status for _, status in adt_jobs()] == [JobStatus.SUCCEEDED] * 2
    assert last == adt_jobs()[-1][0]
    assert site.operator().execute(CONTEXT) is None
    assert len(site.receiver.received) == 2


def test_the_operator_frees_its_slot_while_the_receiver_is_busy(site: Site) -> None:
    site.change()
    site.receiver.behave(AdtScript(replies=(Reply(ack_code="AR", error_code="206"),)))
    with pytest.raises(AirflowRescheduleException):
        site.operator().execute(CONTEXT)
    assert site.operator().execute(CONTEXT) == adt_jobs()[-1][0]


def test_the_operator_fails_when_the_receiver_refuses_and_starts_afresh_when_cleared(site: Site) -> None:
    site.change()
    site.receiver.behave(AdtScript(replies=(Reply(ack_code="AE", error_code="102"),)))
    with pytest.raises(AirflowFailException, match="failed"):
        site.operator().execute(CONTEXT)
    assert site.operator().execute(CONTEXT) is not None


def test_the_operator_runs_a_job_that_was_handed_out_and_leaves_one_that_is_done_alone(site: Site) -> None:
    site.platform.correct_name(site.patient_key, "Corrected^Name")
    with LedgerHook().get_conn() as ledger, PlatformHook().get_platform() as platform:
        planner.observe(platform, ledger)
        planner.plan_queued(platform, ledger, now=datetime.now(UTC))
    ((job_id, _),) = adt_jobs()
    handed_out = SendAdtOperator(task_id="send_adt", job_id=str(job_id))
    assert handed_out.execute(CONTEXT) == job_id
    assert handed_out.execute(CONTEXT) == job_id
    assert [message.trigger for message in site.receiver.received] == ["A08"]


def test_the_operator_says_which_study_it_does_not_find(site: Site) -> None:
    with pytest.raises(AirflowFailException, match="no study with Study Instance UID"):
        site.operator(study_instance_uid="1.2.3").execute(CONTEXT)


def test_no_patient_data_is_ever_rendered(site: Site) -> None:
    assert set(site.operator().template_fields) == {"job_id", "destination", "study_instance_uid"}


def test_a_run_started_by_hand_without_a_job_says_what_to_do(site: Site) -> None:
    with pytest.raises(AirflowFailException, match="not a job number"):
        SendAdtOperator(task_id="send_adt", job_id="").execute(CONTEXT)
