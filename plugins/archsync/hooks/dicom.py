"""A DICOM peer behind an Airflow connection of type ``dicom``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow.sdk import BaseHook

from archsync.core.destination import check_ae_title
from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome
from archsync.errors import ArchsyncError, ConfigurationError
from archsync.hooks._connection import connection, tls_settings
from archsync.hooks.images import read_images_through_airflow
from archsync.net.dicom.echo import echo
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances


class DicomHook(BaseHook):
    """Talks to the peer that a ``dicom`` connection describes.

    Host and port of the connection; extra: ``called_ae_title`` (needed), ``calling_ae_title``, ``tls``,
    ``tls_ca_file``, ``tls_certificate_file``, ``tls_private_key_file``, ``profile`` (how its statuses are read), and
    the time-outs of :class:`~archsync.core.transfer.Endpoint`.
    """

    conn_name_attr = "dicom_conn_id"
    default_conn_name = "dicom_default"
    conn_type = "dicom"
    hook_name = "DICOM peer"

    def __init__(self, dicom_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.dicom_conn_id = dicom_conn_id

    def get_conn(self) -> Endpoint:
        """The peer's address and time-outs; each call below opens its own association."""
        found = connection(self.dicom_conn_id)
        extra = found.extra_dejson
        called = extra.get("called_ae_title", "")
        calling = extra.get("calling_ae_title") or "ARCHSYNC"
        for name, title in (("called_ae_title", called), ("calling_ae_title", calling)):
            if problem := check_ae_title(title):
                raise ConfigurationError(f"connection {self.dicom_conn_id}, {name}: {problem}", code="bad-setting")
        if not found.host or not found.port:
            raise ConfigurationError(f"connection {self.dicom_conn_id}: host and port are needed", code="bad-setting")
        timeouts: dict[str, Any] = {
            name: float(extra[name])
            for name in ("connect_timeout_s", "acse_timeout_s", "dimse_timeout_s", "network_timeout_s")
            if extra.get(name)
        }
        endpoint = Endpoint(
            found.host, found.port, called, calling, tls=tls_settings(extra), profile=self._profile(extra)
        )
        return replace(endpoint, **timeouts)

    def _profile(self, extra: Mapping[str, Any]) -> ArchiveProfile:
        try:
            return ArchiveProfile(extra.get("profile") or ArchiveProfile.GENERIC)
        except ValueError:
            raise ConfigurationError(
                f"connection {self.dicom_conn_id}, profile: must be one of {', '.join(ArchiveProfile)}",
                code="bad-setting",
            ) from None

    def echo(self) -> None:
        """Send a C-ECHO; raises the error that says why it failed."""
        echo(self.get_conn())

    def store(self, instances: Sequence[OutgoingInstance]) -> Iterator[StoreOutcome]:
        """Send instances and yield the outcome of each."""
        read_images_through_airflow()
        return store_instances(self.get_conn(), instances)

    def find_instances(self, study_instance_uid: str, series_instance_uids: Iterable[str]) -> set[str]:
        """The SOP Instance UIDs that the peer lists in these series of a study."""
        return find_instances(self.get_conn(), study_instance_uid, list(series_instance_uids))

    def test_connection(self) -> tuple[bool, str]:
        """Answer the Test button of Airflow's connection form: C-ECHO."""
        try:
            self.echo()
        except ArchsyncError as exc:
            return False, f"{exc.message} {exc.next_step}"
        return True, "The peer answered C-ECHO."
