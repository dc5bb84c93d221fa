"""What kinds of archive there are, and what is known of each: the profile that a destination names.

A profile says what a destination's settings leave open. How the archives of a profile answer is in
``core/archive_answers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class ArchiveProfile(StrEnum):
    """The product behind a destination, as far as its behaviour differs from the standard's."""

    GENERIC = "generic"
    DCM4CHEE = "dcm4chee"
    ORTHANC = "orthanc"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What archives of one profile can do.

    ``supports_iocm``: they hide what a rejection note names. Archives that merely store notes show the images on.
    """

    supports_iocm: bool


PROFILES: Mapping[ArchiveProfile, Capabilities] = MappingProxyType(
    {
        # Success for a note says "stored", not "understood": an administrator has to know, and say so.
        ArchiveProfile.GENERIC: Capabilities(supports_iocm=False),
        ArchiveProfile.DCM4CHEE: Capabilities(supports_iocm=True),
        # Stores a note like any instance and keeps every image it names.
        ArchiveProfile.ORTHANC: Capabilities(supports_iocm=False),
    }
)
