"""Every error archsync raises on purpose, in one tree grouped by what happens next.

    ArchsyncError
    ├── OurFault               fail now: retrying changes nothing
    │   ├── ConfigurationError     a setting is wrong
    │   └── InvalidInput           a file, row or argument is wrong
    ├── PeerRefused            fail now: the peer understood and said no
    │   └── DestinationMisconfigured   … and would say no to every job (AE title, TLS): the destination stops
    ├── PeerUnavailable        retry later: nothing reached the peer, or it asked for patience
    ├── OutcomeUnknown         retry with the same bytes: it may or may not have arrived
    └── StoreUnavailable       retry later: one of our two databases does not answer
        ├── LedgerUnavailable
        └── PlatformUnavailable

Each error carries a stable ``code`` (an anchor in ``docs/troubleshooting.md``), a sentence for an administrator (the
message), and ``next_step``. Messages name AE titles, UIDs, status codes and job numbers, never a patient.
"""

from __future__ import annotations

from collections.abc import Mapping


class ArchsyncError(Exception):
    """Base of all errors raised on purpose."""

    code = "internal-error"
    next_step = "Report this with the job number; it is a fault in archsync."

    def __init__(self, message: str, *, code: str | None = None, next_step: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if next_step is not None:
            self.next_step = next_step

    @property
    def message(self) -> str:
        """The administrator's sentence."""
        return str(self.args[0])


class OurFault(ArchsyncError):
    """Something on our side is wrong; a retry would fail the same way."""


class ConfigurationError(OurFault):
    """A setting is missing or wrong. ``fields`` says of each setting concerned what is wrong with it."""

    code = "configuration"
    next_step = "Correct the setting named in the message, then retry."

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        next_step: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, next_step=next_step)
        self.fields: Mapping[str, str] = fields or {}


class InvalidInput(OurFault):
    """A file, a row of the platform or an argument can't be used."""

    code = "invalid-input"
    next_step = "Correct the item named in the message on the platform, then retry."


class PeerRefused(ArchsyncError):
    """The peer answered and refused; the same request would be refused again."""

    code = "peer-refused"
    next_step = "Read the status the archive gave, correct the cause, then retry the job."


class DestinationMisconfigured(PeerRefused):
    """The peer refuses us as such (AE title, TLS, authorisation): every job would meet the same answer."""

    code = "destination-misconfigured"
    next_step = (
        "Compare the destination's AE titles and TLS settings with the archive's;"
        " `archsync destination test` says which differs."
    )


class PeerUnavailable(ArchsyncError):
    """The peer can't be reached or asked us to come back later.

    ``reached_peer`` tells whether it answered at all: only attempts that reached the peer count against the
    destination's maximum; those that did not feed the circuit breaker.
    """

    code = "peer-unavailable"
    next_step = "Nothing to do: archsync tries again by itself. If it lasts, check the archive and the network."

    def __init__(
        self, message: str, *, reached_peer: bool = False, code: str | None = None, next_step: str | None = None
    ) -> None:
        super().__init__(message, code=code, next_step=next_step)
        self.reached_peer = reached_peer


class OutcomeUnknown(ArchsyncError):
    """It was sent, and no valid answer came: resend the same bytes."""

    code = "outcome-unknown"
    next_step = "Nothing to do: the same bytes are sent again, which is safe."


class StoreUnavailable(ArchsyncError):
    """One of the two databases does not answer."""

    code = "database-unavailable"
    next_step = "Check the database server; work goes on by itself when it answers."


class LedgerUnavailable(StoreUnavailable):
    """The ledger database does not answer."""

    code = "ledger-unavailable"


class PlatformUnavailable(StoreUnavailable):
    """The platform database does not answer."""

    code = "platform-unavailable"
