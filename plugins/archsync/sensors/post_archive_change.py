"""Waits until an archive no longer holds a study as the platform has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException

from archsync.errors import ArchsyncError, StoreUnavailable
from archsync.hooks.ledger import LedgerHook
from archsync.hooks.platform import PlatformHook
from archsync.services.post_archive import find_changes


class PostArchiveChangeSensor(BaseSensorOperator):
    """Succeeds once what a destination holds of a study is not what the platform has; returns what differs.

    The value is, by destination, a count for each kind: ``missing`` (images that are not there), ``to_withdraw``
    (images that no longer belong to the study) and ``patient`` (messages that the archive has not had). It holds no
    patient data. A destination that never got anything of the study does not differ, and what a destination's rules
    keep from it is no difference. Use ``mode="reschedule"`` to free the worker slot between looks.

    archsync sees to changes by itself; this is for what your own DAG does besides.

    Args:
        study_instance_uid: the study, on the platform or as an archive knows it (templated).
        destination: look at this destination only; without, at all (templated).
        ledger_conn_id: connection of the ledger.
        platform_conn_id: connection of the platform.
    """

    template_fields: Sequence[str] = ("study_instance_uid", "destination")
    ui_color = "#e3f1dd"

    def __init__(
        self,
        *,
        study_instance_uid: str,
        destination: str | None = None,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        platform_conn_id: str = PlatformHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.study_instance_uid = study_instance_uid
        self.destination = destination
        self.ledger_conn_id = ledger_conn_id
        self.platform_conn_id = platform_conn_id

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look once. A database that does not answer is waited for, and so is a study that nobody knows yet."""
        try:
            with (
                LedgerHook(self.ledger_conn_id).get_conn() as ledger,
                PlatformHook(self.platform_conn_id).get_platform() as platform,
            ):
                changes = find_changes(
                    platform,
                    ledger,
                    study_instance_uid=self.study_instance_uid,
                    destination=self.destination or None,
                )
        except StoreUnavailable as exc:
            self.log.warning("%s; looking again", exc.message)
            return False
        except ArchsyncError as exc:
            if exc.code == "unknown-study":
                self.log.info("Nobody knows such a study yet.")
                return False
            raise AirflowFailException(f"{exc.message}. {exc.next_step}") from exc
        told = {name: {kind.value: number for kind, number in found.items()} for name, found in changes.items()}
        self.log.info("Differs from the platform: %s", told or "nothing")
        return PokeReturnValue(bool(told), told)
