"""Follow the links between rows: merges of patients, and replacements of instances. Links of linked rows make chains.

Each step along all chains of a batch is one query: a batch costs as many queries as its longest chain has links.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archsync.core.platform_contract import PATIENT
from archsync.errors import InvalidInput
from archsync.platformdb.connection import Cursor
from archsync.platformdb.queries import Queries


def fetch_merges(cursor: Cursor, queries: Queries, patient_keys: Iterable[str]) -> dict[str, str | None]:
    """Read the chains that start at those patients: for each patient on one, into whom they were merged, if anybody.

    Patients the view does not have are absent.
    """
    merges: dict[str, str | None] = {}
    asked: set[str] = set()
    wanted = set(patient_keys)
    while wanted:
        asked |= wanted
        cursor.execute(*queries.merges_of(cursor, sorted(wanted)))
        found: dict[str, str | None] = dict(cursor.fetchall())
        merges |= found
        wanted = {key for key in found.values() if key is not None} - asked
    return merges


def fetch_merged(cursor: Cursor, queries: Queries, patient_keys: Iterable[str]) -> dict[str, str]:
    """Read who was merged into those patients, straight or by way of others: into which of them, by each one's key."""
    merged: dict[str, str] = {}
    wanted = {key: key for key in patient_keys}
    while wanted:
        cursor.execute(*queries.merges_into(cursor, sorted(wanted)))
        found = {key: wanted[into] for key, into in cursor.fetchall() if key not in merged}
        merged |= found
        wanted = found
    return merged


def find_survivor(patient_key: str, merges: Mapping[str, str | None]) -> str:
    """Follow a patient's chain to its end; one that names a patient the view does not have ends before.

    Raises:
        InvalidInput: the merges go round in a circle, so there is no survivor.
    """
    passed = {patient_key}
    current = patient_key
    while (following := merges[current]) is not None and following in merges:
        if following in passed:
            raise InvalidInput(
                f"platform view {PATIENT.name}, patient_key {patient_key}: the merges go round in a circle"
                f" and come back to patient_key {following}",
                code="patient-merge-cycle",
                next_step="Correct merged_into_patient_key on the platform: the surviving patient's is null.",
            )
        passed.add(following)
        current = following
    return current


def fetch_relatives(cursor: Cursor, queries: Queries, patient_keys: Iterable[str]) -> set[str]:
    """All patients that merges connect with those, in either direction; those included."""
    relatives: set[str] = set()
    wanted = set(patient_keys)
    while wanted:
        relatives |= wanted
        keys = sorted(wanted)
        cursor.execute(*queries.merges_of(cursor, keys))
        found = {survivor for _, survivor in cursor.fetchall() if survivor is not None}
        cursor.execute(*queries.merges_into(cursor, keys))
        wanted = (found | {key for key, _ in cursor.fetchall()}) - relatives
    return relatives


def fetch_replacements(
    cursor: Cursor, queries: Queries, instance_keys: Iterable[str]
) -> dict[str, set[tuple[str, str]]]:
    """Read which present instances, (study key, instance key), stand for each of those, past removed replacements."""
    standing: dict[str, set[tuple[str, str]]] = {}
    # For whom a replacement is looked for, by the instance it would replace: at first the same.
    wanted = {key: {key} for key in instance_keys}
    passed: set[tuple[str, str]] = set()
    while wanted:
        passed |= {(key, original) for key, originals in wanted.items() for original in originals}
        cursor.execute(*queries.replacements(cursor, sorted(wanted)))
        following: dict[str, set[str]] = {}
        for replaced, study_key, instance_key, removed_at in cursor.fetchall():
            for original in wanted[replaced]:
                if removed_at is None:
                    standing.setdefault(original, set()).add((study_key, instance_key))
                elif (instance_key, original) not in passed:
                    following.setdefault(instance_key, set()).add(original)
        wanted = following
    return standing
