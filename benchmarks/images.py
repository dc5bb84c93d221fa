"""Instances a second whose images are on a web server, beside the same ones in files.

    scripts/benchmark images [--scale 0.1] [--rounds 3] [--kinds ct,sr] [--delay-ms 0,20] [--json FILE]

The receiver is `null` of `benchmarks/send.py`; server, sender and receiver share the machine. ``--delay-ms`` is how
long the server takes before each answer, as one far away or an object store does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sending.corpus import KINDS, describe_corpus, make_corpus
from sending.receivers import Receivers, free_port
from sending.senders import begin, report


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and beginning of the body in one packet
    delay_s = 0.0

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        outputfile.flush()
        self.connection.sendfile(source)

    def log_message(self, *_: object) -> None:
        pass


def serve(port: int, folder: str, delay_ms: float) -> None:
    """The web server, in a process of its own."""
    _Handler.delay_s = delay_ms / 1000
    ThreadingHTTPServer.request_queue_size = 64
    ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=folder)).serve_forever()


def send(port: int, folder: Path, kind: str, url: str) -> None:
    """Send the files, or what is behind ``url``; prints what `sending.senders` prints."""
    from archsync.core.transfer import Endpoint
    from archsync.net.dicom.store import store_instances
    from archsync.net.remote import objects, web  # noqa: F401 - importing is not measured

    instances = describe_corpus(folder, kind)
    if url:
        instances = [replace(i, location=f"{url}/{i.location.rpartition('/')[2]}") for i in instances]
    begin()
    report(sum(o.result.is_stored for o in store_instances(Endpoint("127.0.0.1", port, "NULL"), instances)))


def run(port: int, folder: Path, kind: str, url: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--send", str(port), str(folder), kind, url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    if found["stored"] != len(list(folder.glob("*.dcm"))):
        raise SystemExit(f"{found['stored']} instances of {kind} were stored only")
    return found


def measure(port: int, folder: Path, kind: str, delays: list[float], rounds: int) -> dict[str, dict[str, float]]:
    """Medians by where the images are."""
    servers, urls = [], {"file": ""}
    for delay_ms in delays:
        http_port = free_port()
        servers.append(
            subprocess.Popen([sys.executable, __file__, "--serve", str(http_port), str(folder), str(delay_ms)])
        )
        urls[f"http {delay_ms:g} ms"] = f"http://127.0.0.1:{http_port}"
    time.sleep(1)
    try:
        runs = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                runs[name].append(run(port, folder, kind, url))
    finally:
        for server in servers:
            server.kill()
            server.wait()
    size_gb = sum(p.stat().st_size for p in folder.glob("*.dcm")) / 1e9
    return {
        name: {
            "instances_s": round(statistics.median(r["stored"] / r["seconds"] for r in of_name), 1),
            "mb_s": round(1000 * size_gb / statistics.median(r["seconds"] for r in of_name), 1),
            "cpu_s_per_gb": round(statistics.median(r["cpu_seconds"] for r in of_name) / size_gb, 2),
            "memory_mb": round(max(r["memory_mb"] for r in of_name), 1),
        }
        for name, of_name in runs.items()
    }


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        return serve(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
    if sys.argv[1:2] == ["--send"]:
        return send(int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.1, help="share of the full number of files (default 0.1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default="ct,mr,cr,us,sr", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--delay-ms", default="0,20", help="delays of the web server")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found = {}
    with Receivers() as receivers, tempfile.TemporaryDirectory(prefix="archsync-bench-") as temporary:
        port = receivers.start("null")
        for kind in arguments.kinds.split(","):
            folder = Path(temporary, kind)
            make_corpus(folder, kind, max(4, round(KINDS[kind].count * arguments.scale)))
            found[kind] = measure(
                port, folder, kind, [float(d) for d in arguments.delay_ms.split(",")], arguments.rounds
            )
            for name, medians in found[kind].items():
                print(f"{kind:4} {name:12} {medians}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return None


if __name__ == "__main__":
    main()
