"""MB/s of writing replacement instances, beside pydicom reading, changing and saving the same file.

    scripts/benchmark replacement [--rounds 5] [--json FILE]

Interleaved A B A B, files in a temporary folder (in the page cache). A: `write_replacement`. B: `dcmread`, the same new
UIDs, patient and study set by hand, `save_as`; it rewrites no references and keeps no history. Trust the ratios: disks
and page cache differ. Memory is the peak of Python's own allocations, measured in a round of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from archsync.core.fitting import Modification
from archsync.core.study import Facility, Patient, Study
from archsync.core.uid_map import InstanceUids, UidMap
from archsync.net.dicom.replacement import write_replacement

NEW = InstanceUids("2.25.1001", "2.25.1002", "2.25.1003")
PATIENT = Patient("p", "PID-9", "HOSP", "Moved^Maria", date(1961, 2, 3), "F")
STUDY = Study("s", NEW.study_instance_uid, PATIENT, Facility("f", "North", "NORTH"), "Completed", accession_number="A9")
MODIFICATION = Modification(modified_at=datetime(2025, 1, 1, tzinfo=UTC), modifying_system="archsync")

# name: matrix, frames, copies of the file a round writes
CASES = {"CT 512x512": (512, 1, 100), "MG 3000x4000": (3464, 1, 10), "multi-frame 200 MB": (1024, 100, 1)}


def make_file(path: Path, matrix: int, frames: int) -> None:
    """A CT of the given size with the header of pydicom's sample."""
    dataset = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.Rows = dataset.Columns = matrix
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = bytes(range(256)) * (matrix * matrix * 2 * frames // 256)
    dataset.save_as(path)


def with_archsync(source: Path, target: Path, old: InstanceUids) -> None:
    write_replacement(
        source, target, sop_instance_uid=old.sop_instance_uid, uids=NEW, uid_map=UidMap.of([(old, NEW)]),
        study=STUDY, patient=PATIENT, modification=MODIFICATION,
    )  # fmt: skip


def with_pydicom(source: Path, target: Path) -> None:
    dataset = dcmread(source)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(NEW.sop_instance_uid)
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = NEW.series_instance_uid, NEW.study_instance_uid
    dataset.PatientName, dataset.PatientID, dataset.IssuerOfPatientID = PATIENT.name, PATIENT.patient_id, "HOSP"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.AccessionNumber = "19610203", "F", "A9"
    dataset.save_as(target)


def mb_per_s(write: Callable[[Path, Path], None], source: Path, target: Path, copies: int) -> float:
    start = time.perf_counter()
    for _ in range(copies):
        write(source, target)
    return source.stat().st_size * copies / 1e6 / (time.perf_counter() - start)


def peak_mb(write: Callable[[Path, Path], None], source: Path, target: Path) -> float:
    tracemalloc.start()
    write(source, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="archsync-bench-") as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        for name, (matrix, frames, copies) in CASES.items():
            make_file(source, matrix, frames)
            header = dcmread(source, stop_before_pixels=True)
            old = InstanceUids(header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID)
            archsync = functools.partial(with_archsync, old=old)  # as planning knows them
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                ours.append(mb_per_s(archsync, source, target, copies))
                theirs.append(mb_per_s(with_pydicom, source, target, copies))
            a, b = statistics.median(ours), statistics.median(theirs)
            memory = peak_mb(archsync, source, target), peak_mb(with_pydicom, source, target)
            results[name] = {"archsync_mb_s": a, "pydicom_mb_s": b, "ratio": a / b, "peak_mb": memory}
            print(f"{name:20} archsync {a:7.0f} MB/s, pydicom {b:7.0f} MB/s: {a / b:5.2f} times;"
                  f" peak {memory[0]:.1f} against {memory[1]:.1f} MB")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
