"""What a history ends with when it breaks a law."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold. ``law`` names it: a shorter history counts if it breaks the same one."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"{law}: {detail}")
        self.law = law
