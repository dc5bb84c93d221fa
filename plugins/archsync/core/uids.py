"""UIDs that archsync makes: for rejection notes and replacement instances."""

from __future__ import annotations

import uuid

_NAMESPACE = uuid.UUID("6a1f4f0e-5a0b-4f0c-9a53-2f6d0e9c7b41")


def derive_uid(*parts: str) -> str:
    """A valid UID under 2.25 (PS3.5 B.2) that follows from ``parts`` alone: a version 5 UUID as a whole number."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0x1F).join(parts)).int}"
