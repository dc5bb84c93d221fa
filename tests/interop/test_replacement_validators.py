"""Replacement instances before other makers' validators: no complaint that the source did not have."""

from __future__ import annotations

import re
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path

import pytest
from pydicom import dcmread

from archsync.core.fitting import Modification, RequestAttributes
from archsync.core.study import Facility, Patient, Study
from archsync.core.uid_map import InstanceUids, Placement, UidMap
from archsync.net.dicom.replacement import write_replacement

SAMPLES = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"),
    *("MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle_2frame.dcm", "JPGExtended.dcm"),
    *("waveform_ecg.dcm", "reportsi.dcm", "test-SR.dcm", "liver_1frame.dcm", "rtplan.dcm", "rtdose.dcm"),
    *("examples_ybr_color.dcm", "J2K_pixelrep_mismatch.dcm"),
)
PATIENT = Patient("p-9", "PID-9", "HOSP", "Müller^Jörg", date(1961, 2, 3), "M")
FACILITY = Facility("f-1", "North", "NORTH", "HOSP", "1.2.999.1", "ISO")


@pytest.fixture
def replacement(sample: Callable[[str], Path], tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes the replacement of a sample; gives source and replacement."""

    def make(name: str) -> tuple[Path, Path]:
        source, target = sample(name), tmp_path / "replacement.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dcmread(source, stop_before_pixels=True)
        old = InstanceUids(
            str(header.get("StudyInstanceUID", "")), str(header.get("SeriesInstanceUID", "")), header.SOPInstanceUID
        )
        new = InstanceUids("2.25.1001", "2.25.1002", Placement("i-1", 1, 2).sop_instance_uid)
        study = Study(
            "s-9", new.study_instance_uid, PATIENT, FACILITY, "Completed", accession_number="ACC-9", study_id="SID9",
            study_date=date(2024, 5, 6), study_time=time(7, 8, 9), description="Right study",
            referring_physician="Refer^Rita",
        )  # fmt: skip
        modification = Modification(modified_at=datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC), modifying_system="archsync")
        write_replacement(
            source, target, sop_instance_uid=old.sop_instance_uid, uids=new, uid_map=UidMap.of([(old, new)]),
            study=study, patient=PATIENT, modification=modification, request=RequestAttributes("RP-1", "SPS-1"),
        )  # fmt: skip
        return source, target

    return make


def errors_of(command: list[str]) -> Counter[str]:
    """A validator's error lines, without positions."""
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode >= 0, f"{command[0]} died"
    lines = (done.stderr + done.stdout).decode(errors="replace").splitlines()
    return Counter(re.sub(r"0x[0-9a-f]+", "…", line) for line in lines if re.match(r"(?i)error|e:", line))


# dciodvfy dies on pixels of 32 bits, the source's too
@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "rtdose.dcm"])
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(
    program: Callable[[str], str], replacement: Callable[[str], tuple[Path, Path]], name: str
) -> None:
    source, target = replacement(name)
    command = program("dciodvfy")
    assert errors_of([command, str(target)]) - errors_of([command, str(source)]) == Counter()


@pytest.mark.parametrize("name", SAMPLES)
def test_dcmdump_reads_every_element(
    program: Callable[[str], str], replacement: Callable[[str], tuple[Path, Path]], name: str
) -> None:
    source, target = replacement(name)
    command = program("dcmdump")
    assert errors_of([command, "+E", str(target)]) - errors_of([command, "+E", str(source)]) == Counter()
    shown = subprocess.run(
        [command, "+U8", "+P", "0010,0010", str(target)], capture_output=True, check=True, timeout=60
    )
    assert "[Müller^Jörg]" in shown.stdout.decode()


def test_dciodvfy_would_notice_a_history_without_its_reason(
    program: Callable[[str], str], replacement: Callable[[str], tuple[Path, Path]]
) -> None:
    source, target = replacement("CT_small.dcm")
    dataset = dcmread(target)
    del dataset.OriginalAttributesSequence[0].ReasonForTheAttributeModification
    dataset.save_as(target)
    command = program("dciodvfy")
    assert errors_of([command, str(target)]) - errors_of([command, str(source)]) != Counter()
