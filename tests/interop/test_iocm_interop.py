"""Rejection notes and replacement instances at archives of other makers, and studies split and merged UID by UID.

Orthanc and dcmqrscp store a note and hide nothing; the simulated archive, which shares no code with the sender, judges
what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom import FileDataset, dcmread
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from archsync.core.fitting import Fitting, Modification
from archsync.core.rejection import NoteIdentity, NoteSubject, RejectedInstance, RejectionTitle, derive_uid
from archsync.core.study import Facility, Patient, Study
from archsync.core.transfer import Endpoint, OutgoingInstance
from archsync.core.uid_map import InstanceUids, Placement, UidMap, series_uid_in
from archsync.messages.rejection_note import build_rejection_note, encode_note
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import IocmRules, SimulatedArchive

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
FOLDERS = {"77654033": ("77654033",), "98890234": ("98892001", "98892003")}
NOW = datetime(2026, 3, 9, 14, 5, 6, tzinfo=UTC)
FACILITY = Facility("f-1", "North", "NORTH", "HOSP", "1.2.999.1", "ISO")


class Judge:
    """The simulated archive, seen like the others."""

    def __init__(self, archive: SimulatedArchive) -> None:
        self.archive = archive
        self.ae_title = archive.ae_title
        self.dicom_port = archive.address[1]

    def held(self) -> dict[str, FileDataset]:
        """Everything it holds, by SOP Instance UID."""
        return {uid: dcmread(stored.path) for uid, stored in self.archive.stored.items()}


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Judge]:
    """An archive that honours IOCM, empty."""
    with SimulatedArchive(tmp_path / "judge", iocm=IocmRules()) as archive:
        yield Judge(archive)


@pytest.fixture(params=["judge", "orthanc", "dcmqrscp"])
def peer(request: pytest.FixtureRequest):
    """Each archive in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def endpoint(peer, peer_at: Callable[..., Endpoint]) -> Endpoint:
    return peer_at(peer.dicom_port, peer.ae_title)


@dataclass(frozen=True)
class Source:
    """One file of a sample patient."""

    path: Path
    header: Dataset

    @property
    def uids(self) -> InstanceUids:
        return InstanceUids(self.header.StudyInstanceUID, self.header.SeriesInstanceUID, self.header.SOPInstanceUID)


def sources_of(patient_id: str) -> list[Source]:
    """All images of a sample patient, in the order of their UIDs."""
    paths = [path for folder in FOLDERS[patient_id] for path in (SAMPLES / folder).rglob("*") if path.is_file()]
    sources = [Source(path, dcmread(path)) for path in paths]
    assert {source.header.PatientID for source in sources} == {patient_id}
    return sorted(sources, key=lambda source: source.uids)


def studies_of(sources: list[Source]) -> dict[str, list[Source]]:
    studies: dict[str, list[Source]] = {}
    for source in sources:
        studies.setdefault(source.header.StudyInstanceUID, []).append(source)
    return studies


def store(endpoint: Endpoint, instances: list[OutgoingInstance]) -> None:
    assert {(o.status, o.result.is_stored) for o in store_instances(endpoint, instances)} == {(0x0000, True)}


def fitted(sources: list[Source], news: dict[str, InstanceUids], uid_map: UidMap) -> list[OutgoingInstance]:
    """The replacements of sources, to be sent; all go to one study."""
    (study_uid,) = {news[source.header.SOPInstanceUID].study_instance_uid for source in sources}
    header = sources[0].header
    patient = Patient("p-1", header.PatientID, "HOSP", str(header.PatientName), date(1961, 2, 3), "M")
    study = Study("s-1", study_uid, patient, FACILITY, "Completed", accession_number="ACC-9", description="Right study")
    fitting = Fitting(
        uid_map=uid_map,
        study=study,
        patient=patient,
        modification=Modification(modified_at=NOW, modifying_system="archsync"),
    )
    return [
        OutgoingInstance(
            instance_key=source.path.name,
            sop_class_uid=source.header.SOPClassUID,
            sop_instance_uid=news[source.header.SOPInstanceUID].sop_instance_uid,
            transfer_syntax_uid=source.header.file_meta.TransferSyntaxUID,
            location=source.path.as_uri(),
            study_instance_uid=study_uid,
            series_instance_uid=news[source.header.SOPInstanceUID].series_instance_uid,
            source_sop_instance_uid=source.header.SOPInstanceUID,
            fitting=fitting,
        )
        for source in sources
    ]


def note_about(sources: list[Source], folder: Path, outgoing, title: RejectionTitle) -> OutgoingInstance:
    """A rejection note about sources of one study, to be sent."""
    header = sources[0].header
    note = build_rejection_note(
        NoteSubject(
            study_instance_uid=header.StudyInstanceUID,
            patient_id=header.PatientID,
            patient_name=str(header.PatientName),
        ),
        [
            RejectedInstance(s.uids.study_instance_uid, s.uids.series_instance_uid, s.uids.sop_instance_uid,
                             s.header.SOPClassUID)
            for s in sources
        ],
        title=title,
        identity=NoteIdentity(f"change-{title.value}", "vna1"),
        issued_at=NOW,
        time_zone=UTC,
    )  # fmt: skip
    path = folder / f"note-{title.value}.dcm"
    path.write_bytes(encode_note(note, held=[source.header.SOPInstanceUID for source in sources]))
    return outgoing(path)


def evidence_bytes(note: Dataset) -> bytes:
    """The references of a note, encoded: how a peer wrote down the lengths of sequences is its own affair."""
    part = Dataset()
    part.CurrentRequestedProcedureEvidenceSequence = note.CurrentRequestedProcedureEvidenceSequence
    part.ContentSequence = note.ContentSequence
    part.ConceptNameCodeSequence = note.ConceptNameCodeSequence
    encoded = encode(part, is_implicit_vr=True, is_little_endian=True)
    assert encoded
    return encoded


def evidence_uids(note: Dataset) -> list[str]:
    return [
        str(reference.ReferencedSOPInstanceUID)
        for study in note.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


def every_uid(data_set: Dataset) -> set[str]:
    """All UIDs at any depth, but for the record of what they were before, and frames of reference.

    The latter stay as they are, and in these samples they happen to be the same as a study's UID.
    """
    found: set[str] = set()
    for element in data_set:
        if element.keyword in ("OriginalAttributesSequence", "FrameOfReferenceUID"):
            continue
        if element.VR == "SQ":
            for item in element.value:
                found |= every_uid(item)
        elif element.VR == "UI" and element.value:
            found |= {str(value) for value in ([element.value] if isinstance(element.value, str) else element.value)}
    return found


@pytest.mark.parametrize("title", RejectionTitle)
def test_a_note_is_stored_and_read_back_with_the_same_references(
    peer, endpoint, outgoing, tmp_path, title: RejectionTitle
) -> None:
    study = next(iter(studies_of(sources_of("77654033")).values()))
    store(endpoint, [outgoing(source.path) for source in study])
    note = note_about(study, tmp_path, outgoing, title)
    store(endpoint, [note, note])  # a resend is a success, too
    sent = dcmread(Path(note.location.removeprefix("file://")))
    held = peer.held()[note.sop_instance_uid]
    assert evidence_bytes(held) == evidence_bytes(sent)
    assert held == sent
    shown = set()
    for series in {source.header.SeriesInstanceUID for source in study}:
        shown |= find_instances(endpoint, study[0].header.StudyInstanceUID, [series])
    # only an archive that honours IOCM hides anything
    assert shown == (set() if isinstance(peer, Judge) else {source.header.SOPInstanceUID for source in study})


@dataclass(frozen=True)
class Change:
    """Sources that move from one study into another; those that stay; those that were in the target before."""

    moved: list[Source]
    kept: list[Source]
    target_study: str
    own: list[Source]


def splits(patient_id: str) -> Iterator[Change]:
    """Each study with several series: its last series and one image more go to a new study."""
    for uid, study in studies_of(sources_of(patient_id)).items():
        series = sorted({source.header.SeriesInstanceUID for source in study})
        if len(series) < 2:
            continue
        moved = [source for source in study if source.header.SeriesInstanceUID == series[-1]]
        moved.append(next(source for source in study if source.header.SeriesInstanceUID == series[0]))
        kept = [source for source in study if source not in moved]
        yield Change(moved, kept, derive_uid("split", uid), [])


def merges(patient_id: str) -> Iterator[Change]:
    """Each study but the first goes into the first."""
    first, *others = studies_of(sources_of(patient_id)).items()
    for _, study in others:
        yield Change(study, [], first[0], first[1])


CHANGES = [
    pytest.param(change, id=f"{make.__name__[:-1]} {patient_id} {number}")
    for make in (splits, merges)
    for patient_id in FOLDERS
    for number, change in enumerate(make(patient_id), start=1)
]


def test_the_samples_have_studies_to_split_and_to_merge() -> None:
    assert [len(list(make(patient_id))) for make in (splits, merges) for patient_id in FOLDERS] == [1, 4, 1, 3]


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_split_or_merge_every_instance_is_where_it_belongs_and_only_once(
    peer, endpoint, outgoing, tmp_path, change: Change
) -> None:
    before_change = [*change.moved, *change.kept, *change.own]
    store(endpoint, [outgoing(source.path) for source in before_change])
    before = set(peer.held())
    assert before == {source.header.SOPInstanceUID for source in before_change}

    news = {
        source.header.SOPInstanceUID: InstanceUids(
            change.target_study,
            series_uid_in(
                source.header.SeriesInstanceUID,
                study_instance_uid=change.target_study,
                bound_study_instance_uid=source.header.StudyInstanceUID,
            ),
            Placement(source.path.as_posix(), 1, 2).sop_instance_uid,
        )
        for source in change.moved
    }
    stays = [(source.uids, source.uids) for source in (*change.kept, *change.own)]
    moves = [(source.uids, news[source.header.SOPInstanceUID]) for source in change.moved]
    replacements = fitted(change.moved, news, UidMap.of([*stays, *moves]))
    note = note_about(change.moved, tmp_path, outgoing, RejectionTitle.WRONG_WORKLIST_ENTRY)
    store(endpoint, replacements)
    store(endpoint, [note])
    store(endpoint, [*replacements, note])  # again after a crash: the same UIDs and bytes, so nothing more

    held = peer.held()
    rejected = evidence_uids(held[note.sop_instance_uid])
    kept = {source.header.SOPInstanceUID for source in (*change.kept, *change.own)}
    assert len(rejected) == len(set(rejected)) == len(change.moved)
    assert (set(rejected) | kept, set(rejected) & kept) == (before, set())

    new = {uid: held[uid] for uid in held.keys() - before - {note.sop_instance_uid}}
    replaced = {uids.sop_instance_uid: old for old, uids in news.items()}
    assert new.keys() == replaced.keys()
    assert sorted(replaced.values()) == sorted(rejected)

    old_uids = {uid for source in change.moved for uid in (source.header.SOPInstanceUID, *source_places(source))}
    sources = {source.header.SOPInstanceUID: source.header for source in change.moved}
    for uid, replacement in new.items():
        source = sources[replaced[uid]]
        assert every_uid(replacement) & old_uids == set()
        assert replacement.file_meta.MediaStorageSOPInstanceUID == uid
        assert replacement.StudyInstanceUID == change.target_study
        assert replacement.get("FrameOfReferenceUID") == source.get("FrameOfReferenceUID")
        assert replacement.PixelData == source.PixelData
    for old_series in {source.header.SeriesInstanceUID for source in change.moved}:
        together = {replacement.SeriesInstanceUID for uid, replacement in new.items()
                    if sources[replaced[uid]].SeriesInstanceUID == old_series}  # fmt: skip
        assert len(together) == 1
    assert {held[uid].StudyInstanceUID for uid in rejected} == {change.moved[0].header.StudyInstanceUID}

    if isinstance(peer, Judge):
        shown = peer.archive.shown()
        assert shown.keys() == kept | new.keys() | {note.sop_instance_uid}
        assert {uid for uid, i in shown.items() if i.study_instance_uid == change.target_study} == (
            new.keys() | {source.header.SOPInstanceUID for source in change.own}
        )


def source_places(source: Source) -> tuple[str, str]:
    """The study and series that a moved image was in."""
    return source.header.StudyInstanceUID, source.header.SeriesInstanceUID
