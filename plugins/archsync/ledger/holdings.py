"""Placements, and what each archive provably holds of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from archsync.core.comparison import HeldInstance
from archsync.core.placing import Bound, Decision, NewPlacement, Placed
from archsync.core.study import Study
from archsync.core.uid_map import InstanceUids
from archsync.ledger.database import Ledger, Row
from archsync.ledger.queries import load

SQL = load("holdings")


@dataclass(frozen=True, slots=True)
class HeldStudy:
    """Totals of one study at one destination."""

    study_instance_uid: str
    study_key: str
    series: int
    instances: int
    verified: int
    rejected: int
    last_stored_at: datetime


@dataclass(frozen=True, slots=True)
class HeldInstanceDetail:
    """One instance at one destination, as that archive knows it. ``rejected_by`` is a note's SOP Instance UID.

    ``store_status`` is None where the answer was lost, and the archive listed it.
    """

    series_instance_uid: str
    sop_instance_uid: str
    content_version: int
    store_status: int | None
    stored_at: datetime
    verified_at: datetime | None
    rejected_by: str | None
    rejected_as: str | None
    rejected_at: datetime | None


# Placements


def placements(ledger: Ledger, *, study_keys: Collection[str], instance_keys: Collection[str]) -> list[Placed]:
    """Every placement under some studies and of some instances; those of one instance in their order."""
    rows = ledger.fetch_all(SQL["placements"], {"study_keys": list(study_keys), "instance_keys": list(instance_keys)})
    return [_placed(row) for row in rows]


def _placed(row: Row) -> Placed:
    return Placed(
        placement_id=row["placement_id"],
        placement_no=row["placement_no"],
        instance_key=row["instance_key"],
        content_version=row["content_version"],
        study_key=row["study_key"],
        patient_key=row["patient_key"],
        uids=InstanceUids(row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"]),
        source_series_instance_uid=row["source_series_instance_uid"],
        source_sop_instance_uid=row["source_sop_instance_uid"],
        sop_class_uid=row["sop_class_uid"],
        placed_at=row["placed_at"],
        is_burnt=row["is_burnt"],
        decision=Decision(row["decision"]) if row["decision"] else None,
    )


def lock_placing(ledger: Ledger) -> None:
    """Have the only say on placements until the transaction ends."""
    ledger.execute(SQL["lock_placing"])


def bound(
    ledger: Ledger, *, study_uids: Collection[str], series_uids: Collection[str], sop_uids: Collection[str]
) -> Bound:
    """What UIDs were first sent as, and which SOP Instance UIDs are in use."""
    studies = ledger.fetch_all(SQL["bound_studies"], {"uids": list(study_uids)})
    series = ledger.fetch_all(SQL["bound_series"], {"uids": list(series_uids)})
    used = ledger.fetch_all(SQL["used_sop_uids"], {"uids": list(sop_uids)})
    return Bound(
        patient_of_study={row["study_instance_uid"]: row["patient_key"] for row in studies},
        study_of_series={row["series_instance_uid"]: row["study_instance_uid"] for row in series},
        used_sop_uids=frozenset(row["sop_instance_uid"] for row in used),
    )


def insert_placements(ledger: Ledger, study: Study, new: Sequence[NewPlacement]) -> None:
    """Write new placements of a study; the caller holds the lock of :func:`lock_placing`."""
    series: dict[tuple[str, str, str], int] = {}
    for item in new:
        key = (item.uids.series_instance_uid, item.instance.series_instance_uid, item.instance.sop_class_uid)
        if key not in series:
            series[key] = _series_id(ledger, study, item)
    own = [item.instance.sop_instance_uid for item in new]
    ledger.execute(
        SQL["insert_placements"],
        {
            "placed_series_ids": [
                series[(i.uids.series_instance_uid, i.instance.series_instance_uid, i.instance.sop_class_uid)]
                for i in new
            ],
            "content_versions": [item.instance.content_version for item in new],
            "placement_nos": [item.placement_no for item in new],
            "instance_keys": [item.instance.instance_key for item in new],
            "sop_instance_uids": [item.uids.sop_instance_uid for item in new],
            "source_sop_instance_uids": [
                source if source != item.uids.sop_instance_uid else None for source, item in zip(own, new, strict=True)
            ],
        },
    )


def _series_id(ledger: Ledger, study: Study, item: NewPlacement) -> int:
    source = item.instance.series_instance_uid
    row = ledger.fetch_one(
        SQL["upsert_series"],
        {
            "study_key": study.study_key,
            "patient_key": study.patient.patient_key,
            "study_instance_uid": item.uids.study_instance_uid,
            "series_instance_uid": item.uids.series_instance_uid,
            "source_series_instance_uid": source if source != item.uids.series_instance_uid else None,
            "sop_class_uid": item.instance.sop_class_uid,
        },
    )
    assert row is not None, "insert … returning gives a row"
    return int(row["placed_series_id"])


def decide_dependants(ledger: Ledger, placement_ids: Collection[int], decision: Decision) -> None:
    """Say what becomes of instances that point at withdrawn ones."""
    if placement_ids:
        ledger.execute(SQL["decide_dependants"], {"placement_ids": list(placement_ids), "decision": decision.value})


# What an archive holds


def held(
    ledger: Ledger, destination_ids: Collection[int], placed: Mapping[int, Placed]
) -> dict[int, dict[int, HeldInstance]]:
    """What destinations hold, or may hold, of some placements: destination id → placement id → held instance."""
    found: dict[int, dict[int, HeldInstance]] = {destination_id: {} for destination_id in destination_ids}
    if not placed:
        return found
    wanted = {"placement_ids": list(placed), "destination_ids": list(destination_ids)}
    for row in ledger.fetch_all(SQL["held"], wanted):
        found[row["destination_id"]][row["placement_id"]] = HeldInstance(
            placed=placed[row["placement_id"]],
            is_stored=row["is_stored"],
            is_verified=row["is_verified"],
            rejected_by=row["rejected_by"],
            is_hidden=row["is_hidden"],
        )
    return found


def offer(ledger: Ledger, destination_id: int, placement_ids: Collection[int]) -> None:
    """Write down, before sending, what the archive may hold from now on; it claims nothing."""
    ledger.execute(SQL["offer"], {"destination_id": destination_id, "placement_ids": list(placement_ids)})


def record_stored(ledger: Ledger, destination_id: int, acknowledged: Iterable[tuple[int, int]]) -> None:
    """Record acknowledged placements, each with its C-STORE status, in one statement."""
    rows = list(acknowledged)
    ledger.execute(
        SQL["record_stored"],
        {
            "destination_id": destination_id,
            "placement_ids": [placement_id for placement_id, _ in rows],
            "store_statuses": [status for _, status in rows],
        },
    )


def mark_verified(ledger: Ledger, destination_id: int, placement_ids: Collection[int]) -> None:
    """Record that the archive itself listed these instances."""
    ledger.execute(SQL["mark_verified"], {"destination_id": destination_id, "placement_ids": list(placement_ids)})


def forget(ledger: Ledger, destination_id: int, placement_ids: Collection[int]) -> None:
    """The archive does not have these: the ledger must not claim them. What a note names is kept."""
    ledger.execute(SQL["forget"], {"destination_id": destination_id, "placement_ids": list(placement_ids)})


def doubt(ledger: Ledger, destination_id: int, placement_ids: Collection[int]) -> None:
    """Take back that the archive has these, without forgetting that it may: they count as missing. Notes' stay."""
    ledger.execute(SQL["doubt"], {"destination_id": destination_id, "placement_ids": list(placement_ids)})


def claim(ledger: Ledger, destination_id: int, note_id: int, placement_ids: Collection[int]) -> None:
    """Tie placements to the rejection note that withdraws them, before it is first sent: their UIDs are burnt."""
    wanted = {"destination_id": destination_id, "note_id": note_id, "placement_ids": list(placement_ids)}
    ledger.execute(SQL["claim"], wanted)


def release(ledger: Ledger, destination_id: int, note_id: int, placement_ids: Collection[int] | None = None) -> None:
    """Untie placements from a note that was given up; None: all of them."""
    wanted = {
        "destination_id": destination_id,
        "note_id": note_id,
        "placement_ids": None if placement_ids is None else list(placement_ids),
    }
    ledger.execute(SQL["release"], wanted)


def archived_studies(
    ledger: Ledger, destination_ids: Collection[int], study_keys: Collection[str]
) -> dict[tuple[int, str], datetime]:
    """When studies were wholly archived, by destination id and study key; absent: never."""
    wanted = {"study_keys": list(study_keys), "destination_ids": list(destination_ids)}
    return {
        (row["destination_id"], row["study_key"]): row["archived_at"]
        for row in ledger.fetch_all(SQL["archived_studies"], wanted)
    }


def set_archived(ledger: Ledger, destination_id: int, study_key: str) -> bool:
    """Record that a study was wholly archived; False: it was before, and nothing changes."""
    return ledger.execute(SQL["set_archived"], {"destination_id": destination_id, "study_key": study_key}) == 1


# Listings


def listing(
    ledger: Ledger,
    destination_id: int,
    *,
    rejected_only: bool = False,
    before: int | None = None,
    limit: int = 100,
) -> tuple[list[HeldStudy], int | None]:
    """Up to ``limit`` studies that a destination holds, last archived first; and where the next ones begin, if any.

    ``rejected_only``: only those of which notes withdrew something. ``before``: where the last page ended. A study to
    which something came later, between others, is named where that lies; on one page it is named once.
    """
    wanted = {
        "destination_id": destination_id,
        "rejected_only": rejected_only,
        "before": before,
        "limit": limit + 1,
    }
    found = ledger.fetch_all(SQL["latest_studies"], wanted)
    following = found[limit]["placement_id"] + 1 if len(found) > limit else None
    page = list(dict.fromkeys((row["study_key"], row["study_instance_uid"]) for row in found[:limit]))
    keys = list({study_key for study_key, _ in page})
    rows = ledger.fetch_all(SQL["totals"], {"destination_id": destination_id, "study_keys": keys})
    totals = {(row["study_key"], row["study_instance_uid"]): HeldStudy(**row) for row in rows}
    listed = [totals[key] for key in page if key in totals]
    return [s for s in listed if s.rejected or not rejected_only], following


def study_keys(ledger: Ledger, study_instance_uid: str) -> list[str]:
    """The studies that ever went out under a Study Instance UID."""
    rows = ledger.fetch_all(SQL["study_keys"], {"study_instance_uid": study_instance_uid})
    return [row["study_key"] for row in rows]


def instances_of_study(ledger: Ledger, destination_id: int, study_instance_uid: str) -> list[HeldInstanceDetail]:
    """What a destination holds of one study."""
    rows = ledger.fetch_all(
        SQL["instances_of_study"], {"destination_id": destination_id, "study_instance_uid": study_instance_uid}
    )
    return [HeldInstanceDetail(**row) for row in rows]


def series(ledger: Ledger, destination_id: int) -> list[tuple[str, str]]:
    """Every series in which a destination ever got anything: pairs of Study and Series Instance UID."""
    rows = ledger.fetch_all(SQL["series"], {"destination_id": destination_id})
    return [(row["study_instance_uid"], row["series_instance_uid"]) for row in rows]


def holds_anything(ledger: Ledger, destination_id: int) -> bool:
    """Tell whether a destination holds, or may hold, at least one instance."""
    row = ledger.fetch_one(SQL["holds_anything"], {"destination_id": destination_id})
    return bool(row and row["holds"])
