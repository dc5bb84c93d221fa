"""Jobs that send to one destination at the same time, each in a process of its own, as Airflow runs them."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from archsync.core.job import JobStatus
from archsync.ledger import jobs
from archsync.services import job_control
from archsync.simulate.archive import Rudeness

LIMIT_BYTES_PER_S = 400_000
PATIENCE_S = 60

_RUN_SCRIPT = """
import sys
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services import archive
ledger, platform = (line.strip() for line in sys.stdin)
run = archive.Run("archsync_archive__vna", f"run{sys.argv[1]}", 1)
archive.run_store_job(Ledger(ledger), Platform.from_dsn(platform), int(sys.argv[1]), run)
"""


class CountingProxy:
    """Passes connections on to an archive, and counts the bytes that go there."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._archive = address
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()
        self.count_bytes = 0
        self.open_connections = self.most_at_a_time = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in [self._server, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the test is over
            while True:
                ours, _ = self._server.accept()
                theirs = socket.create_connection(self._archive)
                self._sockets += [ours, theirs]
                with self._lock:
                    self.open_connections += 1
                    self.most_at_a_time = max(self.most_at_a_time, self.open_connections)
                threading.Thread(target=self._pass_on, args=(theirs, ours, False), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(ours, theirs, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_outgoing: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if is_outgoing:
                    with self._lock:
                        self.count_bytes += len(data)
                target.sendall(data)
        if is_outgoing:
            with self._lock:
                self.open_connections -= 1
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(site) -> Iterator[CountingProxy]:
    made = CountingProxy(site.archives[0].address)
    yield made
    made.close()


@pytest.fixture
def start(site) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Runs a job in a process of its own."""
    started = []

    def run(job_id: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN_SCRIPT, str(job_id)], stdin=subprocess.PIPE, text=True, env=os.environ
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(f"{site.ledger_dsn}\n{site.platform_dsn}\n")
        process.stdin.close()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(timeout=20)


def wait_until(has_happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not has_happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def two_jobs(site, proxy, *, slices: tuple[int, int], matrix: int = 8, **settings) -> tuple[int, int]:
    """Two studies of so many images, due at an archive behind the proxy."""
    host, port = proxy.address
    site.add_destination(host=host, port=port, **settings)
    for count in slices:
        site.add_study(count, matrix=matrix)
    first, second = site.plan()
    return first, second


def test_two_jobs_keep_to_the_limit_together_and_one_gets_all_of_it_when_the_other_ends(site, proxy, start):
    first, second = two_jobs(site, proxy, slices=(60, 60), matrix=512, max_bytes_per_s=LIMIT_BYTES_PER_S, concurrency=4)

    def sends_at(job_id: int) -> int:
        return site.job(job_id).bytes_per_s

    alone = start(first)
    wait_until(lambda: sends_at(first) > 0.75 * LIMIT_BYTES_PER_S)

    both = start(second)
    half = LIMIT_BYTES_PER_S / 2
    wait_until(lambda: 0.5 * half < sends_at(first) < 1.2 * half and 0.5 * half < sends_at(second) < 1.2 * half)
    counted, since = proxy.count_bytes, time.monotonic()
    threading.Event().wait(4)  # the span that is measured
    sent, took_s = proxy.count_bytes - counted, time.monotonic() - since
    assert site.job(first).status is site.job(second).status is JobStatus.RUNNING
    # What is sent in a second may have come late, on a busy machine; two that do not share send twice the limit.
    assert sent <= LIMIT_BYTES_PER_S * (took_s + 1)

    job_control.cancel(site.ledger, second, actor="test", reason="it has told enough")
    assert both.wait(timeout=PATIENCE_S) == 0
    wait_until(lambda: sends_at(first) > 0.75 * LIMIT_BYTES_PER_S)
    assert sends_at(second) == 0

    job_control.cancel(site.ledger, first, actor="test", reason="it has told enough")
    assert alone.wait(timeout=PATIENCE_S) == 0
    assert site.job(first).associations == site.job(second).associations == 0


def test_all_jobs_together_have_no_more_associations_than_the_destination_allows(site, proxy, start):
    site.archives[0].behave(Rudeness(store_delay_s=0.1))
    first, second = two_jobs(site, proxy, slices=(300, 100), concurrency=4)

    start(first)
    wait_until(lambda: site.job(first).associations == 4)
    process = start(second)
    wait_until(lambda: site.job(second).associations == 2)
    assert site.job(first).associations <= 2

    assert process.wait(timeout=PATIENCE_S) == 0
    wait_until(lambda: site.job(first).status.is_done)
    assert (site.job(first).status, site.job(second).status) == (JobStatus.SUCCEEDED, JobStatus.SUCCEEDED)
    assert len(site.sent()) == len(set(site.sent())) == 400, "each was sent once"
    assert proxy.most_at_a_time == 4
    assert [a.outcome for job_id in (first, second) for a in jobs.attempts(site.ledger, job_id)] == ["succeeded"] * 2


def other_with_associations(site, job_id: int, count: int) -> Callable[[int], None]:
    """Makes a job run elsewhere with so many associations; gives what reports another number of them."""
    run = {"dag_id": "archsync_archive__vna", "run_id": "other", "try_number": 1}
    attempt_id = jobs.begin_attempt(site.ledger, job_id, **run)

    def report(associations: int) -> None:
        assert jobs.report(site.ledger, job_id, attempt_id, associations=associations) is not None

    report(count)
    return report


def test_a_job_waits_until_another_has_given_up_what_it_has_too_many_of(site, proxy, start):
    first, second = two_jobs(site, proxy, slices=(2, 2), concurrency=2)
    report = other_with_associations(site, first, 2)

    process = start(second)
    wait_until(lambda: site.job(second).instances_total == 2)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    assert proxy.most_at_a_time == 0

    report(1)
    assert process.wait(timeout=PATIENCE_S) == 0
    assert site.job(second).status is JobStatus.SUCCEEDED


def test_a_job_does_not_wait_for_ever_since_the_archive_says_itself_what_is_too_much(site, proxy, monkeypatch):
    monkeypatch.setattr("archsync.services.attempt.ROOM_WAIT_S", 0.2)
    first, second = two_jobs(site, proxy, slices=(2, 2), concurrency=2)
    other_with_associations(site, first, 2)

    assert site.run(second).status is JobStatus.SUCCEEDED


def test_while_a_job_runs_its_progress_and_rate_are_told_at_most_once_a_second(site, monkeypatch):
    told, report = [], jobs.report

    def listening(*args, instances=0, bytes_per_s=0, **more):
        if instances:
            told.append((time.monotonic(), instances, bytes_per_s))
        return report(*args, instances=instances, bytes_per_s=bytes_per_s, **more)

    monkeypatch.setattr(jobs, "report", listening)
    site.add_destination(max_bytes_per_s=1_000_000)
    site.add_study(30, matrix=256)
    (job_id,) = site.plan()
    assert site.run(job_id).status is JobStatus.SUCCEEDED
    *running, last = told  # what is left is told at the end
    assert len(running) >= 2, "it took some seconds"
    assert all(later - earlier > 0.95 for (earlier, *_), (later, *_) in itertools.pairwise(running))
    assert sum(instances for _, instances, _ in told) == 30
    assert all(rate > 0 for _, _, rate in (*running[1:], last))
