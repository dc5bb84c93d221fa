"""What an archive is to find in the instances it gets, where that is not what their files say.

Files keep what they said when they came; the platform's rows move on: names are corrected, studies split, patients
merged. An instance is *fitted* when its file's patient and UIDs are brought to what the archive is to know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from archsync.core.study import Patient, Study
from archsync.core.uid_map import UidMap


@dataclass(frozen=True, slots=True)
class RequestAttributes:
    """The order that the target study was made for (PS3.3 Table 10-9)."""

    requested_procedure_id: str
    scheduled_procedure_step_id: str
    requested_procedure_description: str = ""
    scheduled_procedure_step_description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modification:
    """Who changed the attributes and when (PS3.3 C.12.1.1.9).

    ``modified_at`` is written into the copy: a stored moment, never the clock, or a resend differs from what was sent.
    """

    modified_at: datetime
    modifying_system: str
    source_of_previous_values: str = ""

    def __post_init__(self) -> None:
        if self.modified_at.tzinfo is None:
            raise ValueError("modified_at needs a time zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What files are fitted to; one serves all instances that go to one study of one archive.

    ``uid_map`` leads from the UIDs that stand in the files to those the archive is to have, also for the objects that
    the files refer to; instances that stay are in it as pairs of equal UIDs. ``patient`` is the patient as the archive
    is to know them, which may lag behind ``study.patient``. The same fitting gives the same bytes: whoever sends an
    instance again has to give what was given the first time.
    """

    uid_map: UidMap = field(repr=False)
    study: Study = field(repr=False)
    patient: Patient = field(repr=False)
    modification: Modification
    request: RequestAttributes | None = field(repr=False, default=None)
