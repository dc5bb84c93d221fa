"""Second opinions: programs of other makers, where installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import FileDataset, dcmread

from archsync.core.transfer import Endpoint


class Orthanc:
    """A running Orthanc."""

    ae_title = "ORTHANC"

    def __init__(self, dicom_port: int, http_port: int) -> None:
        self.dicom_port = dicom_port
        self._url = f"http://127.0.0.1:{http_port}"

    def get(self, path: str) -> bytes:
        """What its REST interface answers."""
        with urllib.request.urlopen(self._url + path, timeout=20) as answer:
            return answer.read()

    def clear(self) -> None:
        """Delete everything."""
        for patient in json.loads(self.get("/patients")):
            request = urllib.request.Request(f"{self._url}/patients/{patient}", method="DELETE")
            urllib.request.urlopen(request, timeout=20).close()

    def file_of(self, sop_instance_uid: str) -> bytes:
        """The file it holds of an instance."""
        query = json.dumps({"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}}).encode()
        with urllib.request.urlopen(self._url + "/tools/find", query, timeout=20) as answer:
            (found,) = json.loads(answer.read())
        return self.get(f"/instances/{found}/file")

    def held(self) -> dict[str, FileDataset]:
        """Everything it holds, by SOP Instance UID."""
        files = [dcmread(BytesIO(self.get(f"/instances/{i}/file"))) for i in json.loads(self.get("/instances"))]
        return {str(file.SOPInstanceUID): file for file in files}


class Dcmqrscp:
    """A running dcmqrscp."""

    ae_title = "DCMQRSCP"

    def __init__(self, dicom_port: int, folder: Path) -> None:
        self.dicom_port = dicom_port
        self._folder = folder

    def held(self) -> dict[str, FileDataset]:
        """Everything it holds, by SOP Instance UID."""
        files = [dcmread(path) for path in self._folder.iterdir() if path.name != "index.dat"]
        return {str(file.SOPInstanceUID): file for file in files}


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


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives a port that nothing listens on."""
    return find_free_port


@contextmanager
def running(folder: Path, command: list[str], *ports: int) -> Iterator[None]:
    """Run a server program in a folder, from when it listens."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
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
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts a server program and waits until it listens; stopped at the end."""
    with ExitStack() as stack:
        yield lambda command, *ports: stack.enter_context(running(tmp_path, command, *ports))


@pytest.fixture
def peer_at() -> Callable[..., Endpoint]:
    """Gives the endpoint of a peer on this machine."""

    def endpoint(port: int, ae_title: str) -> Endpoint:
        return Endpoint("127.0.0.1", port, called_ae_title=ae_title, dimse_timeout_s=30)

    return endpoint


@pytest.fixture(scope="session")
def orthanc_server(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A running Orthanc for all tests: it takes its time to end."""
    command, folder = program("Orthanc"), tmp_path_factory.mktemp("orthanc")
    dicom_port, http_port = find_free_port(), find_free_port()
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "Name": "archsync-test",
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "storage"),
                "Plugins": [],
                "DicomAet": "ORTHANC",
                "DicomPort": dicom_port,
                "DicomCheckCalledAet": True,
                "HttpPort": http_port,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "DicomAlwaysAllowStore": True,
                "DicomAlwaysAllowEcho": True,
                "DicomAlwaysAllowFind": True,
                "UnknownSopClassAccepted": True,
            }
        )
    )
    with running(folder, [command, str(configuration)], dicom_port, http_port):
        yield Orthanc(dicom_port, http_port)


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """An Orthanc that holds nothing."""
    orthanc_server.clear()
    return orthanc_server


@pytest.fixture
def dcmqrscp(
    program: Callable[[str], str], start: Callable[..., None], free_port: Callable[[], int], tmp_path: Path
) -> Dcmqrscp:
    """An empty dcmqrscp."""
    command, port, folder = program("dcmqrscp"), free_port(), tmp_path / "dcmqrscp"
    folder.mkdir()
    configuration = tmp_path / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nDCMQRSCP {folder} RW (200, 1024mb) ANY\nAETable END\n"
    )
    start([command, "--config", str(configuration)], port)
    return Dcmqrscp(port, folder)
