"""Where the last read of changes ended, and which rows are new since: the two revision modes.

*transaction*: a row's revision is the transaction that wrote it last, and the watermark keeps the snapshot of the last
read. A row version visible now is new exactly if its transaction was not visible in that snapshot: one that committed
late was not, so it is read; nothing is missed and nothing has to wait (``docs/platform.md`` has the argument).

*sequence*: a row's revision is drawn from a sequence. The watermark keeps the highest number seen in each view, and
reading starts ``overlap`` numbers earlier, for transactions that drew a number early and committed late. A
transaction that stays open for more than ``overlap`` numbers can be missed: the nightly comparison finds it.

Both also keep an *epoch*: which database, which views, which history. When it changes (restored from a dump, failed
over, views dropped and made anew), the old watermark says nothing and everything is compared once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import sql

from archsync.core.platform_contract import FOLLOWED_VIEWS
from archsync.errors import ConfigurationError
from archsync.platformdb.connection import Cursor

_SNAPSHOT = re.compile(r"[0-9]+:[0-9]+:([0-9]+(,[0-9]+)*)?")


class RevisionMode(StrEnum):
    """How a site numbers changes."""

    TRANSACTION = "transaction"
    SEQUENCE = "sequence"


@dataclass(frozen=True, slots=True)
class Position:
    """A point in the platform's history.

    ``snapshot`` shows the transactions whose rows were read (PostgreSQL's notation); all transactions lie below
    ``ceiling``; ``highest`` is the highest revision in each followed view.
    """

    mode: RevisionMode
    epoch: str
    snapshot: str
    ceiling: int
    highest: tuple[int, ...]

    @property
    def floor(self) -> int:
        """Every transaction below had ended, and what it wrote was read."""
        return int(self.snapshot.split(":")[0])

    def encode(self) -> str:
        """The text the ledger keeps."""
        return ";".join((self.mode, self.epoch, self.snapshot, str(self.ceiling), ",".join(map(str, self.highest))))

    @classmethod
    def decode(cls, watermark: str) -> Position | None:
        """Read :meth:`encode`'s text; None for one that another version of archsync wrote."""
        try:
            mode, epoch, snapshot, ceiling, highest = watermark.split(";")
            numbers = tuple(map(int, highest.split(",")))
            position = cls(RevisionMode(mode), epoch, snapshot, int(ceiling), numbers)
        except ValueError:
            return None
        return position if _SNAPSHOT.fullmatch(snapshot) and len(numbers) == len(FOLLOWED_VIEWS) else None


@dataclass(frozen=True, slots=True)
class Condition:
    """An SQL condition on a view's ``revision`` column that holds for the rows to read again."""

    template: LiteralString
    parameters: tuple[Any, ...]

    def on(self, alias: str) -> sql.Composed:
        """The condition for the view of that alias."""
        return sql.SQL(self.template).format(revision=sql.Identifier(alias, "revision"))


def fetch_position(cursor: Cursor, schema: str, mode: RevisionMode) -> Position:
    """Ask where the history stands in the cursor's snapshot."""
    names = [view.name for view in FOLLOWED_VIEWS]
    highest = [
        sql.SQL("coalesce((select max(v.revision) from {} v), 0)::text").format(sql.Identifier(schema, name))
        for name in names
    ]
    cursor.execute(
        sql.SQL(
            "select pg_current_snapshot()::text, pg_is_in_recovery(),"
            " (select oid::text from pg_database where datname = current_database()),"
            " array(select c.oid::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = %s and c.relname = any(%s) order by c.relname), {highest}"
        ).format(highest=sql.SQL(", ").join(highest)),
        [schema, names],
    )
    ((snapshot, is_standby, database_id, view_ids, *revisions),) = cursor.fetchall()
    floor, ceiling, _running = snapshot.split(":")
    if is_standby:
        # A standby's snapshot does not list the running transactions: count none from the oldest of them on as read.
        snapshot = f"{floor}:{floor}:"
    epoch = ".".join((_fetch_history_id(cursor), database_id, *view_ids))
    return Position(mode, epoch, snapshot, int(ceiling), tuple(map(_whole, revisions)))


def explain_full_read(last: Position | None, now: Position) -> str | None:
    """Say why changes can't be told from ``last`` and everything has to be compared; None if they can."""
    if last is None:
        return "there is no usable watermark"
    if last.mode is not now.mode:
        return "the revision mode was changed"
    if last.epoch != now.epoch:
        return "the platform's database or views were replaced"
    went_back = (
        now.ceiling < last.ceiling
        if now.mode is RevisionMode.TRANSACTION
        else any(new < old for new, old in zip(now.highest, last.highest, strict=True))
    )
    return "the platform's database was restored to an earlier state" if went_back else None


def conditions_since(last: Position, now: Position, *, overlap: int) -> tuple[Condition, ...]:
    """The conditions, one per followed view, for the rows that changed between ``last`` and ``now``.

    Raises:
        ConfigurationError: in transaction mode, revisions that no transaction of this server can have written.
    """
    if now.mode is RevisionMode.SEQUENCE:
        return tuple(Condition("{revision} > %s", (highest - overlap,)) for highest in last.highest)
    for view, new, old in zip(FOLLOWED_VIEWS, now.highest, last.highest, strict=True):
        if new >= now.ceiling and new > old:
            raise ConfigurationError(
                f"view {view.name}: revision {new} is not the number of a transaction of this server",
                code="platform-revision",
                next_step='Set "revision": "sequence" in the platform connection\'s extra, or number rows as the'
                " reference schema does.",
            )
    # The range is what the index serves. Above the ceiling lie only rows that a restored dump brought along, numbered
    # by another server; they were read when the change of epoch was found.
    condition = Condition(
        "{revision} >= %s and {revision} < %s and not pg_visible_in_snapshot({revision}::text::xid8, %s::pg_snapshot)",
        (last.floor, now.ceiling, last.snapshot),
    )
    return (condition,) * len(FOLLOWED_VIEWS)


def _fetch_history_id(cursor: Cursor) -> str:
    """Name the cluster and its timeline, which a fail-over or a recovery to a point in time changes."""
    cursor.execute(
        "select has_function_privilege('pg_control_system()', 'execute')"
        " and has_function_privilege('pg_control_checkpoint()', 'execute')"
    )
    if cursor.fetchone() != (True,):
        # Revoked on some hosted servers. A history that went back is then noticed by its transaction count alone.
        return "unknown"
    cursor.execute(
        "select system_identifier::text, timeline_id::text from pg_control_system(), pg_control_checkpoint()"
    )
    return ".".join(cursor.fetchall()[0])


def _whole(revision: str) -> int:
    try:
        return int(revision)
    except ValueError:
        raise ConfigurationError(
            "the column revision of the platform's views is not a whole number",
            code="platform-revision",
            next_step="Run `archsync platform check`.",
        ) from None
