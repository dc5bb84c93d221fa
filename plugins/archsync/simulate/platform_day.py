"""What befalls completed exams of the simulated platform, chosen by dice: for demos, and for soak tests.

Seeded dice give the same course of events on the same platform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import TYPE_CHECKING

from archsync.core.study import RemovalReason
from archsync.simulate.platform_database import Connection

if TYPE_CHECKING:
    from archsync.simulate.platform import SimulatedPlatform


@dataclass(frozen=True, slots=True)
class Exam:
    """A completed exam with something to show; its patient is the survivor of all merges."""

    study_key: str
    patient_key: str
    facility_id: str
    on_hold: bool
    instance_keys: tuple[str, ...]
    removed: int


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is to throw dice about."""

    exam: Exam
    others: Sequence[Exam]


Change = Callable[["SimulatedPlatform", Random, Situation], str | None]


def change_something(platform: SimulatedPlatform, dice: Random) -> str | None:
    """Let one change happen and return it as a line; None if nothing is completed."""
    with platform.transaction() as connection:
        exams = _completed_exams(connection)
    if not exams:
        return None
    exam = dice.choice(exams)
    situation = Situation(exam, [other for other in exams if other is not exam])
    # A change may not be possible here and now: a study of one image is not split.
    for change in _shuffled(dice):
        if (event := change(platform, dice, situation)) is not None:
            return event
    return None


def _completed_exams(connection: Connection) -> list[Exam]:
    rows = connection.execute(
        "select s.study_key::text, s.patient_key::text, s.facility_id, s.on_hold,"
        " array_agg(i.instance_key::text order by i.instance_key) filter (where i.removed_at is null),"
        " count(i.removed_at) from pacs.study s join pacs.instance i using (study_key)"
        " where s.exam_status = 'Completed' group by s.study_key order by s.study_key"
    ).fetchall()
    merges = dict(
        connection.execute("select patient_key::text, merged_into_patient_key::text from pacs.patient").fetchall()
    )
    return [
        Exam(study_key, _survivor(patient_key, merges), facility_id, on_hold, tuple(keys or ()), removed)
        for study_key, patient_key, facility_id, on_hold, keys, removed in rows
        if keys or removed
    ]


def _survivor(patient_key: str, merges: dict[str, str | None]) -> str:
    while (survivor := merges[patient_key]) is not None:
        patient_key = survivor
    return patient_key


def _shuffled(dice: Random) -> list[Change]:
    """All changes, the likelier ones sooner."""
    return sorted(_WEIGHTS, key=lambda change: dice.random() ** (1 / _WEIGHTS[change]), reverse=True)


def _some(dice: Random, keys: Sequence[str], *, at_most: int) -> list[str]:
    return sorted(dice.sample(keys, dice.randint(1, at_most)), key=keys.index)


def _count(keys: Sequence[str]) -> str:
    return f"{len(keys)} {'instance' if len(keys) == 1 else 'instances'}"


def _remove_instances(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    exam = now.exam
    if not exam.instance_keys:
        return None
    reason = dice.choice([reason for reason in RemovalReason if reason is not RemovalReason.RETENTION_EXPIRED])
    keys = _some(dice, exam.instance_keys, at_most=min(3, len(exam.instance_keys)))
    platform.remove_instances(exam.study_key, keys, reason=reason)
    return f"study {exam.study_key}: {_count(keys)} removed ({reason})"


def _remove_study(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    if not now.exam.instance_keys:
        return None
    reason = dice.choice((RemovalReason.PATIENT_SAFETY, RemovalReason.RETENTION_EXPIRED, RemovalReason.UNSPECIFIED))
    platform.remove_study(now.exam.study_key, reason=reason)
    return f"study {now.exam.study_key}: removed as a whole ({reason})"


def _split_study(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    exam = now.exam
    if len(exam.instance_keys) < 2:
        return None
    keys = _some(dice, exam.instance_keys, at_most=len(exam.instance_keys) - 1)
    keep_uids = dice.random() < 0.5
    target = platform.split_study(exam.study_key, instances=keys, keep_uids=keep_uids)
    return f"study {exam.study_key}: split, {_count(keys)} {_how(keep_uids)} to study {target}"


def _merge_studies(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    others = [other for other in now.others if other.patient_key == now.exam.patient_key]
    if not others or not now.exam.instance_keys:
        return None
    target, keep_uids = dice.choice(others), dice.random() < 0.5
    platform.merge_studies(now.exam.study_key, target.study_key, keep_uids=keep_uids)
    count = _count(now.exam.instance_keys)
    return f"study {now.exam.study_key}: merged, {count} {_how(keep_uids)} to study {target.study_key}"


def _move_instances(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    exam = now.exam
    if not now.others or not exam.instance_keys:
        return None
    target, keep_uids = dice.choice(now.others), dice.random() < 0.5
    keys = _some(dice, exam.instance_keys, at_most=len(exam.instance_keys))
    platform.move_instances(exam.study_key, target.study_key, instances=keys, keep_uids=keep_uids)
    return f"study {exam.study_key}: {_count(keys)} {_how(keep_uids)} to study {target.study_key}"


def _how(keep_uids: bool) -> str:
    return "moved" if keep_uids else "moved under new UIDs"


def _move_study(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    patients = sorted({other.patient_key for other in now.others} - {now.exam.patient_key}, key=int)
    if not patients:
        return None
    patient_key = dice.choice(patients)
    platform.move_study(now.exam.study_key, patient_key)
    return f"study {now.exam.study_key}: moved to patient {patient_key}"


def _change_content(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    exam = now.exam
    if not exam.instance_keys:
        return None
    keys = _some(dice, exam.instance_keys, at_most=min(3, len(exam.instance_keys)))
    platform.change_content(exam.study_key, keys)
    return f"study {exam.study_key}: content of {_count(keys)} changed"


def _restore(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    with platform.transaction() as connection:
        cursor = connection.execute(
            "select i.instance_key::text from pacs.instance i where i.study_key = %s and i.removed_at is not null"
            " and not exists (select from pacs.instance r where r.replaces_instance_key = i.instance_key)"
            " order by i.instance_key",
            [now.exam.study_key],
        )
        keys = [key for (key,) in cursor.fetchall()]
    if not keys:
        return None
    restored = platform.restore_instances(now.exam.study_key, _some(dice, keys, at_most=len(keys)))
    return f"study {now.exam.study_key}: {_count(restored)} shown again"


def _replace_instances(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    exam = now.exam
    if not exam.instance_keys:
        return None
    keys = _some(dice, exam.instance_keys, at_most=min(3, len(exam.instance_keys)))
    platform.replace_instances(exam.study_key, keys)
    return f"study {exam.study_key}: {_count(keys)} replaced under new UIDs"


def _toggle_hold(platform: SimulatedPlatform, _dice: Random, now: Situation) -> str | None:
    platform.set_hold(now.exam.study_key, not now.exam.on_hold)
    return f"study {now.exam.study_key}: {'released' if now.exam.on_hold else 'put on hold'}"


def _correct_name(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    platform.correct_name(now.exam.patient_key, f"{dice.choice(_FAMILY_NAMES)}^{dice.choice(_GIVEN_NAMES)}")
    return f"patient {now.exam.patient_key}: name corrected"


def _correct_demographics(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    birth_date = date(1940, 1, 1) + timedelta(days=dice.randrange(25_000))
    platform.correct_demographics(now.exam.patient_key, birth_date=birth_date, sex=dice.choice("FMO"))
    return f"patient {now.exam.patient_key}: birth date and sex corrected"


def _change_mrn(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    platform.change_mrn(now.exam.patient_key, f"{now.exam.facility_id[0]}{dice.randrange(10**9):09}")
    return f"patient {now.exam.patient_key}: patient ID changed"


def _merge_patients(platform: SimulatedPlatform, dice: Random, now: Situation) -> str | None:
    with platform.transaction() as connection:
        cursor = connection.execute(
            "select patient_key::text from pacs.patient where merged_into_patient_key is null order by patient_key"
        )
        alive = [key for (key,) in cursor.fetchall()]
    alive.remove(now.exam.patient_key)
    if not alive:
        return None
    survivor, repoint_studies = dice.choice(alive), dice.random() < 0.5
    platform.merge_patients(now.exam.patient_key, survivor, repoint_studies=repoint_studies)
    return f"patient {now.exam.patient_key}: merged into patient {survivor}"


_FAMILY_NAMES = ("O'Neill", "Strauß", "Ålund", "Smith-Jones", "D'Amico", "Łukasik", "Nowak")
_GIVEN_NAMES = ("Alex", "Zoë", "Jürgen", "Mary Ann", "Nuño")

_WEIGHTS: dict[Change, float] = {
    _remove_instances: 4,
    _change_content: 3,
    _correct_name: 3,
    _split_study: 2,
    _move_instances: 2,
    _move_study: 2,
    _change_mrn: 2,
    _merge_studies: 1.5,
    _correct_demographics: 1.5,
    _merge_patients: 1.5,
    _restore: 1,
    _replace_instances: 1,
    _remove_study: 0.5,
    _toggle_hold: 0.5,
}
