"""The sender with TLS, beside DCMTK's `storescu` with TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import statistics
import subprocess
from pathlib import Path

from sending.receivers import Receivers
from sending.runs import Run, run_dcmtk, run_own


def measure_tls(receivers: Receivers, folder: Path, kind: str, rounds: int) -> dict[str, float | str]:
    """Instances and MB a second of both, to `storescp` with TLS, and the version that was agreed on."""
    for program in ("openssl", "storescp", "storescu"):
        if shutil.which(program) is None:
            raise SystemExit(f"--tls needs {program}")
    key_file, certificate_file = receivers.folder / "key.pem", receivers.folder / "certificate.pem"
    if not certificate_file.exists():
        _make_certificate(key_file, certificate_file)
    port = receivers.start_secure("secure", key_file, certificate_file)
    ca_file = str(certificate_file)
    runs: dict[str, list[Run]] = {"archsync": [], "storescu": []}
    for _ in range(rounds):
        runs["archsync"].append(run_own("archsync", port, folder, kind, ca_file=ca_file))
        options = ("+tla", "+cf", ca_file)
        runs["storescu"].append(run_dcmtk("storescu", port, folder, kind, no_delay=True, more_options=options))
    rates = {name: statistics.median(r.stored / r.seconds for r in done) for name, done in runs.items()}
    size_mb = statistics.mean(path.stat().st_size for path in folder.glob("*.dcm")) / 1e6
    return {
        "version": _version(port, ca_file),
        "archsync": round(rates["archsync"], 1),
        "storescu": round(rates["storescu"], 1),
        "mb_s": round(rates["archsync"] * size_mb, 1),
        "vs_storescu": round(rates["archsync"] / rates["storescu"], 2),
    }


def _make_certificate(key_file: Path, certificate_file: Path) -> None:
    """One that signs itself, for this machine."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key_file), "-out", str(certificate_file)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _version(port: int, ca_file: str) -> str:
    context = ssl.create_default_context(cafile=ca_file)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.version() or "none"
