"""``archsync simulate adt-receiver`` as a process of its own, misbehaving as its file says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from archsync.core.adt import AdtSettings
from archsync.core.study import Facility, Patient
from archsync.errors import ArchsyncError, ConfigurationError, OutcomeUnknown, PeerRefused, PeerUnavailable
from archsync.messages.adt import build_a08
from archsync.net.mllp import MllpClient
from archsync.simulate.adt_rudeness import ADT_RUDENESS_FILE, read_adt_script
from archsync.simulate.adt_script import AdtScript, Hangup, Reply

CITY = Facility("CITY", "City Hospital", "NORTH", "HOSP", "1.2.3.4", "ISO", "SITE")
JANE = Patient("key-1", "4711", None, "Planted^Jane", date(1970, 1, 1), "F")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LONG_S = 20.0

#: Every way in which it may answer, and what the sender makes of it (None: accepted).
ANSWERS: list[tuple[str, type[ArchsyncError] | None]] = [
    ('{"ack_code": "AA"}', None),
    ('{"ack_code": "AE"}', PeerRefused),
    ('{"ack_code": "AE", "error_code": "101", "error_location": "PID^1^5"}', PeerRefused),
    ('{"ack_code": "AR"}', PeerUnavailable),
    ('{"ack_code": "AR", "error_code": "204", "error_location": "PID^1^3"}', PeerRefused),
    ('{"ack_code": "AR", "error_code": "207"}', PeerUnavailable),
    ('{"delay_s": 0.2}', None),
    ('{"pieces": 5, "piece_delay_s": 0.02}', None),
    ('{"noise": "\\r\\n"}', None),
    ('{"text": "Gruß an Müller", "encoding": "latin-1"}', None),
    ('{"has_message_structure": false}', None),
    ('{"is_missing": true}', OutcomeUnknown),
    ('{"control_id": "ANOTHER"}', OutcomeUnknown),
    ('{"hangup": "before_ack"}', OutcomeUnknown),
    ('{"hangup": "during_ack"}', OutcomeUnknown),
    ('{"hangup": "after_ack"}', None),
]


def a08(number: int) -> bytes:
    settings = AdtSettings(receiving_application="VNA")
    return build_a08(JANE, CITY, settings, change_id=f"{number}", occurred_at=NOW, recorded_at=NOW)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[str, int]]]:
    """Starts the command; gives where it listens."""
    running: list[subprocess.Popen[str]] = []

    def begin(*options: str, rudeness: Path) -> tuple[str, int]:
        command = [sys.executable, "-u", "-m", "archsync", "simulate", "adt-receiver", "--port", "0"]
        command += ["--create-patients", "--rudeness", str(rudeness), *options]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        assert running[-1].stdout is not None
        return "127.0.0.1", int(running[-1].stdout.readline().rsplit(" ", 1)[1])

    yield begin
    for process in running:
        process.terminate()
        assert process.wait(timeout=LONG_S) == 0
        assert process.stdout is not None
        process.stdout.close()


def test_from_the_command_line_the_receiver_answers_in_every_way_that_is_asked_for(start, tmp_path) -> None:
    rudeness = tmp_path / ADT_RUDENESS_FILE
    rudeness.write_text(f'{{"replies": [{", ".join(text for text, _ in ANSWERS)}]}}')
    address = start(rudeness=rudeness)
    for number, (text, expected) in enumerate(ANSWERS):
        with MllpClient(*address, ack_timeout_s=1.0 if "is_missing" in text else LONG_S) as client:
            try:
                client.send(a08(number))
                seen = None
            except ArchsyncError as exc:
                seen = type(exc)
        assert seen is expected, text


def test_the_receiver_obeys_its_file_from_the_moment_it_is_written_until_it_is_removed(start, tmp_path) -> None:
    rudeness = tmp_path / "later.json"
    address = start(rudeness=rudeness)
    with MllpClient(*address, ack_timeout_s=LONG_S) as client:
        assert client.send(a08(0)).code == "AA"
        rudeness.write_text('{"otherwise": {"ack_code": "AE"}}')
        _until(lambda: _is_refused(client))
        rudeness.write_text('{"otherwise": {"ack_code": "no such code"}}')
        assert _is_refused(client), "a file with mistakes changes nothing"
        rudeness.unlink()
        _until(lambda: not _is_refused(client))


def test_the_file_may_have_it_close_idle_connections_and_answer_in_enhanced_mode(start, tmp_path) -> None:
    rudeness = tmp_path / ADT_RUDENESS_FILE
    rudeness.write_text('{"idle_close_s": 0.1, "is_enhanced": true}')
    with MllpClient(*start(rudeness=rudeness), ack_timeout_s=LONG_S) as client:
        for number in range(2):
            assert client.send(a08(number)).code in ("CA", "AA")
            time.sleep(0.3)  # longer than it keeps a connection


def test_the_receiver_of_an_archive_has_a_file_of_its_own(tmp_path) -> None:
    folder = tmp_path / "vna"
    folder.mkdir()
    (folder / ADT_RUDENESS_FILE).write_text('{"otherwise": {"ack_code": "AE"}}')
    command = [sys.executable, "-u", "-m", "archsync", "simulate", "archive", "--folder", str(folder)]
    with subprocess.Popen(
        [*command, "--port", "0", "--adt-port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            port = int(process.stdout.readline().rsplit(" ", 1)[1])
            with MllpClient("127.0.0.1", port, ack_timeout_s=LONG_S) as client:
                assert _is_refused(client)
        finally:
            process.kill()


def test_what_the_file_does_not_name_is_as_the_options_say() -> None:
    base = AdtScript(creates_patients=True, is_enhanced=True)
    read = read_adt_script('{"is_enhanced": false, "replies": [{"hangup": "after_ack", "noise": "\\u000b"}]}', base)
    assert read == AdtScript(creates_patients=True, replies=(Reply(hangup=Hangup.AFTER_ACK, noise=b"\x0b"),))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("not JSON", "Expecting value"),
        ("[]", "no attribute"),
        ('{"reply": []}', "unknown name 'reply'"),
        ('{"replies": [{"ackcode": "AE"}]}', "replies: unknown name 'ackcode'"),
        ('{"replies": [{"ack_code": "XX"}]}', "must be one of AA, AE, AR, CA, CE, CR"),
        ('{"otherwise": {"pieces": 0}}', "otherwise: pieces: must be a whole number"),
        ('{"otherwise": {"delay_s": true}}', "delay_s: must be a number of seconds"),
        ('{"otherwise": {"is_missing": 1}}', "is_missing: must be true or false"),
        ('{"otherwise": {"hangup": "sometimes"}}', "hangup: 'sometimes' is not a valid Hangup"),
        ('{"otherwise": {"encoding": "klingon"}}', "encoding: unknown encoding: klingon"),
        ('{"otherwise": {"text": "山", "encoding": "latin-1"}}', "can't encode"),
        ('{"idle_close_s": "soon"}', "idle_close_s: must be a number of seconds"),
    ],
)
def test_a_file_with_a_mistake_is_refused_and_the_mistake_named(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_adt_script(text)
    assert complaint in refused.value.message
    assert ADT_RUDENESS_FILE in refused.value.message


def _is_refused(client: MllpClient) -> bool:
    try:
        client.send(a08(99))
    except PeerRefused:
        return True
    return False


def _until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline, "the file was never read"
        time.sleep(0.05)
