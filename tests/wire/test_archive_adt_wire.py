"""ADT messages sent for real to the archive that holds the patient's studies: what it shows then, and takes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE

from archsync.core.adt import AdtSettings, CharacterSet, MergeTrigger, UpdateTrigger
from archsync.core.rejection import AssigningAuthority, NoteIdentity, NoteSubject, RejectedInstance, RejectionTitle
from archsync.core.study import Facility, Patient
from archsync.core.transfer import Endpoint, OutgoingInstance
from archsync.errors import PeerRefused
from archsync.messages.adt import build_a08, build_a40
from archsync.messages.rejection_note import build_rejection_note, encode_note
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances
from archsync.net.mllp import MllpClient
from archsync.simulate.adt_receiver import AdtScript, Hangup, Reply, SimulatedAdtReceiver
from archsync.simulate.archive import ArrivalKind, IocmRules, LoggedArrival, ShownInstance, SimulatedArchive

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
CITY = Facility("CITY", "City Hospital", "NORTH", "HOSP", "1.2.3.4", "ISO", "SITE")
JANE = Patient("key-1", "MRN-4711", "HOSP", "Doe^Jane", date(1970, 1, 1), "F")
JOHN = Patient("key-2", "MRN-4712", "HOSP", "Roe^John", date(1961, 2, 3), "M")
VNA = AdtSettings(receiving_application="VNA")
A47 = replace(VNA, merge_trigger=MergeTrigger.A47)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SimulatedArchive]:
    """An archive that honours IOCM, empty."""
    with SimulatedArchive(tmp_path / "archive", iocm=IocmRules()) as archive:
        yield archive


@pytest.fixture
def receiver(archive: SimulatedArchive) -> Iterator[SimulatedAdtReceiver]:
    """The archive's own HL7 receiver."""
    with archive.make_adt_receiver() as receiver:
        yield receiver


@pytest.fixture
def client(receiver: SimulatedAdtReceiver) -> Iterator[MllpClient]:
    with MllpClient(*receiver.address, connect_timeout_s=20, ack_timeout_s=20) as client:
        yield client


@pytest.fixture
def image_of(sample, outgoing, tmp_path: Path) -> Callable[..., OutgoingInstance]:
    """Makes an image of a patient, in a new study unless one is given."""

    def make(patient: Patient, study_instance_uid: str | None = None) -> OutgoingInstance:
        image = dcmread(sample("MR_small.dcm"))
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientID, image.IssuerOfPatientID = patient.patient_id, patient.issuer_of_patient_id or ""
        image.PatientName, image.PatientSex = patient.name, patient.sex
        image.PatientBirthDate = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
        image.StudyInstanceUID = study_instance_uid or generate_uid()
        image.SeriesInstanceUID = generate_uid()
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = tmp_path / f"{image.SOPInstanceUID}.dcm"
        image.save_as(path)
        return outgoing(path)

    return make


@pytest.fixture
def note_of(outgoing, tmp_path: Path) -> Callable[..., OutgoingInstance]:
    """Writes a rejection note about an image, with the identity of a patient."""

    def write(
        image: OutgoingInstance,
        patient: Patient,
        change_id: str,
        title: RejectionTitle = RejectionTitle.PATIENT_SAFETY,
    ) -> OutgoingInstance:
        assert image.study_instance_uid is not None
        assert image.series_instance_uid is not None
        note = build_rejection_note(
            NoteSubject(
                study_instance_uid=image.study_instance_uid,
                patient_id=patient.patient_id,
                patient_name=patient.name,
                issuer_of_patient_id=AssigningAuthority(patient.issuer_of_patient_id or ""),
            ),
            [
                RejectedInstance(
                    image.study_instance_uid, image.series_instance_uid, image.sop_instance_uid, image.sop_class_uid
                )
            ],
            title=title,
            identity=NoteIdentity(change_id, "vna1"),
            issued_at=NOW,
            time_zone=UTC,
        )
        path = tmp_path / f"{change_id}.dcm"
        path.write_bytes(encode_note(note, held=[image.sop_instance_uid]))
        return outgoing(path)

    return write


def a08(patient: Patient, change_id: str = "update", settings: AdtSettings = VNA) -> bytes:
    return build_a08(patient, CITY, settings, change_id=change_id, occurred_at=NOW, recorded_at=NOW)


def a40(survivor: Patient, prior: Patient, change_id: str = "merge", settings: AdtSettings = VNA) -> bytes:
    return build_a40(survivor, CITY, prior, settings, change_id=change_id, occurred_at=NOW, recorded_at=NOW)


def store(archive: SimulatedArchive, *instances: OutgoingInstance) -> list[int | None]:
    endpoint = Endpoint(*archive.address, called_ae_title=archive.ae_title)
    return [outcome.status for outcome in store_instances(endpoint, instances)]


def shown_patient(archive: SimulatedArchive, image: OutgoingInstance) -> tuple[str, str, str, str, str]:
    shown = archive.shown()[image.sop_instance_uid]
    return shown.patient_id, shown.issuer, shown.name, shown.birth_date, shown.sex


def as_shown(patient: Patient) -> tuple[str, str, str, str, str]:
    birth_date = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
    return patient.patient_id, patient.issuer_of_patient_id or "", patient.name, birth_date, patient.sex or ""


def find_studies(archive: SimulatedArchive, **keys: str) -> list[Dataset]:
    """What pynetdicom's own client finds."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.SpecificCharacterSet = "ISO_IR 192"
    asked_for = ("StudyInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
    for keyword in asked_for:
        setattr(query, keyword, keys.get(keyword, ""))
    entity = AE()
    entity.add_requested_context(STUDY_ROOT_FIND)
    association = entity.associate(*archive.address, ae_title=archive.ae_title)
    try:
        return [answer for _, answer in association.send_c_find(query, STUDY_ROOT_FIND) if answer is not None]
    finally:
        association.release()


# -- demographics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", UpdateTrigger)
def test_corrected_demographics_are_found_by_queries_and_the_former_ones_no_more(
    archive, client, image_of, trigger
) -> None:
    first, second = image_of(JANE), image_of(JANE)
    other = image_of(JOHN)
    assert store(archive, first, second, other) == [0x0000] * 3
    corrected = replace(JANE, name="Müller^Jürgen^^Dr^MD", birth_date=date(1971, 2, 3), sex="M")
    client.send(a08(corrected, settings=replace(VNA, update_trigger=trigger)))
    found = find_studies(archive, PatientName="Müller*")
    assert {study.StudyInstanceUID for study in found} == {first.study_instance_uid, second.study_instance_uid}
    assert {(str(s.PatientName), s.PatientBirthDate, s.PatientSex) for s in found} == {
        ("Müller^Jürgen^^Dr^MD", "19710203", "M")
    }
    assert find_studies(archive, PatientName="Doe*") == []
    assert shown_patient(archive, other) == as_shown(JOHN)


@pytest.mark.parametrize(
    ("name", "character_set"),
    [
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", CharacterSet.JAPANESE),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", CharacterSet.UTF_8),
        ("=山田^太郎", CharacterSet.UTF_8),
        ("O'Brien|&~^Mary", CharacterSet.ASCII),
        ("Yıldız^Şule^Ay^Prof", CharacterSet.LATIN_5),
    ],
)
def test_a_name_is_shown_as_the_platform_has_it_with_all_its_groups(
    archive, client, image_of, name: str, character_set: CharacterSet
) -> None:
    image = image_of(JANE)
    store(archive, image)
    client.send(a08(replace(JANE, name=name), settings=replace(VNA, character_set=character_set)))
    assert archive.shown()[image.sop_instance_uid].name == name
    (found,) = find_studies(archive, StudyInstanceUID=image.study_instance_uid or "")
    assert str(found.PatientName) == name


def test_an_unknown_sex_is_shown_as_none(archive, client, image_of) -> None:
    image = image_of(JANE)
    store(archive, image)
    client.send(a08(replace(JANE, sex=None)))
    assert archive.shown()[image.sop_instance_uid].sex == ""


def test_later_images_do_not_undo_a_correction(archive, client, image_of) -> None:
    image = image_of(JANE)
    store(archive, image)
    client.send(a08(replace(JANE, name="Right^Name")))
    late = image_of(JANE, image.study_instance_uid)
    assert store(archive, late) == [0x0000]
    assert {shown.name for shown in archive.shown().values()} == {"Right^Name"}


def test_an_update_of_a_patient_nobody_brought_is_refused(archive, client, image_of) -> None:
    image = image_of(JANE)
    store(archive, image)
    with pytest.raises(PeerRefused) as refused:
        client.send(a08(JOHN))
    assert refused.value.code == "adt-unknown-patient"
    assert shown_patient(archive, image) == as_shown(JANE)


def test_a_patient_whose_images_name_no_issuer_gets_it_from_the_message(archive, client, image_of) -> None:
    image = image_of(replace(JANE, issuer_of_patient_id=None))
    store(archive, image)
    assert archive.shown()[image.sop_instance_uid].issuer == ""
    client.send(a08(JANE))
    assert shown_patient(archive, image) == as_shown(JANE)


def test_the_same_id_of_another_issuer_stays_as_it_was(archive, client, image_of) -> None:
    here, elsewhere = image_of(JANE), image_of(replace(JANE, issuer_of_patient_id="NORTH", name="Other^Person"))
    store(archive, here, elsewhere)
    client.send(a08(replace(JANE, name="Right^Name")))
    assert archive.shown()[here.sop_instance_uid].name == "Right^Name"
    assert archive.shown()[elsewhere.sop_instance_uid].name == "Other^Person"


# -- merges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_known", [True, False], ids=["survivor known", "survivor unknown"])
def test_a_merge_moves_all_studies_to_the_survivor(archive, client, image_of, is_known: bool) -> None:
    moved = [image_of(JOHN), image_of(JOHN)]
    own = [image_of(JANE)] if is_known else []
    store(archive, *moved, *own)
    client.send(a40(JANE, JOHN))
    assert {shown_patient(archive, image) for image in (*moved, *own)} == {as_shown(JANE)}
    assert find_studies(archive, PatientID="MRN-4712") == []
    assert len(find_studies(archive, PatientID="MRN-4711", IssuerOfPatientID="HOSP")) == 2 + is_known


def test_a_change_of_identifier_moves_all_studies_unless_the_new_one_is_in_use(archive, client, image_of) -> None:
    jane, john = image_of(JANE), image_of(JOHN)
    store(archive, jane, john)
    with pytest.raises(PeerRefused) as refused:
        client.send(a40(JANE, JOHN, "into Jane", A47))
    assert refused.value.code == "adt-identifier-in-use"
    renamed = replace(JOHN, patient_id="MRN-4713")
    client.send(a40(renamed, JOHN, "to a new one", A47))
    assert shown_patient(archive, john) == as_shown(renamed)
    assert shown_patient(archive, jane) == as_shown(JANE)


def test_a_chain_of_merges_ends_at_the_last_survivor(archive, client, image_of) -> None:
    last = replace(JANE, patient_id="MRN-4799")
    image = image_of(JOHN)
    store(archive, image)
    client.send(a40(JANE, JOHN, "one"))
    client.send(a40(last, JANE, "two"))
    assert shown_patient(archive, image) == as_shown(last)


def test_an_update_of_an_identity_that_was_merged_away_is_refused(archive, client, image_of) -> None:
    image = image_of(JOHN)
    store(archive, image)
    client.send(a40(JANE, JOHN))
    with pytest.raises(PeerRefused) as refused:
        client.send(a08(JOHN))
    assert refused.value.code == "adt-unknown-patient"
    assert shown_patient(archive, image) == as_shown(JANE)


def test_a_merge_that_was_done_before_is_refused_with_204_at_the_old_identifier(archive, client, image_of) -> None:
    store(archive, image_of(JOHN))
    client.send(a40(JANE, JOHN))
    with pytest.raises(PeerRefused) as refused:
        client.send(a40(JANE, JOHN, "again"))
    assert refused.value.code == "adt-merge-unclear"
    assert archive.arrivals[-1].status == "AR 204"


def test_a_merge_of_an_identity_nobody_knows_is_taken_unless_the_receiver_is_told_otherwise(
    archive, receiver, client
) -> None:
    receiver.behave(AdtScript(refuses_unknown_merges=True))
    with pytest.raises(PeerRefused) as refused:
        client.send(a40(JANE, JOHN, "one"))
    assert refused.value.code == "adt-merge-unclear"
    assert archive.patients == {}
    receiver.behave()
    client.send(a40(JANE, JOHN, "two"))
    assert archive.patients["MRN-4712^HOSP"].merged_into == "MRN-4711^HOSP"


def test_images_that_come_with_a_merged_identity_are_filed_under_the_survivor(archive, client, image_of) -> None:
    image = image_of(JOHN)
    store(archive, image)
    client.send(a40(JANE, JOHN))
    late, elsewhere = image_of(JOHN, image.study_instance_uid), image_of(JOHN)
    assert store(archive, late, elsewhere) == [0x0000] * 2
    assert {shown_patient(archive, i) for i in (image, late, elsewhere)} == {as_shown(JANE)}


# -- notes and the identity of the day -------------------------------------------------------------------------------


def test_a_note_with_the_new_identity_is_refused_before_the_merge_and_taken_after_it(
    archive, client, image_of, note_of
) -> None:
    image = image_of(JOHN)
    note = note_of(image, JANE, "early")
    assert store(archive, image, note) == [0x0000, 0xA778]
    assert image.sop_instance_uid in archive.shown()
    client.send(a40(JANE, JOHN))
    assert store(archive, note) == [0x0000]
    assert archive.rejected == {image.sop_instance_uid: "113037"}
    assert image.sop_instance_uid not in archive.shown()


def test_a_note_with_the_old_identity_is_taken_for_the_survivors(archive, client, image_of, note_of) -> None:
    image = image_of(JOHN)
    store(archive, image)
    client.send(a40(JANE, JOHN))
    assert store(archive, note_of(image, JOHN, "late")) == [0x0000]
    assert set(archive.rejected) == {image.sop_instance_uid}


def test_after_a_merge_an_image_of_anybody_else_is_still_refused(archive, client, image_of) -> None:
    image = image_of(JOHN)
    store(archive, image)
    client.send(a40(JANE, JOHN))
    stranger = replace(JANE, patient_id="MRN-9999")
    assert store(archive, image_of(stranger, image.study_instance_uid)) == [0xA778]


# -- the log, and restarts -------------------------------------------------------------------------------------------


def test_all_is_as_it_was_after_a_restart(tmp_path, archive, client, image_of, note_of) -> None:
    image, hidden, jane = image_of(JOHN), image_of(JOHN), image_of(JANE)
    store(archive, image, hidden, jane)
    client.send(a40(JANE, JOHN, "one"))
    client.send(a08(replace(JANE, name="Right^Name"), "two"))
    store(archive, note_of(hidden, JANE, "note"), image_of(JOHN, image.study_instance_uid), hidden)
    with pytest.raises(PeerRefused):
        client.send(a08(JOHN, "three"))
    shown, rejected, arrivals = dict(archive.shown()), dict(archive.rejected), archive.arrivals
    patients = dict(archive.patients)
    assert {(s.patient_id, s.name) for s in shown.values()} == {("MRN-4711", "Right^Name")}
    archive.stop()
    for _ in range(2):
        with SimulatedArchive(tmp_path / "archive", iocm=IocmRules()) as again:
            assert dict(again.shown()) == shown
            assert dict(again.rejected) == rejected == {hidden.sop_instance_uid: "113037"}
            assert dict(again.patients) == patients
            assert again.arrivals == arrivals
            assert store(again, hidden) == [0xA771]
            arrivals = again.arrivals


def test_the_same_archive_started_again_remembers_too(archive, receiver, client, image_of) -> None:
    image = image_of(JOHN)
    store(archive, image)
    client.send(a40(JANE, JOHN))
    archive.stop()
    archive.start()
    assert shown_patient(archive, image) == as_shown(JANE)
    client.send(a08(replace(JANE, name="Right^Name")))
    assert archive.shown()[image.sop_instance_uid].name == "Right^Name"


def test_a_log_that_ends_in_half_a_line_is_gone_on_with(tmp_path, archive, image_of) -> None:
    image, late = image_of(JANE), image_of(JANE)
    store(archive, image)
    archive.stop()
    log = tmp_path / "archive" / "arrivals.jsonl"
    log.write_text(log.read_text() + log.read_text()[:40])
    with SimulatedArchive(tmp_path / "archive", iocm=IocmRules()) as again:
        assert store(again, late) == [0x0000]
    with SimulatedArchive(tmp_path / "archive", iocm=IocmRules()) as again:
        assert [arrival.uid for arrival in again.arrivals] == [image.sop_instance_uid, late.sop_instance_uid]
        assert set(again.shown()) == {image.sop_instance_uid, late.sop_instance_uid}


def test_the_log_says_what_came_in_which_order_and_what_was_answered(
    archive, receiver, client, image_of, note_of
) -> None:
    image = image_of(JOHN)
    note = note_of(image, JANE, "note")
    store(archive, image, note)
    client.send(a40(JANE, JOHN))
    store(archive, note, note, image)
    receiver.behave(AdtScript(replies=(Reply(hangup=Hangup.BEFORE_ACK),)))
    client.send(a08(JANE))  # which repeats it by itself
    arrivals = archive.arrivals
    merge, update = (received.control_id for received in (receiver.received[0], receiver.received[1]))
    assert [(a.kind, a.uid, a.status, a.is_kept) for a in arrivals] == [
        (ArrivalKind.IMAGE, image.sop_instance_uid, "0000", True),
        (ArrivalKind.NOTE, note.sop_instance_uid, "A778", False),
        (ArrivalKind.ADT, merge, "AA", True),
        (ArrivalKind.NOTE, note.sop_instance_uid, "0000", True),
        (ArrivalKind.NOTE, note.sop_instance_uid, "0000", False),
        (ArrivalKind.IMAGE, image.sop_instance_uid, "A771", False),
        (ArrivalKind.ADT, update, None, True),
        (ArrivalKind.ADT, update, "AA", True),
    ]
    assert {a.digest for a in arrivals if a.kind is ArrivalKind.NOTE} == {arrivals[1].digest}
    assert arrivals[6].digest == arrivals[7].digest != arrivals[2].digest
    assert arrivals[5].digest == arrivals[0].digest != arrivals[1].digest
    assert arrivals[1].names == (image.sop_instance_uid,)
    assert (arrivals[2].trigger, arrivals[2].names) == ("A40", ("MRN-4711^HOSP", "MRN-4712^HOSP"))


def test_without_iocm_messages_count_all_the_same(tmp_path, image_of, note_of) -> None:
    image = image_of(JOHN)
    note = note_of(image, JOHN, "note")
    with (
        SimulatedArchive(tmp_path / "plain") as archive,
        archive.make_adt_receiver() as receiver,
        MllpClient(*receiver.address, ack_timeout_s=20) as client,
    ):
        assert store(archive, image, note) == [0x0000] * 2
        client.send(a40(JANE, JOHN))
        assert shown_patient(archive, image) == as_shown(JANE)
        assert set(archive.shown()) == {image.sop_instance_uid, note.sop_instance_uid}
        assert archive.rejected == {}


def test_nothing_shown_or_logged_gives_a_patient_away_when_printed(archive, client, image_of, caplog) -> None:
    caplog.set_level("DEBUG", logger="archsync")
    store(archive, image_of(JANE))
    client.send(a40(replace(JOHN, name="Planted^Name"), JANE))
    printed = f"{dict(archive.shown())} {archive.arrivals} {caplog.text}"
    assert ShownInstance.__name__ in printed
    assert LoggedArrival.__name__ in printed
    assert [planted for planted in ("Planted", "MRN-4711", "MRN-4712", "19700101") if planted in printed] == []


# -- as a process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "title", "status", "is_hidden"),
    [
        ([], RejectionTitle.PATIENT_SAFETY, 0xA771, True),
        ([], RejectionTitle.QUALITY, 0x0000, True),
        (["--shows-quality-rejects"], RejectionTitle.PATIENT_SAFETY, 0xA771, True),
        (["--shows-quality-rejects"], RejectionTitle.QUALITY, 0x0000, False),
        (["--no-iocm"], RejectionTitle.PATIENT_SAFETY, 0x0000, False),
    ],
)
def test_from_the_command_line_it_takes_notes_and_messages(
    tmp_path, image_of, note_of, options: list[str], title: RejectionTitle, status: int, is_hidden: bool
) -> None:
    folder = tmp_path / "process"
    command = [sys.executable, "-m", "archsync", "simulate", "archive", "--folder", str(folder)]
    command += ["--port", "0", "--adt-port", "0", *options]
    image, hidden = image_of(JOHN), image_of(JOHN)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split("port ")[1].split(",")[0])
            adt_port = int(process.stdout.readline().rsplit(" ", 1)[1])
            endpoint = Endpoint("127.0.0.1", port, called_ae_title="SIMARCHIVE")
            to_send = [image, hidden, note_of(hidden, JOHN, "note", title), hidden]
            assert [o.status for o in store_instances(endpoint, to_send)] == [0, 0, 0, status]
            found = find_instances(endpoint, hidden.study_instance_uid, [hidden.series_instance_uid])
            assert found == (set() if is_hidden else {hidden.sop_instance_uid})
            with MllpClient("127.0.0.1", adt_port, ack_timeout_s=20) as client:
                client.send(a40(JANE, JOHN))
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "MRN-4711" not in log
    assert "Traceback" not in log
    with SimulatedArchive(folder) as archive:
        assert shown_patient(archive, image) == as_shown(JANE)


def test_the_setting_about_quality_needs_iocm(tmp_path) -> None:
    command = [sys.executable, "-m", "archsync", "simulate", "archive", "--folder", str(tmp_path / "a"), "--port", "0"]
    done = subprocess.run(
        [*command, "--no-iocm", "--shows-quality-rejects"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--iocm" in done.stderr
