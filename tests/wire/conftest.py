"""A simulated archive, an endpoint to it, and rude peers that no archive software would be."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from archsync.core.transfer import Endpoint
from archsync.simulate.archive import SimulatedArchive


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SimulatedArchive]:
    """A polite archive, empty."""
    with SimulatedArchive(tmp_path / "archive") as archive:
        yield archive


@pytest.fixture
def endpoint(archive: SimulatedArchive) -> Endpoint:
    """How to reach the archive, with time-outs that no test waits for unless it means to."""
    return endpoint_for(archive.address, archive.ae_title)


def endpoint_for(address: tuple[str, int], ae_title: str = "SIMARCHIVE") -> Endpoint:
    return Endpoint(
        *address,
        called_ae_title=ae_title,
        connect_timeout_s=10,
        acse_timeout_s=30,
        dimse_timeout_s=60,
        network_timeout_s=60,
    )


@pytest.fixture
def copies(sample: Callable[[str], Path], tmp_path: Path) -> Callable[[int], list[Path]]:
    """Makes n small instances of one series, each with a SOP Instance UID of its own."""
    from pydicom import dcmread

    def make(count: int) -> list[Path]:
        data_set = dcmread(sample("MR_small.dcm"))
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = generate_uid(), generate_uid()
        folder = tmp_path / "platform"
        folder.mkdir(exist_ok=True)
        paths = []
        for number in range(count):
            data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data_set.InstanceNumber = number + 1
            paths.append(folder / f"{number:04}.dcm")
            data_set.save_as(paths[-1])
        return paths

    return make


@pytest.fixture
def raw_peer() -> Iterator[Callable[[Callable[[socket.socket], None]], tuple[str, int]]]:
    """Starts a TCP server that hands each connection to a function; gives its address."""
    servers: list[socket.socket] = []
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def serve(talk: Callable[[socket.socket], None]) -> tuple[str, int]:
        server = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            with server:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return  # the test is over
                    connections.append(connection)
                    with connection, contextlib.suppress(OSError):  # the sender may hang up
                        talk(connection)

        servers.append(server)
        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        return server.getsockname()

    yield serve
    for open_socket in (*servers, *connections):
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(timeout=10)
