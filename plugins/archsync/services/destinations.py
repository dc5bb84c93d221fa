"""Making, changing and deleting destinations: what the command line, the configuration file and the pages all call.

Every change is checked as a whole, written with its audit entry in one transaction, and followed by what makes the
dispatcher and the planner see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from datetime import datetime
from typing import Any

from archsync.core.destination import Destination
from archsync.core.naming import PEERS, DagKind
from archsync.core.settings import format_value, parse_settings, setting_fields
from archsync.core.study import Facility
from archsync.errors import ConfigurationError
from archsync.ledger import destinations as store
from archsync.ledger import plan_queue
from archsync.ledger.database import Ledger
from archsync.ledger.destinations import Forgotten
from archsync.messages.hl7_ack import parse_ack_overrides

#: Gives the platform's facilities; called only when a scope has to be checked.
KnownFacilities = Callable[[], Sequence[Facility]]

#: What the ledger's facts are tied to: another archive behind the same name would make them untrue. How ADT messages
#: get there is not: the receiver may be an interface engine, and what counts is what the archive holds.
IDENTITY = frozenset({"called_ae_title", "host"})
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
        ConfigurationError: a setting is unknown, wrong or missing; the message names all of them.
    """
    typed = parse_settings(Destination, values)
    missing = [name for name in REQUIRED if name not in typed]
    if missing:
        raise ConfigurationError(f"a destination needs {', '.join(missing)}", code="bad-setting")
    return _checked(Destination(**typed))


def rebuild(current: Destination, values: Mapping[str, Any]) -> Destination:
    """Check new values for some settings of a destination and give the destination as it would be.

    Raises:
        ConfigurationError: a setting is unknown or wrong; the message names all of them.
    """
    typed = parse_settings(Destination, values)
    if typed.get("name", current.name) != current.name:
        raise ConfigurationError(
            f"name: destination {current.name} can't be renamed; its jobs, DAGs and pool carry the name",
            code="bad-setting",
            next_step="Make a new destination, or keep the name.",
        )
    return _checked(replace(current, **typed))


def _checked(destination: Destination) -> Destination:
    """The destination, once what its settings leave to the messages is checked."""
    try:
        parse_ack_overrides(destination.adt_ack_overrides)
    except ConfigurationError as exc:
        raise ConfigurationError(f"adt_{exc.message}", code="bad-setting") from exc
    return destination


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


def create(ledger: Ledger, facilities: KnownFacilities, values: Mapping[str, Any], *, actor: str) -> Destination:
    """Make a destination; every study is then compared with what it holds, which is nothing yet.

    Raises:
        ConfigurationError: a setting is wrong, the name is taken, or a facility, group or gateway does not exist.
    """
    wanted = build(values)
    _check_scope(facilities, wanted, {"facilities", "facility_groups"})
    with ledger.transaction():
        made = store.insert(ledger, wanted)
        _record(ledger, actor, "destination.create", made, _as_text(differences(None, made)))
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
        wanted = rebuild(current, values)
        changes = differences(current, wanted)
        if not changes:
            return ()
        changed = {change.name for change in changes}
        _check_scope(facilities, wanted, changed)
        tied = changes_identity(ledger, current, changes)
        if tied and not override_reason:
            raise ConfigurationError(
                identity_problem(current, tied),
                code="identity-locked",
                next_step="If the same archive moved, repeat with --override-lock REASON; for another one make a new"
                " destination.",
            )
        store.update(ledger, wanted)
        if tied:
            detail = f"{_as_text(changes)}; lock overridden: {override_reason}"
            _record(ledger, actor, "destination.override", wanted, detail)
        else:
            _record(ledger, actor, "destination.set", wanted, _as_text(changes))
        if changed & DECIDES_WHAT_IS_DUE:
            plan_queue.reset_watermark(ledger)
        for peer, known_health in health.items():
            if changed & DECIDES_REACH[peer] and known_health.is_down:
                store.set_health(ledger, _id(current), peer, replace(known_health, probe_at=now))
        store.look_again(ledger, _id(current), now)
        store.notify_work(ledger)
    return changes


def _check_scope(facilities: KnownFacilities, wanted: Destination, changed: set[str]) -> None:
    problems = unknown_scope(
        facilities,
        facility_ids=wanted.facilities if "facilities" in changed else (),
        facility_groups=wanted.facility_groups if "facility_groups" in changed else (),
    )
    if problems:
        raise ConfigurationError("; ".join(problems), code="unknown-facility", next_step="Name only those.")


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
                " to delete it all the same, repeat with --override-lock REASON.",
            )
        forgotten = store.delete(ledger, _id(found))
        detail = f"{forgotten.studies} archived studies and {forgotten.jobs} jobs forgotten"
        if override_reason:
            detail += f"; lock overridden: {override_reason}"
        _record(ledger, actor, "destination.delete", found, detail)
    return forgotten


def _as_text(changes: Sequence[SettingChange]) -> str:
    return "; ".join(map(str, changes))


def _record(ledger: Ledger, actor: str, action: str, destination: Destination, detail: str) -> None:
    store.audit(ledger, actor=actor, action=action, subject=f"destination {destination.name}", detail=detail)


def _id(destination: Destination) -> int:
    assert destination.destination_id is not None, "read from the ledger"
    return destination.destination_id
