"""What a rejection note says, read back from its bytes: which series of the study, and how many instances of each."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from pydicom import dcmread


@dataclass(frozen=True, slots=True)
class NamedSeries:
    """Instances of one series that a note names; ``first_sop_instance_uids`` are some of them."""

    study_instance_uid: str
    series_instance_uid: str
    instances: int
    first_sop_instance_uids: tuple[str, ...]


def read_evidence(encoded: bytes, *, first: int = 3) -> list[NamedSeries]:
    """What the evidence of an encoded note (PS3.10) names, series by series, without anything about the patient."""
    note = dcmread(BytesIO(encoded), specific_tags=["CurrentRequestedProcedureEvidenceSequence"])
    return [
        NamedSeries(
            str(study.StudyInstanceUID),
            str(series.SeriesInstanceUID),
            len(series.ReferencedSOPSequence),
            tuple(str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence[:first]),
        )
        for study in note.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
    ]
