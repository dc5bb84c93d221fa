"""What a file says of its patient, and whether that is what the platform says of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from archsync.core.study import Patient
from archsync.net.dicom.character_sets import decode_text


@dataclass(frozen=True, slots=True)
class PatientHeader:
    """Values of a file as they stand in it, undecoded: most files are compared with nothing."""

    character_set: bytes = b""
    name: bytes = field(repr=False, default=b"")
    patient_id: bytes = field(repr=False, default=b"")
    issuer_of_patient_id: bytes = field(repr=False, default=b"")
    birth_date: bytes = field(repr=False, default=b"")
    sex: bytes = field(repr=False, default=b"")

    def is_of(self, patient: Patient) -> bool:
        """True if nothing here says otherwise than ``patient``; what the platform does not know is not compared.

        An issuer that the file leaves out does not differ. Text that is not in the character set the file claims does.
        """
        issuer = self._text(self.issuer_of_patient_id)
        return (
            self._text(self.patient_id) == patient.patient_id.strip(" ")
            and (not patient.issuer_of_patient_id or issuer in ("", patient.issuer_of_patient_id.strip(" ")))
            and (not patient.name or _groups(self._text(self.name)) == _groups(patient.name))
            and (
                not patient.birth_date or self._text(self.birth_date) == patient.birth_date.strftime("%Y%m%d").zfill(8)
            )
            and (not patient.sex or self._text(self.sex) == patient.sex.strip(" "))
        )

    def _text(self, value: bytes) -> str | None:
        text = decode_text(value, self.character_set)
        return None if text is None else text.strip(" \0")


def _groups(name: str | None) -> list[str] | None:
    """The component groups of a PN without what is not significant: padding, empty components and groups at the end."""
    if name is None:
        return None
    groups = [group.strip(" ").rstrip("^ ") for group in name.split("=")]
    while groups and not groups[-1]:
        groups.pop()
    return groups
