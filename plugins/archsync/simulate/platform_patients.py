"""What happens to patients of the simulated platform: corrections, other identifiers, merges."""

from __future__ import annotations

from datetime import date

from archsync.errors import InvalidInput
from archsync.simulate.platform_database import PlatformDatabase, no_such, update_row


class PatientChanges(PlatformDatabase):
    """Changes of patients, each in one transaction. Files keep the patient they were made with."""

    def correct_name(self, patient_key: str, name: str) -> None:
        """Give a patient another name, a DICOM PN value."""
        self._update("patient", patient_key, name=name)

    def correct_demographics(self, patient_key: str, *, birth_date: date | None, sex: str | None) -> None:
        """Give a patient another birth date and sex; None makes it unknown."""
        self._update("patient", patient_key, birth_date=birth_date, sex=sex)

    def change_mrn(self, patient_key: str, patient_id: str) -> None:
        """Give a patient another identifier of the same issuer."""
        self._update("patient", patient_key, patient_id=patient_id)

    def change_issuer(self, patient_key: str, issuer_of_patient_id: str | None) -> None:
        """Have another authority assign a patient's identifier."""
        self._update("patient", patient_key, issuer_of_patient_id=issuer_of_patient_id)

    def merge_patients(self, prior_key: str, survivor_key: str, *, repoint_studies: bool = True) -> None:
        """Merge the prior patient into the survivor, of whom they turned out to be a second record.

        The prior's row stays and names the survivor. With ``repoint_studies`` the prior's studies name the survivor,
        else they go on naming the prior, as on platforms that look a patient up at the end of the chain. Either may
        have been merged before; then chains come about.

        Raises:
            InvalidInput: one of them does not exist, the prior is merged already, or a circle would come about.
        """
        with self.transaction() as connection:
            cursor = connection.execute("select patient_key::text, merged_into_patient_key::text from pacs.patient")
            merges = dict(cursor.fetchall())
            for key in (prior_key, survivor_key):
                if key not in merges:
                    raise no_such("patient", key)
            if merges[prior_key] is not None:
                raise InvalidInput(f"patient_key {prior_key} was merged into another patient already")
            end: str | None = survivor_key
            while end is not None:
                if end == prior_key:
                    raise InvalidInput(f"patient_key {prior_key} can't be merged into themselves, round about or not")
                end = merges[end]
            update_row(connection, "patient", prior_key, merged_into_patient_key=survivor_key)
            if repoint_studies:
                connection.execute(
                    "update pacs.study set patient_key = %s where patient_key = %s", [survivor_key, prior_key]
                )
