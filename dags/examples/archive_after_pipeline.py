"""Example: when my pipeline is done with a study, archive it there and wait.

Start it with the study's UID and a destination of yours::

    airflow dags trigger example_archive_after_pipeline --conf '{"study_instance_uid": "1.2.3", "destination": "vna1"}'
"""

from datetime import timedelta

from airflow.sdk import DAG, Param, task

from archsync.operators.archive_study import ArchiveStudyOperator
from archsync.sensors.study_status import StudyStatusSensor

with DAG(
    "example_archive_after_pipeline",
    description="Wait for an exam, do something with it, then archive it and wait until the archive holds it.",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    tags={"archsync", "example"},
    doc_md=__doc__,
    params={
        "study_instance_uid": Param("", type="string", description="Study Instance UID on the platform."),
        "destination": Param("vna1", type="string", description="Name of an archsync destination."),
    },
) as dag:
    exam_is_done = StudyStatusSensor(
        task_id="exam_is_done",
        study_instance_uid="{{ params.study_instance_uid }}",
        status="Completed",
        mode="reschedule",
        poke_interval=timedelta(seconds=10),
        timeout=timedelta(hours=12),
    )

    @task
    def process() -> None:
        """Your own work on the study."""

    archive = ArchiveStudyOperator(
        task_id="archive",
        study_instance_uid="{{ params.study_instance_uid }}",
        destination="{{ params.destination }}",
    )

    exam_is_done >> process() >> archive
