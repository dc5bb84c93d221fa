"""Seconds and memory of building, checking and encoding one large rejection note, beside pydicom encoding the same.

    scripts/benchmark rejection_note [--references 5000] [--rounds 5] [--json FILE]

Interleaved A B A B. A: build, check, encode. B: `dcmwrite` of the same note, built before and not checked. Instances
lie in series of 500. Memory is the peak of Python's own allocations, measured in a round of its own. The aim for 5000
references: no more than 1 s and 100 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from archsync.core.rejection import NoteIdentity, NoteSubject, RejectedInstance, RejectionTitle
from archsync.messages.rejection_note import build_rejection_note, encode_note

SUBJECT = NoteSubject(
    study_instance_uid="2.25.7", patient_id="PID-9", patient_name="Moved^Maria", study_date=date(2026, 1, 5)
)
CT = "1.2.840.10008.5.1.4.1.1.2"
IN_SERIES = 500


def make_instances(references: int) -> list[RejectedInstance]:
    """Instances with UIDs of the usual length."""
    root = "1.2.276.0.7230010.3.1.4.8323329.41201.1484917438.7211"
    return [
        RejectedInstance(SUBJECT.study_instance_uid, f"{root}.{n // IN_SERIES}", f"{root}.9{n:06}", CT)
        for n in range(references)
    ]


def with_pydicom(note: Dataset) -> None:
    dcmwrite(BytesIO(), note, enforce_file_format=True)


def build(instances: list[RejectedInstance]) -> bytes:
    note = build_rejection_note(
        SUBJECT,
        instances,
        title=RejectionTitle.PATIENT_SAFETY,
        identity=NoteIdentity("change", "vna1"),
        issued_at=datetime(2026, 1, 6, tzinfo=UTC),
        time_zone=UTC,
    )
    return encode_note(note, held={i.sop_instance_uid for i in instances})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--references", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    instances = make_instances(arguments.references)
    ours, theirs = [], []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        encoded = build(instances)
        ours.append(time.perf_counter() - start)
        note = dcmread(BytesIO(encoded))
        _ = str(note)  # pydicom parses late; that is not what is measured
        start = time.perf_counter()
        with_pydicom(note)
        theirs.append(time.perf_counter() - start)
    tracemalloc.start()
    build(instances)
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    result = {
        "references": arguments.references,
        "seconds": statistics.median(ours),
        "pydicom_encode_s": statistics.median(theirs),
        "peak_mb": peak_mb,
        "note_mb": len(encoded) / 1e6,
    }
    print(
        f"{arguments.references} references: {result['seconds']:.2f} s, peak {peak_mb:.0f} MB;"
        f" pydicom's encoding alone {result['pydicom_encode_s']:.2f} s; note of {result['note_mb']:.1f} MB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
