"""Second opinions: programs of other makers, where installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archsync.core.transfer import Endpoint


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Gives the path of a program, or skips the test."""

    def find(name: str) -> str:
        # Debian puts servers where only root's PATH looks.
        found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives a port that nothing listens on."""

    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:
            return server.getsockname()[1]

    return find


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts a server program and waits until it listens; stopped at the end."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(command: list[str], *ports: int) -> None:
        log = tmp_path / f"{Path(command[0]).name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path)
        processes.append(process)
        for port in ports:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text(errors="replace")
                    assert time.monotonic() < deadline, f"{command[0]} does not listen"
                    time.sleep(0.05)

    yield run
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def peer_at() -> Callable[..., Endpoint]:
    """Gives the endpoint of a peer on this machine."""

    def endpoint(port: int, ae_title: str) -> Endpoint:
        return Endpoint("127.0.0.1", port, called_ae_title=ae_title, dimse_timeout_s=30)

    return endpoint
