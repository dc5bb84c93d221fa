"""Orthanc as archive: what it holds after our C-STORE, seen through its REST interface."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydicom import dcmread
from pynetdicom.dsutils import split_dataset

from archsync.core.transfer import StoreResult
from archsync.errors import DestinationMisconfigured
from archsync.net.dicom.echo import diagnose, echo
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances

NAMES = (
    *("CT_small.dcm", "MR_small_implicit.dcm", "ExplVR_BigEnd.dcm", "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm"),
    *("GDCMJ2K_TextGBR.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    *("waveform_ecg.dcm", "reportsi.dcm", "examples_ybr_color.dcm"),
)


# Orthanc writes files anew: group lengths, and lengths of sequences that were undefined, come out otherwise.
REWRITTEN = ("JPEG2000.dcm", "waveform_ecg.dcm", "reportsi.dcm", "examples_ybr_color.dcm")


def data_set_bytes(path):
    return path.read_bytes()[split_dataset(path)[1] :]


@pytest.fixture
def endpoint(orthanc, peer_at):
    return peer_at(orthanc.dicom_port, "ORTHANC")


def test_orthanc_holds_every_value_and_where_it_keeps_them_every_byte(orthanc, endpoint, sample, outgoing, tmp_path):
    sources = {}
    for name in NAMES:
        instance = outgoing(sample(name))
        sources.setdefault(instance.sop_instance_uid, (sample(name), instance))
    outcomes = list(store_instances(endpoint, [instance for _, instance in sources.values()]))
    assert [outcome.result for outcome in outcomes] == [StoreResult.STORED] * len(sources)
    held = tmp_path / "held.dcm"
    for outcome in outcomes:
        source, instance = sources[outcome.instance.sop_instance_uid]
        assert outcome.sent_transfer_syntax_uid == instance.transfer_syntax_uid, source.name
        held.write_bytes(orthanc.file_of(instance.sop_instance_uid))
        assert dcmread(held) == dcmread(source), source.name
        if source.name not in REWRITTEN:
            assert data_set_bytes(held) == data_set_bytes(source), source.name


def test_orthanc_lists_what_it_holds(endpoint, sample, outgoing):
    instances = [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small.dcm"))]
    ct = instances[0]
    assert find_instances(endpoint, ct.study_instance_uid, [ct.series_instance_uid]) == set()
    list(store_instances(endpoint, instances))
    assert find_instances(endpoint, ct.study_instance_uid, [ct.series_instance_uid]) == {ct.sop_instance_uid}


def test_orthanc_passes_the_diagnosis(endpoint):
    assert [step for step in diagnose(endpoint) if not step.ok] == []


def test_orthanc_names_a_wrong_ae_title(endpoint):
    with pytest.raises(DestinationMisconfigured) as caught:
        echo(replace(endpoint, called_ae_title="WRONG"))
    assert caught.value.code == "called-ae-title-unknown"


def test_sending_again_changes_nothing(orthanc, endpoint, sample, outgoing):
    instance = outgoing(sample("CT_small.dcm"))
    for _ in range(2):
        (outcome,) = store_instances(endpoint, [instance])
        assert outcome.result is StoreResult.STORED
    assert json.loads(orthanc.get("/statistics"))["CountInstances"] == 1
    assert dcmread(sample("CT_small.dcm")).SOPInstanceUID == instance.sop_instance_uid
