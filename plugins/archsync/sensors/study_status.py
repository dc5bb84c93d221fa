"""Waits until an exam reaches a status on the platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException

from archsync.core.study import ExamStatus, has_reached
from archsync.errors import StoreUnavailable
from archsync.hooks.platform import PlatformHook


class StudyStatusSensor(BaseSensorOperator):
    """Succeeds once the exam of a study has reached ``status``; returns the Study Instance UID.

    Name the study by Study Instance UID or by accession number. Statuses are ordered Pending, Inflight, Completed: a
    later one satisfies an earlier. A study that the platform does not have yet is waited for; use
    ``mode="reschedule"`` to free the worker slot between looks, and ``timeout`` to end the wait.

    Args:
        status: the status to reach (templated).
        study_instance_uid: the study (templated).
        accession_number: or its accession number (templated).
        platform_conn_id: connection of the platform.
    """

    template_fields: Sequence[str] = ("status", "study_instance_uid", "accession_number")
    ui_color = "#e3f1dd"

    def __init__(
        self,
        *,
        status: str = ExamStatus.COMPLETED.value,
        study_instance_uid: str | None = None,
        accession_number: str | None = None,
        platform_conn_id: str = PlatformHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.status = status
        self.study_instance_uid = study_instance_uid
        self.accession_number = accession_number
        self.platform_conn_id = platform_conn_id

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once. A platform that does not answer is waited for as well."""
        wanted = self._wanted_status()
        given = {"study_instance_uid": self.study_instance_uid, "accession_number": self.accession_number}
        given = {name: value for name, value in given.items() if value}
        if len(given) != 1:
            raise AirflowFailException("StudyStatusSensor needs study_instance_uid or accession_number, one of them")
        with PlatformHook(self.platform_conn_id).get_platform() as platform:
            try:
                keys = platform.find_study_keys(**given)
                batch = platform.fetch_studies(keys[:2])
            except StoreUnavailable as exc:
                self.log.warning("%s; looking again", exc.message)
                return False
        for error in batch.rejected.values():
            raise AirflowFailException(f"The platform describes the study in a way that can't be used: {error.message}")
        if len(keys) > 1:
            raise AirflowFailException("Several studies match; name the Study Instance UID")
        if not batch.studies:
            self.log.info("The platform has no such study yet.")
            return False
        study = batch.studies[0]
        self.log.info("The exam is %s.", study.exam_status)
        return PokeReturnValue(has_reached(study.exam_status, wanted), study.study_instance_uid)

    def _wanted_status(self) -> ExamStatus:
        for status in ExamStatus:
            if status.value.casefold() == self.status.casefold():
                return status
        known = ", ".join(s.value for s in ExamStatus)
        raise AirflowFailException(f"status: must be one of {known} (got {self.status!r})")
