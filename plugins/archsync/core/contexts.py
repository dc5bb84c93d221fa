"""Which presentation contexts to propose, and which instance travels on which association.

An acceptor picks one transfer syntax per context (PS3.8 9.3.3.2), so a context that lists several may come back with
one that strands the instances stored in another. Hence one context per (SOP class, transfer syntax) present, and one
more per SOP class with the uncompressed syntaxes to fall back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_CONTEXTS = 128
"""Presentation context ids are the odd numbers from 1 to 255 (PS3.8 9.3.2.2)."""

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
FALLBACK_SYNTAXES = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """One presentation context to propose."""

    sop_class_uid: str
    transfer_syntax_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssociationPlan:
    """The contexts of one association, and the positions (in the caller's sequence) of the instances it carries."""

    contexts: tuple[ProposedContext, ...]
    positions: tuple[int, ...]


def plan_associations(pairs: Sequence[tuple[str, str]], *, max_contexts: int = MAX_CONTEXTS) -> list[AssociationPlan]:
    """Spread instances, given as (SOP class UID, transfer syntax UID), over as few associations as their contexts need.

    Contexts come in the order in which classes and syntaxes first appear; instances keep their order within an
    association. Same pairs, same plan. Uncompressed syntaxes that are proposed on their own are left out of the
    fallback context, which disappears when nothing is left of it.
    """
    if max_contexts < 2:
        raise ValueError(f"an association needs room for an exact and a fallback context, not {max_contexts}")
    syntaxes_by_class: dict[str, dict[str, None]] = {}
    for sop_class_uid, transfer_syntax_uid in pairs:
        syntaxes_by_class.setdefault(sop_class_uid, {})[transfer_syntax_uid] = None

    groups: list[list[ProposedContext]] = [[]]
    association_of: dict[tuple[str, str], int] = {}
    for sop_class_uid, syntaxes in syntaxes_by_class.items():
        for chunk in _chunks(list(syntaxes), max_contexts - 1):
            wanted = _contexts_for(sop_class_uid, chunk)
            if len(groups[-1]) + len(wanted) > max_contexts:
                groups.append([])
            groups[-1].extend(wanted)
            for transfer_syntax_uid in chunk:
                association_of[sop_class_uid, transfer_syntax_uid] = len(groups) - 1

    positions: list[list[int]] = [[] for _ in groups]
    for position, pair in enumerate(pairs):
        positions[association_of[pair]].append(position)
    return [
        AssociationPlan(tuple(contexts), tuple(where))
        for contexts, where in zip(groups, positions, strict=True)
        if where
    ]


def _contexts_for(sop_class_uid: str, transfer_syntax_uids: Sequence[str]) -> list[ProposedContext]:
    contexts = [ProposedContext(sop_class_uid, (syntax,)) for syntax in transfer_syntax_uids]
    fallback = tuple(syntax for syntax in FALLBACK_SYNTAXES if syntax not in transfer_syntax_uids)
    if fallback:
        contexts.append(ProposedContext(sop_class_uid, fallback))
    return contexts


def _chunks(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
