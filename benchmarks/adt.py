"""ADT messages a second: our client beside python-hl7's on one connection, our builder beside hl7apy's.

    scripts/benchmark adt [--rounds 5] [--messages 2000] [--json FILE]

Interleaved A B A B. The simulated receiver runs in a process of its own; each message waits for its acknowledgement.
Our client reads the whole frame, checks MSA-2 and classifies the answer; python-hl7's does not: it returns what one
recv gives. hl7apy builds the same A08 from its field tree, in tolerant mode. `checked` is our builder with the check
that every message passes before it leaves. Trust the ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from archsync.core.adt import AdtSettings
from archsync.core.study import Facility, Patient
from archsync.messages.adt import build_a08, validate
from archsync.net.mllp import MllpClient
from archsync.simulate.adt_receiver import AdtScript, SimulatedAdtReceiver

PATIENT = Patient("p", "12345", "HOSP", "Doe^John^Q^Dr^Jr", date(1970, 1, 1), "M")
FACILITY = Facility("f", "North", "NORTH", "HOSP", "1.2.3.4", "ISO", "SITE")
SETTINGS = AdtSettings(receiving_application="VNA")
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def build(number: int) -> bytes:
    return build_a08(PATIENT, FACILITY, SETTINGS, change_id=f"1/{number}", occurred_at=MOMENT, recorded_at=MOMENT)


def build_and_check(number: int) -> bytes:
    message = build(number)
    validate(message)
    return message


def build_with_hl7apy(number: int) -> bytes:
    from hl7apy.core import Message

    message = Message("ADT_A01", version="2.5.1")
    message.msh.msh_3, message.msh.msh_4, message.msh.msh_5, message.msh.msh_6 = "ARCHSYNC", "f", "VNA", "SITE"
    message.msh.msh_7, message.msh.msh_9 = "20260102030405+0000", "ADT^A08^ADT_A01"
    message.msh.msh_10, message.msh.msh_11, message.msh.msh_18 = f"CTL{number}", "P", "UNICODE UTF-8"
    message.evn.evn_2 = message.evn.evn_6 = "20260102030405+0000"
    message.pid.pid_3, message.pid.pid_5 = "12345^^^HOSP&1.2.3.4&ISO^MR", "Doe^John^Q^Jr^Dr"
    message.pid.pid_7, message.pid.pid_8, message.pid.pid_33 = "19700101", "M", "20260102030405+0000"
    message.pv1.pv1_2 = "N"
    return str(message.to_er7()).encode()


def receive(pipe: Connection) -> None:
    with SimulatedAdtReceiver(script=AdtScript(creates_patients=True)) as receiver:
        pipe.send(receiver.address)
        pipe.recv()


def send_with_archsync(address: tuple[str, int], messages: list[bytes]) -> None:
    with MllpClient(*address) as client:
        for message in messages:
            client.send(message)


def send_with_python_hl7(address: tuple[str, int], messages: list[bytes]) -> None:
    from hl7.client import MLLPClient

    with MLLPClient(*address) as client:
        for message in messages:
            client.send_message(message)


def per_second(count: int, run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    count = arguments.messages
    built = max(1, count // 10)

    ours, process_end = multiprocessing.Pipe()
    receiver = multiprocessing.Process(target=receive, args=(process_end,), daemon=True)
    receiver.start()
    address = ours.recv()
    figures: dict[str, list[float]] = {}

    def measure(name: str, amount: int, run: Callable[[], object]) -> None:
        figures.setdefault(name, []).append(per_second(amount, run))

    for round_no in range(arguments.rounds):
        messages = [build(round_no * count + number) for number in range(count)]
        measure("send: archsync", count, lambda batch=messages: send_with_archsync(address, batch))
        measure("send: python-hl7", count, lambda batch=messages: send_with_python_hl7(address, batch))
        measure("build: archsync", count, lambda: [build(number) for number in range(count)])
        measure("build: hl7apy", built, lambda: [build_with_hl7apy(number) for number in range(built)])
        measure("build: archsync, checked", built, lambda: [build_and_check(number) for number in range(built)])
    ours.send("done")
    receiver.join(timeout=10)

    results = {name: statistics.median(found) for name, found in figures.items()}
    for name, value in results.items():
        print(f"{name:26}{value:10.0f} messages/s  (of {arguments.rounds} rounds {min(figures[name]):.0f} to"
              f" {max(figures[name]):.0f})")  # fmt: skip
    print(f"archsync sends {results['send: archsync'] / results['send: python-hl7']:.2f} times as many as python-hl7")
    print(f"archsync builds {results['build: archsync'] / results['build: hl7apy']:.1f} times as many as hl7apy")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
