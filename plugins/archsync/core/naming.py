"""The names that tie jobs to Airflow: DAG ids, pools and assets follow from a destination's name alone."""

from __future__ import annotations

from enum import StrEnum

from archsync.core.job import JobType


class DagKind(StrEnum):
    """The DAGs of a destination, by what their jobs do."""

    ARCHIVE = "archive"
    IOCM = "iocm"
    ADT = "adt"


_KIND_OF = {
    JobType.ARCHIVE: DagKind.ARCHIVE,
    JobType.DICOM: DagKind.ARCHIVE,
    JobType.IOCM: DagKind.IOCM,
    JobType.KOS: DagKind.IOCM,
    JobType.ADT: DagKind.ADT,
}

DISPATCH_DAG_ID = "archsync_dispatch"
MAINTAIN_DAG_ID = "archsync_maintain"
WORK_ASSET = "archsync_work"


def dag_kind(job_type: JobType) -> DagKind:
    """The kind of DAG that runs jobs of a type."""
    return _KIND_OF[job_type]


#: The kinds that have a circuit breaker and a pool of their own.
PEERS = (DagKind.ARCHIVE, DagKind.ADT)


def peer_of(kind: DagKind) -> DagKind:
    """The kind that stands for the peer: images and rejection notes share a circuit breaker and a pool."""
    return DagKind.ADT if kind is DagKind.ADT else DagKind.ARCHIVE


def dag_id(kind: DagKind, destination: str) -> str:
    """``archsync_archive__vna1``; also the name of the asset whose partition keys start its runs."""
    return f"archsync_{kind.value}__{destination}"


def parse_dag_id(value: str) -> tuple[DagKind, str] | None:
    """Read a DAG id made by :func:`dag_id`; None for any other."""
    prefix, separator, destination = value.partition("__")
    for kind in DagKind:
        if separator and destination and prefix == f"archsync_{kind.value}":
            return kind, destination
    return None


def pool_name(peer: DagKind, destination: str) -> str:
    """The Airflow pool whose slots bound what runs at a destination at the same time, one for each peer of it."""
    # The dash keeps it apart from every destination's: their names have none.
    return f"archsync_{destination}-adt" if peer is DagKind.ADT else f"archsync_{destination}"
