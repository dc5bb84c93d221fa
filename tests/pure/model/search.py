"""Random histories, the search for one that breaks a law, and its cut down to what it needs.

A history is a list of numbers: any part of it is a history too.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.history import Event, History
from model.runner import Runner
from model.violation import Violation

CHANGES = {
    "add_study": 6,
    "late_images": 4,
    "remove": 6,
    "restore": 3,
    "delete": 1,
    "delete_study": 1,
    "split": 4,
    "move": 4,
    "merge_studies": 2,
    "change_series": 2,
    "move_study": 4,
    "change_content": 3,
    "replace": 3,
    "correct_name": 3,
    "change_mrn": 4,
    "reuse_mrn": 3,
    "merge_patients": 3,
    "hold": 3,
    "exam": 2,
}
WORK = {
    "plan": 30,
    "plan_one": 2,
    "lose_events": 1,
    "hand_out": 25,
    "start": 30,
    "step": 90,
    "crash": 4,
    "leave": 4,
    "wake": 4,
    "cancel": 3,
    "retry": 6,
}
NAMES = [name for weights in (CHANGES, WORK) for name, weight in weights.items() for _ in range(weight)]


def make_events(seed: int) -> list[Event]:
    dice = random.Random(seed)
    begin: list[Event] = [("add_study", dice.getrandbits(16), dice.getrandbits(16)) for _ in range(2)]
    if dice.random() < 0.7:
        # Most changes matter only where something was archived before.
        begin += [("plan", 0, 0), ("hand_out", 0, 0), *[("start", 0, 0)] * 6, *[("step", 0, 5)] * 60]
    length = dice.randrange(10, 90)
    return begin + [(dice.choice(NAMES), dice.getrandbits(16), dice.getrandbits(16)) for _ in range(length)]


@dataclass
class Failure:
    """A history that breaks a law, cut down to what it needs."""

    seed: int
    violation: Violation
    events: list[Event]
    story: list[str]

    def __str__(self) -> str:
        told = "\n".join(self.story)
        return f"{self.violation}\nseed {self.seed}, {len(self.events)} events:\n{told}"


def try_history(seed: int, events: Sequence[Event], runner: type[Runner]) -> tuple[Violation | None, list[str]]:
    history = History(seed, runner)
    try:
        history.run(events)
    except Violation as violation:
        return violation, history.story
    return None, history.story


def find_failure(seeds: Iterable[int], runner: type[Runner] = Runner) -> Failure | None:
    """The first history among some that breaks a law."""
    for seed in seeds:
        events = make_events(seed)
        violation, story = try_history(seed, events, runner)
        if violation is not None:
            return cut(Failure(seed, violation, events, story), runner)
    return None


def cut(failure: Failure, runner: type[Runner]) -> Failure:
    """Leave out events as long as the same law is broken."""
    size = len(failure.events)
    while size := size // 2:
        start = 0
        while start < len(failure.events):
            events = failure.events[:start] + failure.events[start + size :]
            violation, story = try_history(failure.seed, events, runner)
            if violation is not None and violation.law == failure.violation.law:
                failure = Failure(failure.seed, violation, events, story)
            else:
                start += size
    return failure
