"""The simulated archive as a process of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from archsync.simulate.adt_rudeness import ADT_RUDENESS_FILE, read_adt_script
from archsync.simulate.adt_script import AdtScript
from archsync.simulate.archive import SimulatedArchive
from archsync.simulate.control_file import ControlFile
from archsync.simulate.iocm import IocmRules
from archsync.simulate.rudeness import RUDENESS_FILE, Rudeness


def run_archive(
    folder: Path,
    port: int,
    *,
    ae_title: str = "SIMARCHIVE",
    host: str = "127.0.0.1",
    announce: Callable[[str], None],
    iocm: IocmRules | None = None,
    adt_port: int | None = None,
    poll_s: float = 0.5,
) -> None:
    """Run an archive until SIGTERM or SIGINT; ``announce`` gets a line when it listens. For the main thread.

    With ``adt_port`` (0: a free one) an HL7 receiver changes what it shows; it is announced in a second line.

    The rudeness is read from ``rudeness.json`` in ``folder``, if there is one, that of the receiver from
    ``adt-rudeness.json``, and again whenever those files change. A file with mistakes is reported and changes nothing.

    Raises:
        ConfigurationError: the port can't be listened on, or the folder not be written to.
    """
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with ExitStack() as stack:
        archive = stack.enter_context(SimulatedArchive(folder, port, ae_title=ae_title, host=host, iocm=iocm))
        receiver = None
        if adt_port is not None:
            receiver = stack.enter_context(archive.make_adt_receiver(adt_port, host=host))
        control = ControlFile(folder / RUDENESS_FILE, read=Rudeness.from_json, polite=Rudeness())
        adt_control = ControlFile(folder / ADT_RUDENESS_FILE, read=read_adt_script, polite=AdtScript())

        def behave() -> None:
            control.apply_to(archive.behave)
            if receiver is not None:
                adt_control.apply_to(receiver.behave)

        behave()
        announce(f"Archive {ae_title} listens on {archive.address[0]} port {archive.address[1]}, folder {folder}")
        if receiver is not None:
            announce(f"ADT receiver of {ae_title} listens on {receiver.address[0]} port {receiver.address[1]}")
        while not done.wait(poll_s):
            behave()
