"""Configuration as code: read a YAML file, say how it differs from the ledger, bring the ledger to it.

Everything wrong with a file is said at once, each with its line. What the file does not name is left as it is:
destinations, gateways and single settings; nothing is ever deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import yaml

from archsync.core.destination import Destination
from archsync.core.settings import parse_value
from archsync.errors import ConfigurationError
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import Gateway
from archsync.services import destinations, gateways
from archsync.services.destinations import KnownFacilities, SettingChange
from archsync.services.gateways import GatewaySettings

SECTIONS = ("gateways", "destinations")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong in a file, and the line where."""

    line: int
    message: str


class BadFile(ConfigurationError):
    """A configuration file can't be used; ``problems`` says all that is wrong with it."""

    code = "bad-configuration-file"
    next_step = "Correct the lines named; nothing was changed."

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(set(problems)))
        super().__init__("; ".join(f"{source}:{problem.line}: {problem.message}" for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Entry:
    """A gateway or destination as a file names it: its settings, still text or lists of text, and their lines."""

    name: str
    line: int
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    is_sound: bool
    """False: part of it could not be read, which is among the document's problems."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and what in it could not be read."""

    source: str
    gateways: tuple[Entry, ...] = ()
    destinations: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One gateway or destination that the file makes (``is_new``) or changes."""

    kind: str
    name: str
    is_new: bool
    changes: tuple[SettingChange, ...]
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to happen for the ledger to say what the file says."""

    steps: tuple[Step, ...]
    left_alone: tuple[str, ...]
    """Destinations and gateways that the file does not name."""
    kept: Mapping[str, tuple[str, ...]]
    """Destination → settings that differ from their defaults and that the file does not name."""

    @property
    def changes_nothing(self) -> bool:
        """True when the ledger says already what the file says."""
        return not self.steps


# -- reading ---------------------------------------------------------------------------------------------------------


def read_document(text: str, *, source: str) -> Document:
    """Read a file's text; ``source`` names it in messages. Parts of the wrong shape become its ``problems``.

    Raises:
        BadFile: it is not YAML.
    """
    problems: list[Problem] = []
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise BadFile(source, [Problem(line, f"not YAML: {exc.problem or exc.context}")]) from None
    except yaml.YAMLError as exc:
        raise BadFile(source, [Problem(1, f"not YAML: {str(exc).splitlines()[0]}")]) from None
    if root is None:
        raise BadFile(source, [Problem(1, "the file is empty")])
    sections: dict[str, tuple[Entry, ...]] = {}
    for key, node in _pairs(root, "the file", problems):
        if key.value in SECTIONS:
            sections[key.value] = tuple(_entries(node, key.value, problems))
        else:
            problems.append(Problem(_line(key), f"unknown section {key.value!r}; there are {' and '.join(SECTIONS)}"))
    return Document(source, **sections, problems=tuple(problems))


def _pairs(node: yaml.Node, what: str, problems: list[Problem]) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping; repeated keys and other kinds of node are problems."""
    if _is_null(node):
        return
    if not isinstance(node, yaml.MappingNode):
        problems.append(Problem(_line(node), f"{what} must be a mapping (name: value)"))
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            problems.append(Problem(_line(key), f"{what}: a name must be plain text"))
        elif key.value in seen:
            problems.append(Problem(_line(key), f"{key.value!r} is named twice, first in line {seen[key.value]}"))
        else:
            seen[key.value] = _line(key)
            yield key, value


def _entries(node: yaml.Node, section: str, problems: list[Problem]) -> Iterator[Entry]:
    for key, settings in _pairs(node, section, problems):
        found = len(problems)
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, value in _pairs(settings, f"{section}, {key.value}", problems):
            lines[name.value] = _line(name)
            try:
                values[name.value] = _plain_value(value)
            except TypeError:
                problems.append(Problem(_line(value), f"{name.value}: must be a single value or a list of them"))
        if "name" in values:
            problems.append(Problem(lines["name"], "name: the entry's key is the name"))
        yield Entry(key.value, _line(key), values, lines, is_sound=len(problems) == found)


def _plain_value(node: yaml.Node) -> Any:
    """A scalar as the text it is written as, so that 0123 stays 0123; a list of them; None for null."""
    if isinstance(node, yaml.ScalarNode):
        return None if _is_null(node) else node.value
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [item.value for item in node.value]
    raise TypeError("a mapping, or a list of something else than values")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# -- comparing -------------------------------------------------------------------------------------------------------


def compare(
    ledger: Ledger, facilities: KnownFacilities, document: Document, *, override_reason: str | None = None
) -> Plan:
    """Say what has to be made or changed for the ledger to say what the file says.

    Raises:
        BadFile: the document has problems already, or settings are unknown, wrong, missing, name what does not exist,
            or need ``override_reason``.
    """
    problems = list(document.problems)
    known_gateways = {gateway.name: gateway for gateway in store.gateways(ledger)}
    known = {destination.name: destination for destination in store.all_destinations(ledger)}
    steps = [
        step
        for entry in document.gateways
        if entry.is_sound and (step := _compare_gateway(entry, known_gateways.get(entry.name), facilities, problems))
    ]
    gateway_names = {*known_gateways, *(entry.name for entry in document.gateways)}
    kept: dict[str, tuple[str, ...]] = {}
    for entry in document.destinations:
        current = known.get(entry.name)
        wanted = _wanted(entry, current, problems) if entry.is_sound else None
        if wanted is None:
            continue
        changes = destinations.differences(current, wanted)
        problems += _problems_of(
            ledger, facilities, entry, current, wanted, changes, gateway_names, may_override=override_reason is not None
        )
        if current is not None:
            kept[entry.name] = tuple(
                str(change) for change in destinations.differences(None, current) if change.name not in entry.values
            )
        if changes or current is None:
            steps.append(Step("destination", entry.name, current is None, changes, entry.values))
    if problems:
        raise BadFile(document.source, problems)
    named = {entry.name for entry in document.destinations}
    named_gateways = {entry.name for entry in document.gateways}
    left_alone = [f"gateway {name}" for name in sorted(known_gateways) if name not in named_gateways]
    left_alone += [f"destination {name}" for name in sorted(known) if name not in named]
    return Plan(tuple(steps), tuple(left_alone), {name: what for name, what in kept.items() if what})


def _collect(entry: Entry, cls: type, problems: list[Problem]) -> dict[str, Any] | None:
    """The typed settings of an entry with its name; None when one is unknown or wrong."""
    typed: dict[str, Any] = {}
    found = len(problems)
    for name, value in {"name": entry.name, **entry.values}.items():
        try:
            typed[name] = parse_value(cls, name, value)
        except ConfigurationError as exc:
            problems.append(Problem(entry.lines.get(name, entry.line), exc.message))
    return typed if len(problems) == found else None


def _build(entry: Entry, problems: list[Problem], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except ConfigurationError as exc:
        problems.append(Problem(entry.line, f"{entry.name}: {exc.message}"))
        return None


def _wanted(entry: Entry, current: Destination | None, problems: list[Problem]) -> Destination | None:
    typed = _collect(entry, Destination, problems)
    if typed is None:
        return None
    return _build(
        entry, problems, lambda: destinations.build(typed) if current is None else destinations.rebuild(current, typed)
    )


def _problems_of(
    ledger: Ledger,
    facilities: KnownFacilities,
    entry: Entry,
    current: Destination | None,
    wanted: Destination,
    changes: tuple[SettingChange, ...],
    gateway_names: set[str],
    *,
    may_override: bool,
) -> Iterator[Problem]:
    """What is wrong with a destination beyond its own settings: what it names, and what must not change."""
    changed = {change.name for change in changes}
    for problem in destinations.names_unknown(ledger, facilities, wanted, changed, gateway_names=gateway_names):
        (setting,) = problem.fields
        yield Problem(entry.lines[setting], problem.message)
    if current is not None and not may_override and (tied := destinations.changes_identity(ledger, current, changes)):
        yield Problem(
            entry.lines[tied[0]], destinations.identity_problem(current, tied) + "; --override-lock REASON allows it"
        )


def _compare_gateway(
    entry: Entry, current: Gateway | None, facilities: KnownFacilities, problems: list[Problem]
) -> Step | None:
    typed = _collect(entry, GatewaySettings, problems)
    if typed is None:
        return None
    if current is not None:
        typed = {"facility_group": current.facility_group, "queue": current.queue, **typed}
    settings = _build(entry, problems, lambda: gateways.build(typed))
    if settings is None:
        return None
    wanted = settings.as_gateway()
    changes = tuple(
        SettingChange(name, None if current is None else getattr(current, name), getattr(wanted, name))
        for name in ("facility_group", "queue")
        if current is None or getattr(current, name) != getattr(wanted, name)
    )
    if any(change.name == "facility_group" for change in changes):
        line = entry.lines.get("facility_group", entry.line)
        unknown = destinations.unknown_scope(facilities, facility_groups=(wanted.facility_group,))
        problems.extend(Problem(line, message) for message in unknown)
    return Step("gateway", entry.name, current is None, changes, typed) if changes else None


# -- applying --------------------------------------------------------------------------------------------------------


def apply(
    ledger: Ledger,
    facilities: KnownFacilities,
    plan: Plan,
    *,
    actor: str,
    now: datetime,
    override_reason: str | None = None,
) -> None:
    """Carry out a plan, all of it or nothing.

    Raises:
        ConfigurationError: the ledger changed since the plan was made, so that a step is not possible any more.
    """
    with ledger.transaction():
        for step in plan.steps:
            if step.kind == "gateway":
                _apply_gateway(ledger, facilities, step, actor)
            elif step.is_new:
                destinations.create(ledger, facilities, {**step.values, "name": step.name}, actor=actor)
            else:
                destinations.change(
                    ledger,
                    facilities,
                    step.name,
                    step.values,
                    actor=actor,
                    now=now,
                    override_reason=override_reason,
                )


def _apply_gateway(ledger: Ledger, facilities: KnownFacilities, step: Step, actor: str) -> None:
    if step.is_new:
        gateways.create(ledger, facilities, step.values, actor=actor)
    else:
        gateways.change(ledger, gateways.build(step.values).as_gateway(), actor=actor)
