"""Asks an archive what it lists of some instances."""

from __future__ import annotations

from collections.abc import Collection

from archsync.core.transfer import Endpoint
from archsync.core.uid_map import InstanceUids
from archsync.errors import DestinationMisconfigured, PeerRefused
from archsync.net.dicom.find import find_instances

#: An archive may list, or hide, an instance a moment later: how long to wait before each further look, in seconds.
VERIFY_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


def list_instances(endpoint: Endpoint, wanted: Collection[InstanceUids]) -> set[str]:
    """The SOP Instance UIDs that the archive lists in the series of ``wanted``.

    Raises:
        PeerRefused: ``find-not-supported`` or ``find-refused``.
        PeerUnavailable: not reachable, or no answer.
        DestinationMisconfigured: the association is refused as such.
    """
    listed: set[str] = set()
    for study_uid in sorted({u.study_instance_uid for u in wanted}):
        series = sorted({u.series_instance_uid for u in wanted if u.study_instance_uid == study_uid})
        listed |= find_instances(endpoint, study_uid, series)
    return listed


def list_for_check(endpoint: Endpoint, wanted: Collection[InstanceUids]) -> set[str]:
    """As :func:`list_instances`, at a destination that is set to be checked so: one that can't be is set wrong."""
    try:
        return list_instances(endpoint, wanted)
    except PeerRefused as exc:
        if exc.code != "find-not-supported":
            raise
        # Every job would end the same.
        raise DestinationMisconfigured(exc.message, code=exc.code, next_step=exc.next_step) from exc
