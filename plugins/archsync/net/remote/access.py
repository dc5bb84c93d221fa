"""What reading remote images needs of whoever runs us: where Airflow is, its connections and file systems."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from archsync.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class WebLogin:
    """What to show a web server, and to none but this one. Without ``user``, ``secret`` is a bearer token.

    ``scheme`` and ``port`` None: any.
    """

    host: str
    scheme: str | None
    port: int | None
    user: str | None
    secret: str = field(repr=False)


class ImageAccess(Protocol):
    """The way to connections and object stores. Called by any thread."""

    def login(self, conn_id: str) -> WebLogin:
        """The login that a connection holds. ConfigurationError: it is not defined, or holds none."""

    def knows(self, scheme: str) -> bool:
        """True if there is a file system for this scheme."""

    def find_object(self, location: str) -> tuple[Any, str]:
        """The fsspec file system that a location of a known scheme leads to, and the path in it.

        Raises:
            ConfigurationError: its connection is not defined, or the file system can't be made.
        """


class NoAccess:
    """Outside Airflow: web servers that ask for no login."""

    def login(self, conn_id: str) -> WebLogin:
        """There is none."""
        raise ConfigurationError(
            f"the Airflow connection {conn_id!r} can't be read: this process runs without Airflow",
            code="connection-missing",
        )

    def knows(self, scheme: str) -> bool:  # noqa: ARG002 - it is the same for all
        """None is."""
        return False

    def find_object(self, location: str) -> tuple[Any, str]:
        """Never asked, as none is known."""
        raise NotImplementedError(location.partition(":")[0])


_access: ImageAccess = NoAccess()


def use(access: ImageAccess) -> None:
    """Have this process read images with ``access`` from now on."""
    global _access
    _access = access


def current() -> ImageAccess:
    """What this process reads images with."""
    return _access
