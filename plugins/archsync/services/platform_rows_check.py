"""Judge the sampled rows of a platform's views: values, repeats, references, statuses, locations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from archsync.core.platform_contract import INSTANCE, PATIENT, SQL_TYPES, STUDY, Column, Kind, View
from archsync.core.study import ExamStatus
from archsync.errors import InvalidInput, PeerUnavailable
from archsync.net.images import image_size_bytes, is_readable
from archsync.platformdb.facts import PlatformFacts, Reference, TextRow, ViewFacts
from archsync.platformdb.rows import parse_instance
from archsync.services.check_result import CheckResult, Level

#: How many of the newest files are looked at.
_FILES_LOOKED_AT = 50


def judge_sample(schema: str, view: View, found: ViewFacts) -> Iterator[CheckResult]:
    """Name the values of a view that the contract does not allow, and those that may not repeat but do."""
    types = found.column_types or {}
    for position, column in enumerate(view.columns):
        if found.sample is None or types.get(column.name) not in SQL_TYPES[column.kind]:
            continue
        problems: Counter[str] = Counter()
        examples: dict[str, str | None] = {}
        for row in found.sample:
            if column.name == "location" and row[position] is None and _value(view, row, "removed_at") is not None:
                continue
            try:
                column.parse(row[position])
            except ValueError as exc:
                problems[str(exc)] += 1
                examples.setdefault(str(exc), row[0])
        for problem, count in problems.items():
            yield CheckResult(
                view.name,
                column.name,
                Level.ERROR,
                f"{problem} in {count} of {len(found.sample)} rows, such as {view.key} {examples[problem]}",
                _suggest_value(schema, view, column, problem),
            )
    for name, condition in _unique_columns(view):
        yield from _judge_unique(view, found, name, condition)


def _suggest_value(schema: str, view: View, column: Column, problem: str) -> str:
    if column.allowed:
        mapped = f"case <yours> when <your value> then '{column.allowed[-1]}' … end as {column.name}"
        return f"map your values in the view: {mapped}"
    if column.name == "revision":
        return "number the rows there are: update <your table> set revision = 0 where revision is null"
    if problem == "is null" and column.kind is Kind.TEXT:
        return f"coalesce({column.name}, '') as {column.name}, if it may be unknown; else correct the rows"
    if problem == "is null" and column.kind is Kind.FLAG:
        return f"coalesce({column.name}, false) as {column.name}"
    if problem == "is null" and column.minimum is not None:
        return f"coalesce({column.name}, {column.minimum}) as {column.name}, if it is not known better"
    return f"correct the rows, or leave them out: create or replace view {schema}.{view.name} as select … where …"


def _unique_columns(view: View) -> tuple[tuple[str, str], ...]:
    """Columns whose values may not repeat, with the column that must be null for the rule to hold."""
    if view is STUDY:
        return ((view.key, ""), ("study_instance_uid", ""))
    if view is INSTANCE:
        return ((view.key, ""), ("sop_instance_uid", "removed_at"))
    return ((view.key, ""),)


def _judge_unique(view: View, found: ViewFacts, name: str, only_if_null: str) -> Iterator[CheckResult]:
    counts = Counter(
        value
        for row in found.sample or ()
        if (value := _value(view, row, name)) is not None and not (only_if_null and _value(view, row, only_if_null))
    )
    repeated = [value for value, count in counts.items() if count > 1]
    if not repeated:
        return
    what = f"{name} of rows that are not removed" if only_if_null else name
    hint = (
        "a join in the view multiplies rows: join on the other table's key, or use distinct on"
        if name == view.key
        else "show one of them, and set removed_at for the others"
    )
    yield CheckResult(
        view.name,
        name,
        Level.ERROR,
        f"{what}: {len(repeated)} values appear more than once, such as {repeated[0]}",
        hint,
    )


def judge_references(facts: PlatformFacts, view: View) -> Iterator[CheckResult]:
    """Name rows of a view whose patient, facility or study is not there."""
    for reference, orphans in facts.orphans.items():
        if reference.child is not view:
            continue
        target = f"{reference.parent.name}.{reference.parent.key}"
        if isinstance(orphans, str):
            yield CheckResult(
                view.name,
                reference.column,
                Level.ERROR,
                f"can't be compared with {target}: {orphans}",
                f"give both the same type: {reference.column}::text as {reference.column}, and the same in"
                f" {reference.parent.name}",
            )
        elif orphans[0]:
            yield _judge_orphans(reference, orphans[0], orphans[1])
    if view is STUDY and facts.studies_of_merged[0]:
        count, example = facts.studies_of_merged
        yield CheckResult(
            view.name,
            "patient_key",
            Level.INFO,
            f"{count} studies name a patient that was merged into another, such as study_key {example}",
            "fine: archsync takes the patient at the end of the merges as theirs",
        )
    if view is PATIENT and facts.merge_cycles:
        yield CheckResult(
            view.name,
            "merged_into_patient_key",
            Level.ERROR,
            f"the merges of {len(facts.merge_cycles)} patients go round in a circle,"
            f" such as patient_key {facts.merge_cycles[0]}",
            "correct the rows: the surviving patient's merged_into_patient_key is null",
        )


def _judge_orphans(reference: Reference, count: int, example: str | None) -> CheckResult:
    child, parent = reference.child, reference.parent
    # Without its patient or facility a study is refused; a lost predecessor or survivor costs only that link.
    needed = child.column(reference.column).required
    return CheckResult(
        child.name,
        reference.column,
        Level.ERROR if needed else Level.WARNING,
        f"{count} rows name a {parent.name} that the view {parent.name} does not have, such as {child.key} {example}",
        f"let the view {parent.name} show those rows too"
        + (f", or leave theirs out of {child.name}" if needed else f", or give null as {reference.column}"),
    )


def judge_statuses(facts: PlatformFacts) -> Iterator[CheckResult]:
    """Name exam statuses that trigger nothing."""
    known = {status.value for status in ExamStatus}
    rows = facts.views[STUDY.name].sample or []
    counts = Counter(status for row in rows if (status := _value(STUDY, row, "exam_status")) is not None)
    strange = {status: count for status, count in counts.items() if status not in known}
    if strange:
        listed = ", ".join(f"{status!r} ({count})" for status, count in sorted(strange.items()))
        yield CheckResult(
            STUDY.name,
            "exam_status",
            Level.WARNING,
            f"statuses that trigger nothing: {listed}",
            "right for a cancelled exam; else map it: case <yours> when … then 'Completed' … end as exam_status"
            " (Pending, Inflight and Completed trigger; spelling and case count)",
        )
    if counts and not counts.keys() & known:
        yield CheckResult(
            STUDY.name,
            "exam_status",
            Level.ERROR,
            "no study has a status that triggers anything",
            "map your statuses to Pending, Inflight and Completed in the view",
        )


def judge_locations(facts: PlatformFacts) -> Iterator[CheckResult]:
    """Name locations nothing here can read, and look whether the newest files are there."""
    present = [row for row in facts.views[INSTANCE.name].sample or () if _value(INSTANCE, row, "removed_at") is None]
    locations = [location for row in present if (location := _value(INSTANCE, row, "location")) is not None]
    schemes = Counter(_scheme(location) for location in locations)
    for scheme, count in sorted(schemes.items()):
        if not is_readable(f"{scheme}://"):
            named = f"the scheme {scheme}://" if scheme else "no scheme"
            yield CheckResult(
                INSTANCE.name,
                "location",
                Level.ERROR,
                f"{count} of {len(locations)} locations have {named}",
                "give an absolute file URI: 'file:///mount/' || <your path> as location (a blank is %20, a % is %25);"
                " object stores need their Airflow provider here",
            )
    yield from _judge_files(present[:_FILES_LOOKED_AT])


def _scheme(location: str) -> str:
    scheme, separator, _ = location.partition("://")
    return scheme.lower() if separator else ""


def _judge_files(rows: list[TextRow]) -> Iterator[CheckResult]:
    unreadable: list[str] = []
    resized: list[str] = []
    away: PeerUnavailable | None = None
    looked_at = 0
    for row in rows:
        try:
            instance = parse_instance(row)
        except InvalidInput:
            continue
        if not is_readable(instance.location):
            continue
        try:
            size_bytes = image_size_bytes(instance.location, sop_instance_uid=instance.sop_instance_uid)
        except PeerUnavailable as exc:
            away = exc
            break  # the others would only take as long
        except (InvalidInput, OSError):
            looked_at += 1
            unreadable.append(instance.instance_key)
            continue
        looked_at += 1
        if size_bytes not in (None, instance.size_bytes):
            resized.append(instance.instance_key)
    if away is not None:
        yield CheckResult(
            INSTANCE.name,
            "location",
            Level.WARNING,
            f"after {looked_at} of the newest files, {away.message}",
            "check the server that has the images, and the way to it from here",
        )
    if unreadable:
        yield CheckResult(
            INSTANCE.name,
            "location",
            Level.WARNING,
            f"{len(unreadable)} of the {looked_at} newest files can't be read from here,"
            f" such as instance_key {unreadable[0]}",
            "no fault if another machine does the sending; there the same paths have to lead to the files",
        )
    if resized:
        yield CheckResult(
            INSTANCE.name,
            "size_bytes",
            Level.WARNING,
            f"{len(resized)} of the {looked_at} newest files have another size than size_bytes says,"
            f" such as instance_key {resized[0]}",
            "size_bytes is the size of the whole file, in bytes; sizes and progress of jobs are counted with it",
        )


def _value(view: View, row: TextRow, name: str) -> str | None:
    return row[[column.name for column in view.columns].index(name)]
