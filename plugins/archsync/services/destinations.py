"""Making, changing and deleting destinations: what the command line, the configuration file and the pages all call.

Every change is checked as a whole, written with its audit entry in one transaction, and followed by what makes the
dispatcher and the planner see it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from datetime import datetime
from typing import Any

from archsync.core.audit import AuditAction
from archsync.core.destination import Destination
from archsync.core.naming import PEERS, DagKind
from archsync.core.settings import as_one, check_settings, format_value, parse_settings, setting_fields, wrong_setting
from archsync.core.study import Facility
from archsync.errors import ConfigurationError
from archsync.ledger import audit, plan_queue
from archsync.ledger import destinations as store
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import Forgotten
from archsync.messages.hl7_ack import parse_ack_overrides

#: Gives the platform's facilities; called only when a scope has to be checked.
KnownFacilities = Callable[[], Sequence[Facility]]

#: What the ledger's facts are tied to: another archive behind the same name would make them untrue. How ADT messages
#: get there is not: the receiver may be an interface engine, and what counts is what the archive holds.
IDENTITY = frozenset({"called_ae_title", "host"})
#: Settings that name what has to exist.
_NAMING = frozenset({"facilities", "facility_groups", "gateway"})
#: Settings that decide what is due: every study is compared again when one changes.
DECIDES_WHAT_IS_DUE = frozenset(
    {
        *("trigger_status", "facilities", "facility_groups"),
        *("profile", "supports_iocm", "without_iocm", "rejection_titles", "adt_host"),
    }
)
#: Settings that decide whether a peer can be reached: one that is down is probed at once when one changes.
DECIDES_REACH: Mapping[DagKind, frozenset[str]] = {
    DagKind.ARCHIVE: IDENTITY
    | {
        "port",
        "calling_ae_title",
        "tls",
        "tls_ca_file",
        "tls_certificate_file",
        "tls_private_key_file",
        "tls_check_hostname",
    },
    DagKind.ADT: frozenset(name for name in setting_fields(Destination) if name.startswith("adt_")),
}

#: Settings without a default.
REQUIRED = tuple(name for name, field in setting_fields(Destination).items() if field.default is MISSING)


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting with its value before (None: it is new) and after, as text."""

    name: str
    old: str | None
    new: str

    def __str__(self) -> str:
        return f"{self.name}: {self.new}" if self.old is None else f"{self.name}: {self.old or '∅'} → {self.new or '∅'}"


def build(values: Mapping[str, Any]) -> Destination:
    """Check the settings of a new destination; those not given take their defaults.

    Raises:
        ConfigurationError: a setting is unknown, wrong or missing; the error names all of them.
    """
    return _sound(*examine(values))


def rebuild(current: Destination, values: Mapping[str, Any]) -> Destination:
    """Check new values for some settings of a destination and give the destination as it would be.

    Raises:
        ConfigurationError: a setting is unknown or wrong; the error names all of them.
    """
    return _sound(*examine(values, current))


def _sound(destination: Destination, problems: Sequence[ConfigurationError]) -> Destination:
    if problems:
        raise as_one(problems)
    return destination


def examine(
    values: Mapping[str, Any], current: Destination | None = None
) -> tuple[Destination, list[ConfigurationError]]:
    """All that is wrong with the settings of a new destination, or with new values for some of an existing one's.

    The destination as it would be is given too; what is wrong in it stays as it is, what is missing is an example.
    """
    missing = [name for name in REQUIRED if values.get(name, None if current is None else "") is None]
    typed, problems = check_settings(Destination, {name: v for name, v in values.items() if name not in missing})
    if missing:
        needed = f"a destination needs {', '.join(missing)}"
        problems.append(ConfigurationError(needed, code="bad-setting", fields=dict.fromkeys(missing, "is needed")))
    if current is None:
        stand_in = {name: setting_fields(Destination)[name].metadata["example"] for name in REQUIRED}
        current = Destination(**parse_settings(Destination, stand_in))
    elif typed.get("name", current.name) != current.name:
        problems.append(_renamed(current))
        del typed["name"]
    wrong = {name for problem in problems for name in problem.fields}
    try:
        wanted = replace(current, **typed)
    except ConfigurationError as exc:
        # What the settings name is looked up all the same.
        wanted = replace(current, **{name: value for name, value in typed.items() if name in _NAMING})
        if not wrong & exc.fields.keys():  # else the wrong one may be all that does not fit
            problems.append(exc)
    try:
        parse_ack_overrides(typed.get("adt_ack_overrides", ()))
    except ConfigurationError as exc:
        problems.append(wrong_setting("adt_ack_overrides", exc.message.removeprefix("ack_overrides: ")))
    return wanted, problems


def _renamed(current: Destination) -> ConfigurationError:
    sentence = f"destination {current.name} can't be renamed; its jobs, DAGs and pool carry the name"
    return ConfigurationError(
        f"name: {sentence}",
        code="bad-setting",
        next_step="Make a new destination, or keep the name.",
        fields={"name": sentence},
    )


def names_unknown(
    ledger: Ledger,
    facilities: KnownFacilities,
    wanted: Destination,
    changed: Collection[str],
    *,
    gateway_names: Collection[str] | None = None,
) -> list[ConfigurationError]:
    """What a destination's changed settings name that does not exist: facilities, their groups, its gateway.

    ``gateway_names`` are the gateways there are; None: those of the ledger.
    """
    problems = []
    for setting, argument, names in (
        ("facilities", "facility_ids", wanted.facilities),
        ("facility_groups", "facility_groups", wanted.facility_groups),
    ):
        if setting in changed and (unknown := unknown_scope(facilities, **{argument: names})):
            said = "; ".join(unknown)
            problems.append(
                ConfigurationError(said, code="unknown-facility", next_step="Name only those.", fields={setting: said})
            )
    if "gateway" in changed and wanted.gateway is not None:
        if gateway_names is None:
            gateway_names = [gateway.name for gateway in store.gateways(ledger)]
        if wanted.gateway not in gateway_names:
            listed = ", ".join(sorted(gateway_names)) or "none"
            sentence = f"there is no gateway {wanted.gateway!r} (there are {listed})"
            problems.append(
                ConfigurationError(
                    f"gateway: {sentence}",
                    code="unknown-gateway",
                    next_step="Choose one of them, or make it first.",
                    fields={"gateway": sentence},
                )
            )
    return problems


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with settings, by setting, and which of them can be changed with an override only."""

    fields: Mapping[str, str]
    locked: Mapping[str, str]


def check(
    ledger: Ledger, facilities: KnownFacilities, values: Mapping[str, Any], *, name: str | None = None
) -> Findings:
    """Say all that is wrong with the settings of a new destination, or with changes to the one called ``name``.

    Raises:
        ConfigurationError: there is no destination ``name``.
    """
    current = None if name is None else store.get(ledger, name)
    wanted, problems = examine(values, current)
    wrong = {setting for problem in problems for setting in problem.fields}
    changes = [change for change in differences(current, wanted) if change.name not in wrong]
    problems += names_unknown(ledger, facilities, wanted, {change.name for change in changes})
    locked: dict[str, str] = {}
    if current is None:
        if "name" not in wrong and store.exists(ledger, wanted.name):
            problems.append(store.duplicate(wanted.name))
    elif tied := changes_identity(ledger, current, changes):
        locked = dict.fromkeys(tied, identity_problem(current, tied))
    return Findings(as_one(problems).fields if problems else {}, locked)


def differences(old: Destination | None, new: Destination) -> tuple[SettingChange, ...]:
    """What differs between two states of a destination; of a new one, all that is not its default."""
    changes = []
    for name, field in setting_fields(Destination).items():
        after = getattr(new, name)
        if old is None:
            if name != "name" and after != field.default:
                changes.append(SettingChange(name, None, format_value(after)))
        elif (before := getattr(old, name)) != after:
            changes.append(SettingChange(name, format_value(before), format_value(after)))
    return tuple(changes)


def unknown_scope(
    facilities: KnownFacilities, *, facility_ids: Sequence[str] = (), facility_groups: Sequence[str] = ()
) -> list[str]:
    """Name the facilities and groups that the platform does not have, each with those it has."""
    if not facility_ids and not facility_groups:
        return []
    known = facilities()
    ids, groups = {f.facility_id for f in known}, {f.facility_group for f in known}
    return [
        *(_unknown("facility", name, ids) for name in facility_ids if name not in ids),
        *(_unknown("facility group", name, groups) for name in facility_groups if name not in groups),
    ]


def _unknown(what: str, name: str, known: set[str]) -> str:
    listed = ", ".join(sorted(known)) or "none"
    return f"the platform has no {what} {name!r} (it has {listed})"


def changes_identity(ledger: Ledger, current: Destination, changes: Sequence[SettingChange]) -> list[str]:
    """The changed settings that the facts about a destination are tied to, if there are any facts; else none.

    An instance that was offered counts, for the archive may have it, and so does a job that runs now. Jobs that wait or
    failed do not: they say what should be, which is as right at an address that was mistyped and is corrected.
    """
    tied = [change.name for change in changes if change.name in IDENTITY]
    if not tied:
        return []
    use = store.use(ledger, _id(current))
    return tied if use.holds_instances or use.has_running_jobs else []


def identity_problem(destination: Destination, tied: Sequence[str]) -> str:
    """The sentence that refuses to change what a destination's facts are tied to."""
    names = " and ".join(tied)
    return (
        f"{names}: {destination.name} holds studies, or one is on its way, and the ledger's facts are about the"
        " archive it names now"
    )


@dataclass(frozen=True, slots=True)
class Lock:
    """What of a destination can be changed, or forgotten, with an override only; ``reason`` None: no setting."""

    reason: str | None
    settings: tuple[str, ...]
    needs_reason_to_delete: bool


def lock_of(ledger: Ledger, destination: Destination) -> Lock:
    """Say what of a destination is locked."""
    use = store.use(ledger, _id(destination))
    tied = tuple(name for name in setting_fields(Destination) if name in IDENTITY)
    is_locked = use.holds_instances or use.has_running_jobs
    return Lock(
        reason=identity_problem(destination, tied) if is_locked else None,
        settings=tied if is_locked else (),
        needs_reason_to_delete=use.holds_instances or use.has_jobs,
    )


def create(ledger: Ledger, facilities: KnownFacilities, values: Mapping[str, Any], *, actor: str) -> Destination:
    """Make a destination; every study is then compared with what it holds, which is nothing yet.

    Raises:
        ConfigurationError: a setting is wrong, the name is taken, or a facility, group or gateway does not exist.
    """
    wanted, problems = examine(values)
    wrong = {name for problem in problems for name in problem.fields}
    problems += names_unknown(ledger, facilities, wanted, _NAMING - wrong)
    if problems:
        raise as_one(problems)
    with ledger.transaction():
        made = store.insert(ledger, wanted)
        _record(ledger, actor, AuditAction.DESTINATION_CREATE, made, _as_text(differences(None, made)))
        plan_queue.reset_watermark(ledger)
        store.notify_work(ledger)
    return made


def change(
    ledger: Ledger,
    facilities: KnownFacilities,
    name: str,
    values: Mapping[str, Any],
    *,
    actor: str,
    now: datetime,
    override_reason: str | None = None,
) -> tuple[SettingChange, ...]:
    """Change settings of a destination and return what changed; nothing is written when nothing does.

    ``override_reason`` allows to point a destination that holds studies at another archive (another AE title or host),
    which is right when the same archive has moved. It is audited.

    Raises:
        ConfigurationError: there is no such destination, a setting is wrong, a facility, group or gateway does not
            exist, or the change needs ``override_reason``.
    """
    with ledger.transaction():
        known = store.get(ledger, name)
        # The rows that every destination has: locking them puts concurrent changes in order.
        health = {peer: store.lock_health(ledger, _id(known), peer) for peer in PEERS}
        current = store.get(ledger, name)
        wanted, problems = examine(values, current)
        changes = differences(current, wanted)
        changed = {change.name for change in changes}
        problems += names_unknown(ledger, facilities, wanted, changed)
        if problems:
            raise as_one(problems)
        if not changes:
            return ()
        tied = changes_identity(ledger, current, changes)
        if tied and not override_reason:
            raise ConfigurationError(
                identity_problem(current, tied),
                code="identity-locked",
                fields=dict.fromkeys(tied, "is locked"),
                next_step="If the same archive moved, repeat with a reason (on the command line: --override-lock"
                " REASON); for another one make a new destination.",
            )
        store.update(ledger, wanted)
        if tied:
            detail = f"{_as_text(changes)}; lock overridden: {override_reason}"
            _record(ledger, actor, AuditAction.DESTINATION_OVERRIDE, wanted, detail)
        else:
            _record(ledger, actor, AuditAction.DESTINATION_SET, wanted, _as_text(changes))
        if changed & DECIDES_WHAT_IS_DUE:
            plan_queue.reset_watermark(ledger)
        for peer, known_health in health.items():
            if changed & DECIDES_REACH[peer] and known_health.is_down:
                store.set_health(ledger, _id(current), peer, replace(known_health, probe_at=now))
        store.look_again(ledger, _id(current), now)
        store.notify_work(ledger)
    return changes


def delete(ledger: Ledger, name: str, *, actor: str, override_reason: str | None = None) -> Forgotten:
    """Delete a destination with its jobs and with what the ledger knows of its archive, which itself keeps everything.

    Raises:
        ConfigurationError: there is no such destination, a job of it runs, or it was used and ``override_reason`` is
            not given.
    """
    with ledger.transaction():
        found = store.get(ledger, name)
        store.lock(ledger, _id(found))
        use = store.use(ledger, _id(found))
        if use.has_running_jobs:
            raise ConfigurationError(
                f"a job of {name} is running",
                code="destination-busy",
                next_step=f"`archsync destination disable {name}`, wait for what runs, then delete it.",
            )
        if (use.holds_instances or use.has_jobs) and not override_reason:
            what = "holds studies" if use.holds_instances else "has jobs"
            raise ConfigurationError(
                f"{name} {what}, and the ledger would forget them",
                code="destination-in-use",
                next_step=f"`archsync destination disable {name}` stops it and keeps what is known;"
                " to delete it all the same, repeat with a reason (on the command line: --override-lock REASON).",
            )
        forgotten = store.delete(ledger, _id(found))
        detail = f"{forgotten.studies} archived studies and {forgotten.jobs} jobs forgotten"
        if override_reason:
            detail += f"; lock overridden: {override_reason}"
        _record(ledger, actor, AuditAction.DESTINATION_DELETE, found, detail)
    return forgotten


def _as_text(changes: Sequence[SettingChange]) -> str:
    return "; ".join(map(str, changes))


def _record(ledger: Ledger, actor: str, action: AuditAction, destination: Destination, detail: str) -> None:
    audit.record(ledger, actor=actor, action=action, subject=f"destination {destination.name}", detail=detail)


def _id(destination: Destination) -> int:
    assert destination.destination_id is not None, "read from the ledger"
    return destination.destination_id
