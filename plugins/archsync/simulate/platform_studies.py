"""What happens to studies of the simulated platform: removals, splits, merges, moves, changed content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from archsync.core.study import RemovalReason
from archsync.errors import InvalidInput
from archsync.simulate.platform_database import Connection, PlatformDatabase, no_such, one, update_row
from archsync.simulate.rewriting import NewHeader, change_content, rewrite
from archsync.simulate.volumes import DemoPatient, make_uid

#: Instances or series of a study: their keys or UIDs, or how many of the newest.
Choice = Sequence[str] | int


@dataclass(frozen=True, slots=True)
class _Row:
    """What a change needs of an instance's row."""

    instance_key: str
    series_instance_uid: str
    sop_instance_uid: str
    location: str
    content_version: int


class StudyChanges(PlatformDatabase):
    """Changes of studies, each in one transaction. Files are never touched; where content changes, new ones are made.

    ``instances`` chooses instances that are shown, by their keys or as the newest so many; ``series`` chooses whole
    series likewise, by their UIDs.

    All raise InvalidInput for a study, series or instance that is not there.
    """

    def remove_instances(
        self, study_key: str, instances: Choice, *, reason: RemovalReason | None = None, hard: bool = False
    ) -> tuple[str, ...]:
        """Hide instances, with a reason, or delete their rows (``hard``, which leaves none); returns their keys."""
        with self.transaction() as connection:
            return self._remove(connection, _choose(connection, study_key, instances=instances), reason, hard)

    def remove_series(
        self, study_key: str, series: Choice, *, reason: RemovalReason | None = None, hard: bool = False
    ) -> tuple[str, ...]:
        """Hide whole series, or delete their rows; returns the keys of the instances."""
        with self.transaction() as connection:
            return self._remove(connection, _choose(connection, study_key, series=series), reason, hard)

    def remove_study(
        self, study_key: str, *, reason: RemovalReason | None = None, hard: bool = False
    ) -> tuple[str, ...]:
        """Hide all instances of a study, whose row stays, or delete instances and study; returns the keys."""
        with self.transaction() as connection:
            if hard:
                rows = _all_rows(connection, study_key)
            else:
                rows = _choose(connection, study_key)
            removed = self._remove(connection, rows, reason, hard)
            if hard:
                connection.execute("delete from pacs.study where study_key = %s", [study_key])
            return removed

    def restore_instances(self, study_key: str, instance_keys: Sequence[str] | None = None) -> tuple[str, ...]:
        """Show removed instances again, all of the study or those; returns the keys.

        Raises:
            InvalidInput: one is not a removed instance of the study, or its UID is in use again.
        """
        with self.transaction() as connection:
            _check_study(connection, study_key)
            cursor = connection.execute(
                "update pacs.instance set removed_at = null, removal_reason = null where study_key = %s"
                " and removed_at is not null and (%s::text[] is null or instance_key::text = any(%s))"
                " returning instance_key::text",
                [study_key, _as_list(instance_keys), _as_list(instance_keys)],
            )
            restored = tuple(key for (key,) in cursor.fetchall())
            if instance_keys is not None:
                _check_all_found(study_key, "removed instances", instance_keys, restored)
            return restored

    def replace_instances(
        self, study_key: str, instances: Choice, *, reason: RemovalReason = RemovalReason.QUALITY
    ) -> None:
        """Let new rows with new UIDs and new files, in the same study, stand for instances that are removed."""
        with self.transaction() as connection:
            rows = _choose(connection, study_key, instances=instances)
            self._replace(connection, rows, study_key, reason)

    def split_study(
        self,
        study_key: str,
        *,
        instances: Choice | None = None,
        series: Choice | None = None,
        keep_uids: bool = True,
        patient_key: str | None = None,
    ) -> str:
        """Put instances or series into a new study of the same patient, or of another, and return its key.

        ``keep_uids``: rows move, their UIDs and files stay. Otherwise the platform makes new rows with new UIDs and new
        files that replace the old ones, which are removed as wrong_worklist_entry.
        """
        with self.transaction() as connection:
            rows = _choose_some(connection, study_key, instances, series)
            target_key = self._copy_study(connection, study_key, patient_key)
            self._bring(connection, rows, study_key, target_key, keep_uids=keep_uids)
            return target_key

    def merge_studies(
        self, source_key: str, target_key: str, *, keep_uids: bool = True, delete_source: bool = False
    ) -> None:
        """Put all instances of the source into the target; the source's row stays, empty, or is deleted.

        ``keep_uids`` as in :meth:`split_study`; rows that were removed before move along only with it.

        Raises:
            InvalidInput: the source is to be deleted, but keeps the removed rows that were replaced.
        """
        if delete_source and not keep_uids:
            raise InvalidInput("a study whose instances were replaced keeps their rows and can't be deleted")
        with self.transaction() as connection:
            rows = _all_rows(connection, source_key) if keep_uids else _choose(connection, source_key)
            self._bring(connection, rows, source_key, target_key, keep_uids=keep_uids)
            if delete_source:
                connection.execute("delete from pacs.study where study_key = %s", [source_key])

    def move_instances(
        self,
        study_key: str,
        target_key: str,
        *,
        instances: Choice | None = None,
        series: Choice | None = None,
        keep_uids: bool = True,
    ) -> None:
        """Put instances or series into another study that is there; ``keep_uids`` as in :meth:`split_study`."""
        with self.transaction() as connection:
            rows = _choose_some(connection, study_key, instances, series)
            self._bring(connection, rows, study_key, target_key, keep_uids=keep_uids)

    def move_study(self, study_key: str, patient_key: str) -> None:
        """Give a study, filed to the wrong patient, to the right one."""
        with self.transaction() as connection:
            if connection.execute("select from pacs.patient where patient_key = %s", [patient_key]).rowcount != 1:
                raise no_such("patient", patient_key)
            update_row(connection, "study", study_key, patient_key=patient_key)

    def change_content(self, study_key: str, instances: Choice) -> tuple[str, ...]:
        """Change instances in place: same UIDs, a new file with other content at a new location; returns the keys."""
        with self.transaction() as connection:
            rows = _choose(connection, study_key, instances=instances)
            for row in rows:
                version = row.content_version + 1
                path = self._folder / "changed" / f"{row.instance_key}.{version}.dcm"
                change_content(_path(row.location), path, version)
                update_row(
                    connection,
                    "instance",
                    row.instance_key,
                    content_version=version,
                    location=path.as_uri(),
                    size_bytes=path.stat().st_size,
                )
            return tuple(row.instance_key for row in rows)

    def _remove(
        self, connection: Connection, rows: Iterable[_Row], reason: RemovalReason | None, hard: bool
    ) -> tuple[str, ...]:
        keys = [row.instance_key for row in rows]
        if hard:
            connection.execute(
                "update pacs.instance set replaces_instance_key = null where replaces_instance_key::text = any(%s)",
                [keys],
            )
            connection.execute("delete from pacs.instance where instance_key::text = any(%s)", [keys])
        else:
            connection.execute(
                "update pacs.instance set removed_at = now(), removal_reason = %s where instance_key::text = any(%s)",
                [None if reason is None else str(reason), keys],
            )
        return tuple(keys)

    def _copy_study(self, connection: Connection, study_key: str, patient_key: str | None) -> str:
        """Make a study like another, with its own UID and accession number."""
        key = one(connection.execute("select nextval(pg_get_serial_sequence('pacs.study', 'study_key'))"))
        connection.execute(
            "insert into pacs.study (study_key, study_instance_uid, patient_key, facility_id, accession_number,"
            " study_date, study_time, description, referring_physician, study_id, exam_status, priority)"
            " select %s, %s, coalesce(%s, patient_key), facility_id, facility_id || '-S' || %s, study_date, study_time,"
            " description, referring_physician, study_id, exam_status, priority from pacs.study where study_key = %s",
            [key, make_uid(self._seed, "study", key), patient_key, key, study_key],
        )
        return str(key)

    def _bring(
        self, connection: Connection, rows: Sequence[_Row], source_key: str, target_key: str, *, keep_uids: bool
    ) -> None:
        """Let the target have those instances of the source: the same rows, or replacements of them."""
        _check_study(connection, target_key)
        if target_key == source_key:
            raise InvalidInput(f"study_key {source_key} can't be moved into itself")
        if keep_uids:
            connection.execute(
                "update pacs.instance set study_key = %s where instance_key::text = any(%s)",
                [target_key, [row.instance_key for row in rows]],
            )
        else:
            self._replace(connection, rows, target_key, RemovalReason.WRONG_WORKLIST_ENTRY)

    def _replace(self, connection: Connection, rows: Sequence[_Row], target_key: str, reason: RemovalReason) -> None:
        target = _read_target(connection, target_key)
        self._remove(connection, rows, reason, hard=False)
        new_keys = {
            row.instance_key: one(
                connection.execute("select nextval(pg_get_serial_sequence('pacs.instance', 'instance_key'))")
            )
            for row in rows
        }
        uids = {
            row.series_instance_uid: make_uid(self._seed, "series", target.study_instance_uid, row.series_instance_uid)
            for row in rows
        }
        uids |= {row.sop_instance_uid: make_uid(self._seed, "instance", new_keys[row.instance_key]) for row in rows}
        for row in rows:
            sop_instance_uid = uids[row.sop_instance_uid]
            path = self._folder / target.study_instance_uid / f"{sop_instance_uid}.dcm"
            rewrite(_path(row.location), path, target, uids)
            connection.execute(
                "insert into pacs.instance (instance_key, study_key, series_instance_uid, series_number, modality,"
                " sop_instance_uid, sop_class_uid, transfer_syntax_uid, instance_number, location, size_bytes,"
                " replaces_instance_key)"
                " select %s, %s, %s, series_number, modality, %s, sop_class_uid, transfer_syntax_uid, instance_number,"
                " %s, %s, instance_key from pacs.instance where instance_key = %s",
                [
                    new_keys[row.instance_key],
                    target_key,
                    uids[row.series_instance_uid],
                    sop_instance_uid,
                    path.as_uri(),
                    path.stat().st_size,
                    row.instance_key,
                ],
            )


def _choose_some(connection: Connection, study_key: str, instances: Choice | None, series: Choice | None) -> list[_Row]:
    if (instances is None) == (series is None):
        raise InvalidInput("name either instances or series")
    return _choose(connection, study_key, instances=instances, series=series)


def _choose(
    connection: Connection, study_key: str, *, instances: Choice | None = None, series: Choice | None = None
) -> list[_Row]:
    """The chosen ones of the instances that a study shows; without a choice all."""
    rows = _all_rows(connection, study_key, only_shown=True)
    if instances is not None:
        keys = _newest(study_key, "instances", [row.instance_key for row in rows], instances)
        return [row for row in rows if row.instance_key in keys]
    if series is not None:
        uids = _newest(study_key, "series", list(dict.fromkeys(row.series_instance_uid for row in rows)), series)
        return [row for row in rows if row.series_instance_uid in uids]
    return rows


def _newest(study_key: str, what: str, there: Sequence[str], choice: Choice) -> Sequence[str]:
    if isinstance(choice, int):
        if not 0 < choice <= len(there):
            raise InvalidInput(f"study_key {study_key}: {choice} of its {len(there)} present {what} can't be chosen")
        return there[-choice:]
    _check_all_found(study_key, f"present {what}", choice, there)
    return choice


def _check_all_found(study_key: str, what: str, wanted: Iterable[str], found: Sequence[str]) -> None:
    if lacking := [key for key in wanted if key not in found]:
        raise InvalidInput(f"study_key {study_key}: {lacking[0]} is none of its {what}")


def _all_rows(connection: Connection, study_key: str, *, only_shown: bool = False) -> list[_Row]:
    """The instances of a study, oldest row first."""
    _check_study(connection, study_key)
    cursor = connection.execute(
        "select instance_key::text, series_instance_uid, sop_instance_uid, location, content_version from pacs.instance"
        " where study_key = %s and (removed_at is null or not %s) order by instance_key",
        [study_key, only_shown],
    )
    return [_Row(*row) for row in cursor.fetchall()]


def _check_study(connection: Connection, study_key: str) -> None:
    if connection.execute("select from pacs.study where study_key = %s", [study_key]).rowcount != 1:
        raise no_such("study", study_key)


def _read_target(connection: Connection, study_key: str) -> NewHeader:
    row = connection.execute(
        "select s.study_instance_uid, s.accession_number, s.description, s.study_id, p.patient_id,"
        " p.issuer_of_patient_id, p.name, p.birth_date, p.sex"
        " from pacs.study s join pacs.patient p using (patient_key) where s.study_key = %s",
        [study_key],
    ).fetchone()
    if row is None:
        raise no_such("study", study_key)
    uid, accession_number, description, study_id, *demographics = row
    return NewHeader(uid, accession_number, description, study_id, DemoPatient(*demographics))


def _path(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))


def _as_list(keys: Sequence[str] | None) -> list[str] | None:
    return None if keys is None else list(keys)
