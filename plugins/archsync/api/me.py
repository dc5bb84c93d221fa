"""Who is asking, and what they may do: the pages show no button that would be refused."""

from __future__ import annotations

from pydantic import BaseModel

from archsync.api.access import Actor, CurrentUser, Right, guarded_router, is_granted, needs

router = guarded_router("me")


class Me(BaseModel):
    """The user of Airflow who asks."""

    user: str
    rights: list[Right]


@router.get("/me", dependencies=[needs(Right.READ)])
def read_me(user: CurrentUser, actor: Actor) -> Me:
    """Say who asks and which rights they have."""
    return Me(user=actor, rights=[right for right in Right if is_granted(user, right)])
