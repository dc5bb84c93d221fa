"""From what is to be withdrawn to rejection notes that are kept, encoded, before they are first sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from archsync.core.comparison import HeldInstance
from archsync.core.destination import Destination
from archsync.core.job import Job
from archsync.core.placing import Placed, root
from archsync.core.rejection import NoteIdentity, NoteSubject, RejectedInstance, RejectionTitle, split_instances
from archsync.core.study import Patient
from archsync.core.withdrawal import Leftover
from archsync.ledger import holdings, patients, rejection_notes
from archsync.ledger.database import Ledger
from archsync.messages.rejection_note import build_rejection_note, encode_note
from archsync.platformdb.reader import Platform
from archsync.services.comparison import Compared


class NoteBuilder:
    """Builds the notes of one job."""

    def __init__(self, ledger: Ledger, platform: Platform, job: Job, destination: Destination) -> None:
        self._ledger = ledger
        self._platform = platform
        self._job = job
        self._destination = destination

    def build(self, compared: Compared, to_send: Sequence[Leftover], *, issued_at: datetime) -> None:
        """Build the notes that name ``to_send``, one or more for each study as sent and title.

        Each is kept in the same transaction that ties its instances to it: from then on their UIDs are burnt.
        """
        groups: dict[tuple[str, RejectionTitle], list[HeldInstance]] = {}
        for leftover in to_send:
            assert leftover.title is not None, "what may go has a title"
            study_uid = leftover.held.placed.uids.study_instance_uid
            groups.setdefault((study_uid, leftover.title), []).append(leftover.held)
        scope = rejection_notes.last_scope(self._ledger, self._job.job_id)
        for (study_uid, title), held in sorted(groups.items()):
            # A scope of its own for each: the notes of one scope share a series, which lies in one study.
            scope += 1
            subject = self._subject(compared, study_uid, held[0].placed)
            self._build_group(subject, title, held, scope, issued_at)

    def _build_group(
        self, subject: NoteSubject, title: RejectionTitle, held: Iterable[HeldInstance], scope: int, issued_at: datetime
    ) -> None:
        iocm = self._destination.iocm
        placement_ids = {h.placed.uids.sop_instance_uid: h.placed.placement_id for h in held}
        parts = split_instances((rejected(h.placed) for h in held), max_references=iocm.max_note_references)
        for part, instances in enumerate(parts, start=1):
            identity = NoteIdentity(
                # With its moment, for job numbers start anew in another ledger.
                change_id=f"{self._job.job_id}/{self._job.created_at.isoformat()}",
                destination=self._destination.name,
                scope=scope,
                part=part,
            )
            note = build_rejection_note(
                subject,
                instances,
                title=title,
                identity=identity,
                issued_at=issued_at,
                time_zone=ZoneInfo(self._destination.time_zone),
                modifier=iocm.quality_modifier if title.allows_modifier else None,
            )
            encoded = encode_note(note, held=placement_ids.keys())
            with self._ledger.transaction():
                note_id = rejection_notes.insert(
                    self._ledger,
                    job_id=self._job.job_id,
                    destination_id=self._job.destination_id,
                    study_key=str(self._job.study_key),
                    study_instance_uid=subject.study_instance_uid,
                    identity=identity,
                    title=title,
                    instances=len(instances),
                    encoded=encoded,
                )
                named = [placement_ids[i.sop_instance_uid] for i in instances]
                holdings.claim(self._ledger, self._job.destination_id, note_id, named)

    def _subject(self, compared: Compared, study_instance_uid: str, placed: Placed) -> NoteSubject:
        """The study and patient as the archive knows them: the platform may be ahead, or have moved the study."""
        study = compared.desired.study
        patient = self._patient(compared, study_instance_uid, placed.patient_key)
        return NoteSubject.of(replace(study, study_instance_uid=study_instance_uid, patient=patient))

    def _patient(self, compared: Compared, study_instance_uid: str, placed_under: str) -> Patient:
        """Whose the study is at the archive, after the merges that it acknowledged."""
        study, survivors = compared.desired.study, compared.desired.survivors
        known = patients.filed_under(self._ledger, self._job.destination_id, study_instance_uid)
        if known is not None:
            return known.as_patient(study.patient)
        survivor = root(placed_under, survivors)
        if survivor == study.patient.patient_key:
            return study.patient
        return self._platform.fetch_patients([survivor]).get(survivor, study.patient)


def rejected(placed: Placed) -> RejectedInstance:
    """A placement as a note names it."""
    return RejectedInstance(
        placed.uids.study_instance_uid,
        placed.uids.series_instance_uid,
        placed.uids.sop_instance_uid,
        placed.sop_class_uid,
    )
