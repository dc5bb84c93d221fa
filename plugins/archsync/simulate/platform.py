"""A PACS to try archsync with: fills the reference schema with real studies, then lets exams go through their day.

Everything follows from the seed: the same seed gives the same files, rows and course of events. Nothing here is shared
with the reader or the sender, so that they are tested against an independent idea of the platform.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from random import Random

from archsync.core.study import ExamStatus, Facility, Priority
from archsync.errors import InvalidInput
from archsync.simulate.platform_database import find_or_add_patient, insert_instances, no_such, one
from archsync.simulate.platform_day import change_something
from archsync.simulate.platform_patients import PatientChanges
from archsync.simulate.platform_studies import StudyChanges
from archsync.simulate.samples import FileHeader, copy_sample, read_header, sample_studies
from archsync.simulate.volumes import DemoPatient, VolumeStudy, make_patient, make_uid, write_volume

SCHEMA_FILE = Path(__file__).resolve().parents[3] / "include" / "platform" / "schema.sql"

#: Two facility groups; the identifiers lie below the arc HL7 keeps for examples.
FACILITIES = (
    Facility("CITY", "City Hospital", "metro", "CITYMRN", "2.16.840.1.113883.19.11", "ISO", "CITY"),
    Facility("NORTH", "North Clinic", "region", "NORTHMRN", "2.16.840.1.113883.19.12", "ISO", "NORTH"),
    Facility("SOUTH", "South Clinic", "region", "SOUTHMRN", "2.16.840.1.113883.19.13", "ISO", "SOUTH"),
)

#: How likely each priority is.
_PRIORITIES = {Priority.STAT: 1, Priority.URGENT: 2, Priority.ROUTINE: 7}

_DESCRIPTIONS = {"CT": "CT abdomen and pelvis", "MR": "MR head"}
_FIRST_DAY = datetime(2026, 1, 5, 7, 30, tzinfo=UTC)


class SimulatedPlatform(StudyChanges, PatientChanges):
    """The platform in the database at ``dsn`` with its files below ``folder``.

    How it is filled and how exams go on is here; what may happen to a study or a patient later is inherited.

    Args:
        dsn: URI of the database; :meth:`install` makes the reference schema in it.
        folder: where the DICOM files go; made if missing.
        seed: other seeds give other studies.
        slices: least number of images in a generated series; up to twice as many are made.
        matrix: rows and columns of a generated image.
    """

    def __init__(self, dsn: str, folder: Path, *, seed: int = 1, slices: int = 16, matrix: int = 256) -> None:
        super().__init__(dsn, folder, seed=seed)
        self._slices = slices
        self._matrix = matrix
        self._random = Random(f"{seed}/events")  # noqa: S311  (a demo's dice)
        self._late: list[str] = []

    def install(self) -> None:
        """Make the reference schema and the facilities; what is there already is kept."""
        with self.transaction() as connection:
            connection.execute(SCHEMA_FILE.read_bytes())
            for facility in FACILITIES:
                connection.execute(
                    "insert into pacs.facility (facility_id, name, facility_group, authority_namespace,"
                    " authority_universal_id, authority_universal_id_type, hl7_receiving_facility)"
                    " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
                    [
                        facility.facility_id,
                        facility.name,
                        facility.facility_group,
                        facility.authority_namespace,
                        facility.authority_universal_id,
                        facility.authority_universal_id_type,
                        facility.hl7_receiving_facility,
                    ],
                )

    def fill(self, studies: int = 30, *, exam_status: str = ExamStatus.PENDING) -> int:
        """Bring the platform to its first ``studies`` studies, samples and volumes, and return how many are new.

        Two in three are samples as long as there are any. Studies that are there already stay as they are.
        """
        samples = sample_studies()
        known = self._known_studies()
        new = 0
        for number in range(studies):
            is_sample = number % 3 != 2 and (index := number - (number + 1) // 3) < len(samples)
            uid = samples[index][0].study_instance_uid if is_sample else self._volume_uid(number)
            if uid in known:
                continue
            if is_sample:
                self._add_sample(number, samples[index], exam_status)
            else:
                self._add_volume(number, exam_status)
            new += 1
        return new

    def add_volume(
        self,
        *,
        facility_id: str | None = None,
        exam_status: str = ExamStatus.PENDING,
        priority: Priority | None = None,
    ) -> str:
        """Generate one more CT or MR study, the next of this seed, and return its key."""
        known = self._known_studies()
        # Nor is a study that was deleted made again: its files stay.
        number = next(
            n
            for n in itertools.count(len(known))
            if self._volume_uid(n) not in known and not (self._folder / self._volume_uid(n)).exists()
        )
        return self._add_volume(number, exam_status, facility_id=facility_id, priority=priority)

    def add_study(
        self,
        files: Sequence[Path],
        *,
        facility_id: str = "CITY",
        exam_status: str = ExamStatus.PENDING,
        priority: Priority = Priority.ROUTINE,
        patient: DemoPatient | None = None,
        accession_number: str | None = None,
    ) -> str:
        """Add a study of those files, which stay where they are, and return its key.

        Raises:
            InvalidInput: the files are of several studies, or one is not DICOM.
        """
        headers = [read_header(path.resolve()) for path in files]
        if len({header.study_instance_uid for header in headers}) != 1:
            raise InvalidInput("a study is made of files with one Study Instance UID")
        first = headers[0]
        facility = _facility(facility_id)
        owner = patient or self._make_patient(facility, first.patient_id or first.study_instance_uid)
        accession = accession_number or f"{facility_id}-{make_uid(first.study_instance_uid)[-8:]}"
        with self.transaction() as connection:
            patient_key = find_or_add_patient(connection, owner)
            cursor = connection.execute(
                "insert into pacs.study (study_instance_uid, patient_key, facility_id, accession_number, study_date,"
                " study_time, description, referring_physician, study_id, exam_status, priority)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) returning study_key::text",
                [
                    first.study_instance_uid,
                    patient_key,
                    facility_id,
                    accession,
                    first.study_date,
                    first.study_time,
                    first.study_description,
                    first.referring_physician,
                    first.study_id,
                    str(exam_status),
                    priority.name,
                ],
            )
            study_key: str = one(cursor)
            insert_instances(connection, study_key, headers)
        return study_key

    def add_instances(self, study_key: str, files: Sequence[Path]) -> None:
        """Add files to a study, as late images are.

        Raises:
            InvalidInput: there is no such study, or a file is of another one.
        """
        headers = [read_header(path.resolve()) for path in files]
        with self.transaction() as connection:
            row = connection.execute(
                "select study_instance_uid from pacs.study where study_key = %s", [study_key]
            ).fetchone()
            if row is None:
                raise no_such("study", study_key)
            if any(header.study_instance_uid != row[0] for header in headers):
                raise InvalidInput(f"study_key {study_key}: a file belongs to another study")
            insert_instances(connection, study_key, headers)

    def add_late_series(self, study_key: str, *, slices: int = 2) -> None:
        """Generate a further, short series for a study and add it."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "select s.study_instance_uid, s.accession_number, s.study_date, s.study_time, s.description,"
                " p.patient_id, p.issuer_of_patient_id, p.name, p.birth_date, p.sex,"
                " (select coalesce(max(series_number), 0) from pacs.instance i where i.study_key = s.study_key)"
                " from pacs.study s join pacs.patient p using (patient_key) where s.study_key = %s",
                [study_key],
            )
            row = cursor.fetchone()
        if row is None:
            raise no_such("study", study_key)
        uid, accession, study_date, study_time, description, *demographics, series_number = row
        # No UID comes twice, also after the series that had it was moved away or deleted: its files stay.
        series_number += 900
        while (self._folder / uid / f"{make_uid(make_uid(uid, series_number), 1)}.dcm").exists():
            series_number += 900
        performed_at = datetime.combine(study_date or date(2026, 1, 5), study_time or time(12), UTC)
        study = VolumeStudy(uid, accession or "", performed_at, description or "", DemoPatient(*demographics))
        files = write_volume(
            self._folder / uid, study, modality="CT", slices=slices, matrix=self._matrix, series_number=series_number
        )
        self.add_instances(study_key, files)

    def set_status(self, study_key: str, exam_status: str) -> None:
        """Give an exam another status."""
        self._update("study", study_key, exam_status=str(exam_status))

    def set_hold(self, study_key: str, on_hold: bool) -> None:
        """Put a study on hold, or release it."""
        self._update("study", study_key, on_hold=on_hold)

    def new_patient(self, *, facility_id: str = "CITY") -> str:
        """Add a made-up patient nobody had before, and return the key."""
        facility = _facility(facility_id)
        with self.transaction() as connection:
            known = one(connection.execute("select count(*) from pacs.patient"))
            return find_or_add_patient(connection, self._make_patient(facility, f"new patient {known}"))

    def advance(self, *, exams: int = 3, arrivals: bool = False, changes: int = 0) -> list[str]:
        """Let some time pass and return what happened, a line each.

        Up to ``exams`` exams that are not on hold go one status on (Pending → Inflight → Completed). One in four that
        completed gets late images the next time. With ``arrivals`` a new exam comes when no other is left to move.
        Then ``changes`` times something happens to a completed exam or its patient: images are deleted or shown again,
        studies are split, merged, moved, changed or put on hold, patients corrected or merged.
        """
        events = []
        with self.transaction() as connection:
            cursor = connection.execute("select study_key::text from pacs.study")
            existing = {study_key for (study_key,) in cursor.fetchall()}
        for study_key in filter(existing.__contains__, self._late):
            self.add_late_series(study_key)
            events.append(f"study {study_key}: late images arrived")
        self._late = []
        with self.transaction() as connection:
            cursor = connection.execute(
                "select study_key::text, exam_status from pacs.study where exam_status in ('Pending', 'Inflight')"
                " and not on_hold order by study_key"
            )
            waiting = cursor.fetchall()
        for study_key, exam_status in sorted(self._random.sample(waiting, min(exams, len(waiting))), key=waiting.index):
            following = ExamStatus.INFLIGHT if exam_status == ExamStatus.PENDING else ExamStatus.COMPLETED
            self.set_status(study_key, following)
            events.append(f"study {study_key}: {exam_status} → {following}")
            if following is ExamStatus.COMPLETED and self._random.random() < 0.25:
                self._late.append(study_key)
        if not waiting and arrivals:
            events.append(f"study {self.add_volume()}: a new exam, Pending")
        changed = [change_something(self, self._random) for _ in range(changes)]
        return events + [event for event in changed if event]

    def _known_studies(self) -> set[str]:
        with self.transaction() as connection:
            return {uid for (uid,) in connection.execute("select study_instance_uid from pacs.study").fetchall()}

    def _volume_uid(self, number: int) -> str:
        return make_uid(self._seed, "volume", number)

    def _add_sample(self, number: int, sample: list[FileHeader], exam_status: str) -> None:
        dice = self._dice(number)
        files = [copy_sample(header, self._folder / header.study_instance_uid) for header in sample]
        self.add_study(
            files,
            facility_id=FACILITIES[number % len(FACILITIES)].facility_id,
            exam_status=exam_status,
            priority=_throw_priority(dice),
        )

    def _add_volume(
        self, number: int, exam_status: str, *, facility_id: str | None = None, priority: Priority | None = None
    ) -> str:
        dice = self._dice(number)
        facility = _facility(facility_id or FACILITIES[number % len(FACILITIES)].facility_id)
        modality = dice.choice(("CT", "MR"))
        # A third of the volumes belong to patients who were here before.
        patient = self._make_patient(facility, f"volume {number - number % 3 if dice.random() < 1 / 3 else number}")
        study = VolumeStudy(
            self._volume_uid(number),
            f"{facility.facility_id}-{self._seed % 100:02}{number:06}",
            _FIRST_DAY + timedelta(minutes=17 * number),
            _DESCRIPTIONS[modality],
            patient,
        )
        files = write_volume(
            self._folder / study.study_instance_uid,
            study,
            modality=modality,
            slices=dice.randrange(self._slices, 2 * self._slices + 1),
            matrix=self._matrix,
        )
        return self.add_study(
            files,
            facility_id=facility.facility_id,
            exam_status=exam_status,
            priority=_throw_priority(dice) if priority is None else priority,
            patient=patient,
            accession_number=study.accession_number,
        )

    def _make_patient(self, facility: Facility, identity: str) -> DemoPatient:
        dice = self._dice(f"{facility.facility_id}/{identity}")
        return make_patient(
            dice, f"{facility.facility_id[0]}{dice.randrange(10**7):07}", facility.authority_namespace or ""
        )

    def _dice(self, subject: object) -> Random:
        return Random(f"{self._seed}/{subject}")  # noqa: S311  (a demo's dice)


def run_platform(
    platform: SimulatedPlatform,
    *,
    interval_s: float,
    stop: threading.Event,
    report: Callable[[str], None],
    exams: int = 3,
    arrivals: bool = True,
    changes: int = 0,
) -> None:
    """Let the platform live, one step every ``interval_s`` seconds, until ``stop`` is set."""
    while not stop.is_set():
        for event in platform.advance(exams=exams, arrivals=arrivals, changes=changes):
            report(event)
        stop.wait(interval_s)


def _facility(facility_id: str) -> Facility:
    for facility in FACILITIES:
        if facility.facility_id == facility_id:
            return facility
    known = ", ".join(facility.facility_id for facility in FACILITIES)
    raise InvalidInput(f"there is no facility {facility_id!r}; the simulated platform has {known}")


def _throw_priority(dice: Random) -> Priority:
    return dice.choices(list(_PRIORITIES), list(_PRIORITIES.values()))[0]
