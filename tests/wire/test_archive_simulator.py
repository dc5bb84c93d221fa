"""The simulated archive itself, asked by pynetdicom's own client rather than by ours."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dsutils import split_dataset
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRoot

from archsync.core.transfer import Endpoint
from archsync.errors import ConfigurationError, PeerUnavailable
from archsync.net.dicom.echo import echo
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import RUDENESS_FILE, ChosenStatus, Rudeness, SimulatedArchive


@pytest.fixture
def client(archive):
    """Associates for C-FIND and MR storage with pynetdicom."""
    associations = []

    def associate():
        entity = AE(ae_title="CLIENT")
        entity.add_requested_context(StudyRoot)
        entity.add_requested_context("1.2.840.10008.5.1.4.1.1.4", ImplicitVRLittleEndian)
        association = entity.associate(*archive.address)
        assert association.is_established
        associations.append(association)
        return association

    yield associate
    for association in associations:
        association.release()


def find(association, level, **keys):
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    *matches, (last, _) = association.send_c_find(query, StudyRoot)
    assert all(status.Status == 0xFF00 for status, _ in matches)
    return last.Status, [match for _, match in matches]


@pytest.fixture
def filled(archive, endpoint, sample, outgoing):
    """An archive with three studies of different patients."""
    names = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm")
    list(store_instances(endpoint, [outgoing(sample(name)) for name in names]))
    return {name: dcmread(sample(name)) for name in names}


def test_studies_are_found_by_uid_list_wild_card_and_date_range(client, filled):
    ct, mr, sc = filled.values()
    association = client()
    every = {d.StudyInstanceUID for d in filled.values()}
    assert {m.StudyInstanceUID for m in find(association, "STUDY", StudyInstanceUID="")[1]} == every
    _, two = find(association, "STUDY", StudyInstanceUID=[ct.StudyInstanceUID, mr.StudyInstanceUID])
    assert {m.StudyInstanceUID for m in two} == {ct.StudyInstanceUID, mr.StudyInstanceUID}
    _, (one,) = find(association, "STUDY", PatientName="CompressedSamples^CT*", PatientID="", StudyInstanceUID="")
    assert (one.StudyInstanceUID, one.PatientID) == (ct.StudyInstanceUID, ct.PatientID)
    _, dated = find(association, "STUDY", StudyDate=f"{ct.StudyDate}-{ct.StudyDate}", StudyInstanceUID="")
    assert {m.StudyInstanceUID for m in dated} == {
        d.StudyInstanceUID for d in filled.values() if d.StudyDate == ct.StudyDate
    }
    assert find(association, "STUDY", PatientName="NOBODY^*", StudyInstanceUID="")[1] == []
    assert sc.StudyInstanceUID in every


def test_series_and_images_are_found_with_counts(client, filled):
    ct = filled["CT_small.dcm"]
    association = client()
    _, (study,) = find(
        association,
        "STUDY",
        StudyInstanceUID=ct.StudyInstanceUID,
        NumberOfStudyRelatedInstances="",
        NumberOfStudyRelatedSeries="",
    )
    assert (study.NumberOfStudyRelatedInstances, study.NumberOfStudyRelatedSeries) == (1, 1)
    _, (series,) = find(association, "SERIES", StudyInstanceUID=ct.StudyInstanceUID, SeriesInstanceUID="", Modality="")
    assert (series.SeriesInstanceUID, series.Modality) == (ct.SeriesInstanceUID, "CT")
    _, (image,) = find(
        association,
        "IMAGE",
        StudyInstanceUID=ct.StudyInstanceUID,
        SeriesInstanceUID=ct.SeriesInstanceUID,
        SOPInstanceUID="",
        SOPClassUID="",
    )
    assert (image.SOPInstanceUID, image.SOPClassUID) == (ct.SOPInstanceUID, ct.SOPClassUID)


def test_a_query_without_a_level_of_the_model_is_refused(client, filled):
    assert find(client(), "PATIENT", PatientID="")[0] == 0xA900


def test_what_is_on_disk_is_held_after_a_restart(archive, filled, client, tmp_path):
    before = dict(archive.stored)
    archive.stop()
    (tmp_path / "archive" / "1.2" / "3").mkdir(parents=True)
    (tmp_path / "archive" / "1.2" / "3" / "broken.dcm").write_bytes(b"not DICOM")
    archive.start()
    assert dict(archive.stored) == before
    assert len(find(client(), "STUDY", StudyInstanceUID="")[1]) == 3


@pytest.mark.parametrize("uid", ["../../escape", "1..2", "", "/etc/passwd", "a" * 64, "1.2\\3", ".."])
def test_odd_uids_stay_in_the_folder(archive, client, sample, uid, tmp_path):
    data_set = dcmread(sample("MR_small_implicit.dcm"))
    with disable_value_validation():
        data_set.StudyInstanceUID = data_set.SeriesInstanceUID = uid
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "archive")}
    status = client().send_c_store(data_set)
    assert status.Status == 0x0000
    stored = archive.stored[data_set.SOPInstanceUID]
    assert stored.path.is_relative_to(tmp_path / "archive")
    assert ".." not in stored.path.parts
    assert stored.path.relative_to(tmp_path / "archive").parts[2:] == (f"{data_set.SOPInstanceUID}.dcm",)
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "archive")} == before


def test_a_data_set_without_a_study_is_not_understood(archive, client, sample):
    data_set = dcmread(sample("MR_small_implicit.dcm"))
    del data_set.StudyInstanceUID
    assert client().send_c_store(data_set).Status == 0xC000
    assert archive.stored == {}


def test_a_second_store_of_one_instance_replaces_the_first(archive, endpoint, outgoing, copies):
    (path,) = copies(1)
    list(store_instances(endpoint, [outgoing(path)]))
    data_set = dcmread(path)
    data_set.ImageComments = "later"
    data_set.save_as(path)
    list(store_instances(endpoint, [outgoing(path)]))
    (stored,) = archive.stored.values()
    assert stored.path.read_bytes()[split_dataset(stored.path)[1] :] == path.read_bytes()[split_dataset(path)[1] :]
    assert list(stored.path.parent.iterdir()) == [stored.path]


def test_a_status_for_one_instance_is_given_as_often_as_told(archive, endpoint, outgoing, copies):
    instances = [outgoing(path) for path in copies(2)]
    archive.behave(
        Rudeness(statuses=(ChosenStatus(status=0xC000, sop_instance_uid=instances[1].sop_instance_uid, times=2),))
    )
    statuses = [[o.status for o in store_instances(endpoint, instances)] for _ in range(3)]
    assert statuses == [[0, 0xC000], [0, 0xC000], [0, 0]]


def test_a_warning_is_given_after_storing(archive, endpoint, outgoing, copies):
    (path,) = copies(1)
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0xB000, nth=1),)))
    (outcome,) = store_instances(endpoint, [outgoing(path)])
    assert outcome.instance.sop_instance_uid in archive.stored


def test_a_port_in_use_is_reported(archive, tmp_path):
    with pytest.raises(ConfigurationError, match=f"port {archive.address[1]}"):
        SimulatedArchive(tmp_path / "other", archive.address[1]).start()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not JSON", "Expecting value"),
        ("[]", "rudeness.json"),
        ('{"refuse_asociations": 2}', "refuse_asociations"),
        ('{"refuse_associations": "two"}', "refuse_associations"),
        ('{"check_called_ae_title": 1}', "check_called_ae_title"),
        ('{"statuses": [{"nth": 1}]}', "status"),
    ],
)
def test_rudeness_with_mistakes_is_refused(text, problem):
    with pytest.raises(ConfigurationError, match=problem):
        Rudeness.from_json(text)


def test_rudeness_can_be_written_as_json():
    text = json.dumps(
        {
            "refuse_associations": 2,
            "store_delay_s": 0.5,
            "accept_transfer_syntaxes": ["1.2.840.10008.1.2"],
            "statuses": [{"status": "A700", "nth": 3, "times": 2}, {"status": 272, "sop_instance_uid": "1.2.3"}],
        }
    )
    assert Rudeness.from_json(text) == Rudeness(
        refuse_associations=2,
        store_delay_s=0.5,
        accept_transfer_syntaxes=("1.2.840.10008.1.2",),
        statuses=(
            ChosenStatus(status=0xA700, nth=3, times=2),
            ChosenStatus(status=0x0110, sop_instance_uid="1.2.3"),
        ),
    )


RUN = """
import sys
from pathlib import Path
from archsync.simulate.run_archive import run_archive
run_archive(Path(sys.argv[1]), 0, ae_title="DEMO", announce=lambda line: print(line, flush=True), poll_s=0.05)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_as_a_process_it_obeys_its_control_file_and_ends_on_a_signal(number, tmp_path, copies, outgoing):
    folder = tmp_path / "archive"
    folder.mkdir()
    control = folder / RUDENESS_FILE
    control.write_text('{"refuse_associations": 999}')
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        port = int(line.split("port ")[1].split(",")[0])
        endpoint = Endpoint("127.0.0.1", port, called_ae_title="DEMO")
        with pytest.raises(PeerUnavailable, match="congested"):
            echo(endpoint)
        control.write_text('{"refuse_associations": "nonsense"}')
        with pytest.raises(PeerUnavailable, match="congested"):
            echo(endpoint)
        control.write_text("{}")
        _until_polite(endpoint)
        (path,) = copies(1)
        instance = outgoing(path)
        assert next(store_instances(endpoint, [instance])).result.is_stored
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Traceback" not in errors
    (stored,) = folder.glob("*/*/*.dcm")
    assert stored.name == f"{instance.sop_instance_uid}.dcm"


def _until_polite(endpoint):
    deadline = time.monotonic() + 20
    while True:
        try:
            echo(endpoint)
            return
        except PeerUnavailable:
            assert time.monotonic() < deadline, "the control file was never read"


def test_nothing_of_the_patient_is_logged(archive, endpoint, sample, outgoing, client, caplog):
    caplog.set_level("DEBUG", logger="archsync")
    instance = outgoing(sample("CT_small.dcm"))
    list(store_instances(endpoint, [instance]))
    find(client(), "STUDY", PatientName="CompressedSamples*", StudyInstanceUID=generate_uid())
    assert instance.sop_instance_uid in caplog.text
    assert "CompressedSamples" not in caplog.text


def test_folders_are_named_by_study_and_series(archive, endpoint, sample, outgoing):
    instance = outgoing(sample("CT_small.dcm"))
    list(store_instances(endpoint, [instance]))
    path = archive.stored[instance.sop_instance_uid].path
    assert path.parts[-3:-1] == (instance.study_instance_uid, instance.series_instance_uid)
