"""What is sent when the archive does not take an instance's transfer syntax: the image, uncompressed, or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from archsync.core.transfer import StoreResult
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import Rudeness

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def send_to_a_peer_taking_only(syntax, archive, endpoint, instance):
    archive.behave(Rudeness(accept_transfer_syntaxes=(syntax,)))
    (outcome,) = store_instances(endpoint, [instance])
    return outcome


def pixels(path):
    """Decoded pixels, in RGB where there are colours."""
    return dcmread(path).pixel_array


@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize(
    "name",
    [
        *("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "image_dfl.dcm"),
        *("SC_rgb_small_odd_big_endian.dcm", "liver_expb_1frame.dcm", "MR_small_RLE.dcm", "SC_rgb_rle_2frame.dcm"),
        *("MR_small_jp2klossless.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jpeg_dcmtk.dcm"),
        *("examples_ybr_color.dcm", "SC_rgb_rle_32bit.dcm"),
    ],
)
def test_the_image_arrives_uncompressed_with_the_same_pixels_and_uid(archive, endpoint, sample, outgoing, name, target):
    instance = outgoing(sample(name))
    outcome = send_to_a_peer_taking_only(target, archive, endpoint, instance)
    assert (outcome.result, outcome.sent_transfer_syntax_uid) == (StoreResult.STORED, target)
    stored = archive.stored[instance.sop_instance_uid]
    assert stored.transfer_syntax_uid == target
    sent, source = dcmread(stored.path), dcmread(sample(name))
    assert (sent.SOPInstanceUID, sent.SOPClassUID) == (source.SOPInstanceUID, source.SOPClassUID)
    assert np.array_equal(pixels(stored.path), pixels(sample(name)))
    if instance.transfer_syntax_uid != target:
        assert "sent as" in outcome.message


def test_the_compressed_variants_of_one_image_arrive_as_the_original(archive, endpoint, sample, outgoing):
    # An oracle beside the decoder: pydicom's samples hold the same MR image in several syntaxes.
    original = dcmread(sample("MR_small.dcm")).PixelData
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_expb.dcm"):
        instance = outgoing(sample(name))
        send_to_a_peer_taking_only(IMPLICIT, archive, endpoint, instance)
        assert dcmread(archive.stored[instance.sop_instance_uid].path).PixelData == original, name


@pytest.mark.parametrize("name", ["waveform_ecg.dcm", "reportsi.dcm", "test-SR.dcm"])
def test_documents_are_reencoded_with_every_value_kept(archive, endpoint, sample, outgoing, name):
    source = dcmread(sample(name))
    explicit = source.file_meta.TransferSyntaxUID == EXPLICIT
    instance = outgoing(sample(name))
    target = IMPLICIT if explicit else EXPLICIT
    outcome = send_to_a_peer_taking_only(target, archive, endpoint, instance)
    assert (outcome.result, outcome.sent_transfer_syntax_uid) == (StoreResult.STORED, target)
    sent = dcmread(archive.stored[instance.sop_instance_uid].path)
    assert [element.tag for element in sent.iterall()] == [element.tag for element in source.iterall()]
    for a, b in zip(sent.iterall(), source.iterall(), strict=True):
        if a.VR != "SQ" and "UN" not in (a.VR, b.VR):  # private elements have no VR in implicit VR
            assert a.value == b.value, a.tag


def test_the_words_of_big_endian_values_are_turned_round_everywhere(archive, endpoint, sample, outgoing, tmp_path):
    # 32-bit cells are turned as a whole; pydicom's little endian twin of the sample says so
    data_set = dcmread(sample("rtdose_expb_1frame.dcm"))
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    path = tmp_path / "dose.dcm"
    data_set.save_as(path)
    instance = outgoing(path)
    assert send_to_a_peer_taking_only(EXPLICIT, archive, endpoint, instance).result is StoreResult.STORED
    sent = dcmread(archive.stored[instance.sop_instance_uid].path)
    assert sent.PixelData == dcmread(sample("rtdose_1frame.dcm")).PixelData


def test_what_tells_of_lossy_compression_is_kept(archive, endpoint, sample, outgoing, tmp_path):
    data_set = dcmread(sample("SC_rgb_jpeg_dcmtk.dcm"))
    data_set.LossyImageCompression = "01"
    data_set.LossyImageCompressionRatio = "10"
    data_set.LossyImageCompressionMethod = "ISO_10918_1"
    path = tmp_path / "lossy.dcm"
    data_set.save_as(path)
    instance = outgoing(path)
    send_to_a_peer_taking_only(EXPLICIT, archive, endpoint, instance)
    sent = dcmread(archive.stored[instance.sop_instance_uid].path)
    assert (sent.LossyImageCompression, sent.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert sent.LossyImageCompressionRatio == 10


@pytest.mark.parametrize(
    ("name", "syntax"),
    [("SC_rgb_jpeg_gdcm.dcm", "1.2.840.10008.1.2.4.70"), ("JPGExtended.dcm", "1.2.840.10008.1.2.4.51")],
)
def test_what_no_codec_decodes_is_refused_by_name_of_its_syntax_and_the_rest_goes_on(
    archive, endpoint, sample, outgoing, name, syntax
):
    archive.behave(Rudeness(accept_transfer_syntaxes=(IMPLICIT,)))
    hard, easy = outgoing(sample(name)), outgoing(sample("CT_small.dcm"))
    outcomes = list(store_instances(endpoint, [hard, easy]))
    assert [outcome.result for outcome in outcomes] == [StoreResult.REFUSED, StoreResult.STORED]
    assert outcomes[0].code == "transfer-syntax-not-accepted"
    assert syntax in outcomes[0].message


def test_pixel_data_that_can_not_be_decoded_are_sent_as_they_are_or_refused(
    archive, endpoint, sample, outgoing, tmp_path
):
    whole = sample("MR_small_jp2klossless.dcm").read_bytes()
    start = whole.index(b"\xff\x4f\xff\x51")  # SOC and SIZ: where the JPEG 2000 code stream begins
    path = tmp_path / "damaged.dcm"
    path.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    instance = outgoing(path)
    (as_it_is,) = store_instances(endpoint, [instance])
    assert as_it_is.result is StoreResult.STORED
    decoded = send_to_a_peer_taking_only(IMPLICIT, archive, endpoint, instance)
    assert (decoded.result, decoded.code) == (StoreResult.REFUSED, "transfer-syntax-not-accepted")


def test_a_class_that_is_not_taken_is_refused_and_the_rest_goes_on(archive, endpoint, sample, outgoing):
    archive.behave(Rudeness(accept_sop_classes=("1.2.840.10008.5.1.4.1.1.2",)))
    outcomes = list(store_instances(endpoint, [outgoing(sample("MR_small.dcm")), outgoing(sample("CT_small.dcm"))]))
    assert [outcome.result for outcome in outcomes] == [StoreResult.REFUSED, StoreResult.STORED]
    assert outcomes[0].code == "sop-class-not-accepted"
    assert "MR Image Storage" in outcomes[0].message


def test_a_job_of_classes_that_are_not_taken_does_not_condemn_the_destination(archive, endpoint, sample, outgoing):
    archive.behave(Rudeness(accept_sop_classes=("1.2.3",)))
    (outcome,) = store_instances(endpoint, [outgoing(sample("MR_small.dcm"))])
    assert (outcome.result, outcome.code) == (StoreResult.REFUSED, "sop-class-not-accepted")


def test_a_peer_without_any_uncompressed_syntax_refuses_what_it_does_not_take(archive, endpoint, sample, outgoing):
    j2k = "1.2.840.10008.1.2.4.90"
    archive.behave(Rudeness(accept_transfer_syntaxes=(j2k,)))
    instances = [outgoing(sample("MR_small.dcm")), outgoing(sample("MR_small_jp2klossless.dcm"))]
    instances[1] = replace(instances[1], instance_key="compressed")
    outcomes = list(store_instances(endpoint, instances))
    assert [(o.result, o.code) for o in outcomes] == [
        (StoreResult.REFUSED, "transfer-syntax-not-accepted"),
        (StoreResult.STORED, "stored"),
    ]
