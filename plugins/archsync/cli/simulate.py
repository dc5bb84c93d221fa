"""``archsync simulate``: a platform and archives to try things with. Not for production databases."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

import click

from archsync.cli.access import Site, pass_site
from archsync.cli.output import count


@click.group()
def simulate() -> None:
    """A platform, an archive and an HL7 receiver to try things with."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


@simulate.command()
@click.option(
    "--folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where the DICOM files go."
)
@click.option(
    "--studies", type=click.IntRange(0, 100_000), default=30, show_default=True, help="Studies to begin with."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed gives other studies.")
@click.option(
    "--slices", type=click.IntRange(1, 5_000), default=16, show_default=True, help="Least images in a series."
)
@click.option(
    "--interval", "interval_s", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds a step."
)
@click.option("--exams", type=click.IntRange(0), default=3, show_default=True, help="Exams that move on in a step.")
@click.option(
    "--changes",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="What befalls completed exams and patients in a step: deletions, splits, moves, corrections, merges.",
)
@click.option("--once", is_flag=True, help="Only fill the database, do not let exams move on.")
@pass_site
def platform(
    site: Site,
    folder: Path,
    studies: int,
    seed: int,
    slices: int,
    interval_s: float,
    exams: int,
    changes: int,
    once: bool,
) -> None:
    """Make the reference platform in the database of --platform-dsn, fill it, and let exams move on until Ctrl-C."""
    from archsync.simulate.platform import SimulatedPlatform, run_platform

    dsn, _ = site.resolve_platform()
    simulated = SimulatedPlatform(dsn, folder, seed=seed, slices=slices)
    simulated.install()
    click.echo(f"{count(simulated.fill(studies), 'study', 'studies')} added.")
    if once:
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_platform(simulated, interval_s=interval_s, stop=stop, report=click.echo, exams=exams, changes=changes)


@simulate.command()
@click.option("--folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Where it stores.")
@click.option("--port", type=click.IntRange(0, 65535), default=11112, show_default=True, help="0 takes a free one.")
@click.option("--ae-title", default="SIMARCHIVE", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address it listens on.")
@click.option("--iocm/--no-iocm", default=True, show_default=True, help="Whether it honours rejection notes.")
@click.option("--shows-quality-rejects", is_flag=True, help="Go on showing what was rejected for quality (113001).")
@click.option(
    "--adt-port", type=click.IntRange(0, 65535), help="Also listen for HL7 messages, which change what it shows."
)
def archive(
    folder: Path,
    port: int,
    ae_title: str,
    host: str,
    iocm: bool,
    shows_quality_rejects: bool,
    adt_port: int | None,
) -> None:
    """Run an archive that stores, answers C-ECHO and C-FIND and honours rejection notes, until Ctrl-C.

    A file rudeness.json in its folder has it misbehave, from the moment it is written, and adt-rudeness.json its HL7
    receiver.
    """
    from archsync.core.destination import check_ae_title
    from archsync.simulate.iocm import IocmRules
    from archsync.simulate.run_archive import run_archive

    if problem := check_ae_title(ae_title):
        raise click.BadParameter(f"{problem}.", param_hint="--ae-title")
    if shows_quality_rejects and not iocm:
        raise click.UsageError("--shows-quality-rejects goes with --iocm only.")
    rules = IocmRules(shows_quality_rejects=shows_quality_rejects) if iocm else None
    run_archive(folder, port, ae_title=ae_title, host=host, announce=click.echo, iocm=rules, adt_port=adt_port)


@simulate.command("adt-receiver")
@click.option("--port", type=click.IntRange(0, 65535), default=2575, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address it listens on.")
@click.option("--create-patients", is_flag=True, help="Create patients nobody knows, instead of error 204.")
@click.option("--refuse-unknown-merges", is_flag=True, help="Error 204 for a merge of a patient nobody knows.")
@click.option("--enhanced", is_flag=True, help="Answer CA first, then AA, AE or AR.")
@click.option(
    "--rudeness",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A JSON file that has it misbehave, from the moment it is written.",
)
def adt_receiver(
    port: int, host: str, create_patients: bool, refuse_unknown_merges: bool, enhanced: bool, rudeness: Path | None
) -> None:
    """Run an HL7 receiver that applies A08, A31, A40 and A47, until Ctrl-C."""
    from archsync.simulate.adt_receiver import AdtScript, run_adt_receiver

    script = AdtScript(
        creates_patients=create_patients, refuses_unknown_merges=refuse_unknown_merges, is_enhanced=enhanced
    )
    run_adt_receiver(port, host=host, script=script, rudeness=rudeness, announce=click.echo)
