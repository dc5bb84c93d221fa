"""Orthanc as the platform's image store: its REST interface and, where the plugin is installed, its DICOMweb."""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from pynetdicom.dsutils import split_dataset

from archsync.core.transfer import Endpoint, StoreResult
from archsync.net.dicom.store import store_instances
from archsync.net.images import image_size_bytes
from archsync.net.remote import access
from archsync.net.remote.access import WebLogin
from archsync.simulate.archive import SimulatedArchive

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
NAMES = (
    "CT_small.dcm", "MR_small_implicit.dcm", "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm",
    "waveform_ecg.dcm", "reportsi.dcm", "examples_ybr_color.dcm",
)  # fmt: skip
LOGIN = ("reader", "secret")


@pytest.fixture
def image_store(start, program, free_port, tmp_path, sample, outgoing):
    """An Orthanc that asks for a login and holds samples; gives its URL and port."""
    dicom_port, http_port = free_port(), free_port()
    configuration = tmp_path / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(tmp_path / "storage"),
                "IndexDirectory": str(tmp_path / "storage"),
                "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
                "DicomAet": "ORTHANC",
                "DicomPort": dicom_port,
                "HttpPort": http_port,
                "AuthenticationEnabled": True,
                "RegisteredUsers": dict([LOGIN]),
                "DicomAlwaysAllowStore": True,
            }
        )
    )
    start([program("Orthanc"), str(configuration)], dicom_port, http_port)
    instances = [outgoing(sample(name)) for name in NAMES]
    outcomes = store_instances(Endpoint("127.0.0.1", dicom_port, "ORTHANC"), instances)
    assert {outcome.result for outcome in outcomes} == {StoreResult.STORED}

    class OneLogin(access.NoAccess):
        def login(self, conn_id: str) -> WebLogin:
            assert conn_id == "orthanc_web"
            return WebLogin("127.0.0.1", "http", http_port, *LOGIN)

    before = access.current()
    access.use(OneLogin())
    yield http_port, instances
    access.use(before)


def ask(port: int, path: str, body: bytes | None = None) -> bytes:
    authorization = "Basic " + base64.b64encode(":".join(LOGIN).encode()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Authorization": authorization})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def number_of(port: int, sop_instance_uid: str) -> str:
    """What Orthanc calls an instance."""
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}}
    (found,) = json.loads(ask(port, "/tools/find", json.dumps(query).encode()))
    return found


@pytest.mark.parametrize("kind", ["REST", "WADO-RS"])
def test_images_of_an_orthanc_arrive_at_an_archive_as_it_has_them(image_store, tmp_path, outgoing, kind):
    port, instances = image_store
    if kind == "WADO-RS" and not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed")
    located, held = [], {}
    for instance in instances:
        number = number_of(port, instance.sop_instance_uid)
        path = f"/instances/{number}/file"
        held[instance.sop_instance_uid] = ask(port, path)
        if kind == "WADO-RS":
            path = (
                f"/dicom-web/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}"
                f"/instances/{instance.sop_instance_uid}"
            )
        located.append(replace(instance, location=f"http://orthanc_web@127.0.0.1:{port}{path}"))
    with SimulatedArchive(tmp_path / "archive") as archive:
        outcomes = list(store_instances(Endpoint(*archive.address, archive.ae_title), located))
        assert [(o.code, o.message) for o in outcomes if o.result is not StoreResult.STORED] == []
        for instance in located:
            source = tmp_path / "held.dcm"
            source.write_bytes(held[instance.sop_instance_uid])
            stored = archive.stored[instance.sop_instance_uid]
            assert stored.transfer_syntax_uid == instance.transfer_syntax_uid, "nothing was decompressed on the way"
            assert data_set_bytes(stored.path) == data_set_bytes(source)
    if kind == "REST":
        size_bytes = image_size_bytes(located[0].location, sop_instance_uid=located[0].sop_instance_uid)
        assert size_bytes == len(held[located[0].sop_instance_uid])


def data_set_bytes(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]
