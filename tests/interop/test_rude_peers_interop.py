"""Real archives at their limits: long pauses, and files that they keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom import dcmread

from archsync.core.transfer import StoreResult
from archsync.errors import OutcomeUnknown
from archsync.net.dicom.store import store_instances


@pytest.fixture
def storescp(program, start, free_port, tmp_path):
    """Runs storescp with options; gives its port and the folder it writes to."""

    def run(*options):
        port, folder = free_port(), tmp_path / "storescp"
        folder.mkdir()
        start([program("storescp"), *options, "-od", str(folder), str(port)], port)
        return port, folder

    return run


@pytest.mark.timeout(60)
def test_storescp_that_sleeps_longer_than_the_time_out_leaves_the_outcome_unknown(storescp, peer_at, sample, outgoing):
    port, _ = storescp("--sleep-during", "4")
    impatient = replace(peer_at(port, "STORESCP"), dimse_timeout_s=1)
    sending = store_instances(impatient, [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small.dcm"))])
    assert next(sending).result is StoreResult.UNKNOWN
    with pytest.raises(OutcomeUnknown, match="no answer came in time"):
        next(sending)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("option", ["--sleep-after", "--sleep-during"])
def test_storescp_that_takes_its_time_is_waited_for(storescp, peer_at, sample, outgoing, option):
    port, _ = storescp(option, "1")
    instances = [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small.dcm"))]
    outcomes = list(store_instances(peer_at(port, "STORESCP"), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 2


def test_dcmqrscp_holds_what_it_was_sent(dcmqrscp, peer_at, sample, outgoing):
    names = ("CT_small.dcm", "MR_small_implicit.dcm", "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm", "reportsi.dcm")
    instances = [outgoing(sample(name)) for name in names]
    outcomes = list(store_instances(peer_at(dcmqrscp.dicom_port, "DCMQRSCP"), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * len(names)
    held = dcmqrscp.held()
    for name, instance in zip(names, instances, strict=True):
        sent = dcmread(sample(name))
        assert held[instance.sop_instance_uid].get("PixelData") == sent.get("PixelData") or (
            held[instance.sop_instance_uid].file_meta.TransferSyntaxUID != sent.file_meta.TransferSyntaxUID
        ), name
