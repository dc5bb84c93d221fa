"""Reads whose a patient identifier is at a destination, for the rules of ``core/identifiers.py``."""

from __future__ import annotations

from archsync.core.adt import PriorIdentifier
from archsync.core.destination import Destination
from archsync.core.identifiers import Holder, Look, Standing
from archsync.core.job import KnownJob
from archsync.core.placing import root
from archsync.ledger import patients, plan_queue, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform


def reader(ledger: Ledger, platform: Platform, destination: Destination, *, looked_before: bool = True) -> Look:
    """What looks up who goes by an identifier at a destination.

    ``looked_before`` False: nobody has had the holders planned yet, so that they may have more to tell.
    """
    destination_id = destination.destination_id
    assert destination_id is not None, "read from the ledger"

    def look(identifier: tuple[str, str]) -> Standing:
        found = patients.known_by(ledger, destination_id, *identifier)
        former = patients.gave_up(ledger, destination_id, *identifier)
        keys = [p.patient_key for p in found]
        survivors = platform.resolve_survivors([*keys, *former])
        all_keys = {*keys, *(root(key, survivors) for key in keys)}
        now = platform.fetch_patients(sorted(all_keys)) if keys else {}
        jobs = _open_jobs(ledger, destination_id, all_keys)
        holders = tuple(
            Holder(
                known,
                survivor := root(known.patient_key, survivors),
                now.get(survivor),
                tuple(j for j in jobs if {j.patient_key, j.prior_patient_key} & {known.patient_key, survivor}),
            )
            for known in found
        )
        stays = destination.adt_prior_identifier is PriorIdentifier.KEPT
        now_known = {key: patients.follow(ledger, destination_id, key) for key in former if stays}
        return Standing(
            holders,
            gave_up={root(key, survivors): known for key, known in now_known.items() if known is not None},
            is_unsettled=bool(keys) and (not looked_before or plan_queue.has_patients(ledger, keys)),
        )

    return look


def _open_jobs(ledger: Ledger, destination_id: int, patient_keys: set[str]) -> list[KnownJob]:
    if not patient_keys:
        return []
    about = planned_jobs.known_patient_jobs(ledger, [destination_id], patient_keys).get(destination_id, [])
    stores = planned_jobs.open_store_jobs(ledger, destination_id, patient_keys)
    return [job for job in (*about, *stores) if not job.status.is_done]
