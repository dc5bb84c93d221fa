"""The receivers of `benchmarks/send.py`: one that costs next to nothing, and archives as they come and tuned."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent

RECEIVERS = {
    "null": "discards what it gets (nullscp.c): what is measured is the sender",
    "stock": "storescp --ignore, as it comes",
    "tuned": "storescp --ignore with TCP_NODELAY=1 and PDUs of 128 KiB",
    "files": "storescp +B with TCP_NODELAY=1 and PDUs of 128 KiB, writing files",
    "dcmqrscp": "dcmqrscp as it comes",
    "orthanc": "Orthanc as it comes",
}
_NO_DELAY = {"TCP_NODELAY": "1"}


class Receivers:
    """Started when they are asked for, stopped at the end."""

    def __init__(self) -> None:
        self._ports: dict[str, int] = {}
        self._processes: list[subprocess.Popen[str]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="archsync-bench-receivers-"))

    def __enter__(self) -> Receivers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, name: str) -> int:
        """The port that a receiver listens on."""
        if name not in RECEIVERS:
            raise SystemExit(f"no receiver {name!r}; there are {', '.join(RECEIVERS)}")
        if name not in self._ports:
            folder = self._folder / name
            folder.mkdir()
            port = free_port()
            self._run(name, self._command(name, port, folder), port)
            self._ports[name] = port
        return self._ports[name]

    def _command(self, name: str, port: int, folder: Path) -> list[str]:
        if name == "null":
            return [str(self._build()), str(port)]
        if name in ("stock", "tuned"):
            options = ["-pdu", "131072"] if name == "tuned" else []
            return ["storescp", "--ignore", "+xa", *options, str(port)]
        if name == "files":
            return ["storescp", "+B", "+xa", "-od", str(folder), "-pdu", "131072", str(port)]
        if name == "dcmqrscp":
            config = folder / "dcmqrscp.cfg"
            (folder / "NULL").mkdir()
            config.write_text(
                f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n"
                f"AETable BEGIN\nNULL {folder}/NULL RW (500, 1024mb) ANY\nAETable END\n"
            )
            return ["dcmqrscp", "-c", str(config)]
        config = folder / "orthanc.json"
        settings = {
            "DicomPort": port, "DicomAet": "NULL", "HttpPort": free_port(), "StorageDirectory": str(folder),
            "IndexDirectory": str(folder), "DicomAlwaysAllowStore": True, "Plugins": [],
        }  # fmt: skip
        config.write_text(json.dumps(settings))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(config)]

    def _build(self, source: str = "nullscp") -> Path:
        """A program of ours in C; needs a compiler."""
        program = self._folder / source
        if not program.exists():
            compiler = shutil.which("cc")
            if compiler is None:
                raise SystemExit(f"{source} needs a C compiler (cc); leave it out with --receivers stock")
            subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / f"{source}.c")], check=True)
        return program

    def start_far(self, name: str, rtt_ms: float) -> int:
        """The port where a receiver is reached over a way of this round trip."""
        far = f"{name} at {rtt_ms:g} ms"
        if far not in self._ports:
            port = free_port()
            delay_us = str(round(rtt_ms * 500))
            self._run(far, [str(self._build("delayproxy")), delay_us, str(self.start(name)), str(port)], port)
            self._ports[far] = port
        return self._ports[far]

    def start_secure(self, name: str, key_file: Path, certificate_file: Path) -> int:
        """The port of a `storescp` that speaks TLS, tuned otherwise."""
        if name not in self._ports:
            port = free_port()
            options = ["--ignore", "+xa", "-pdu", "131072", "+tls", str(key_file), str(certificate_file), "-ic"]
            self._run("tuned", ["storescp", *options, str(port)], port)
            self._ports[name] = port
        return self._ports[name]

    @property
    def folder(self) -> Path:
        """For files that live as long as the receivers."""
        return self._folder

    def _run(self, name: str, command: list[str], port: int) -> None:
        environment = {**os.environ, **(_NO_DELAY if name in ("tuned", "files") else {})}
        with (self._folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)
        self._processes.append(process)
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.05)
        raise SystemExit(f"{command[0]} does not listen: {(self._folder / f'{name}.log').read_text()[-500:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
