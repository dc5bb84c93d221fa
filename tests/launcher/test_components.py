"""Components are kept running, and nothing of them outlives the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from archsync.launcher.components import ComponentFailed, Supervisor
from archsync.launcher.guard import stop_sessions


def wait_until(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return result


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def modules(tmp_path):
    """Modules for ``python -m``: each is a component of a certain character."""
    folder = tmp_path / "modules"
    folder.mkdir()
    characters = {
        "lasting": "import time\nprint('working', flush=True)\ntime.sleep(600)",
        "failing": "print('the disk is full')\nraise SystemExit(3)",
        "stubborn": """
            import pathlib, signal, subprocess, sys, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", "import signal, time;"
                "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ignoring', flush=True); time.sleep(600)"])
            pathlib.Path("child").write_text(str(child.pid))
            time.sleep(600)
            """,
    }
    for name, text in characters.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def make_supervisor(tmp_path, modules):
    reports = []
    with (tmp_path / "lock").open("w") as lock:

        def make():
            path = os.pathsep.join([str(modules), os.environ["PYTHONPATH"]])
            environment = {**os.environ, "PYTHONPATH": path}
            supervisor = Supervisor(
                environment, working_folder=tmp_path, logs=tmp_path / "logs", report=reports.append, keep_open=lock
            )
            supervisor.reports = reports
            return supervisor

        yield make


def test_leaving_ends_every_component_and_the_guard(make_supervisor):
    with make_supervisor() as supervisor:
        supervisor.start("first", "lasting")
        supervisor.start("second", "lasting")
        pids = [supervisor.pid("first"), supervisor.pid("second"), supervisor._guard.pid]
        assert all(is_alive(pid) for pid in pids)
    assert not any(is_alive(pid) for pid in pids)


def test_a_killed_component_is_started_again_and_reported(make_supervisor):
    with make_supervisor() as supervisor:
        supervisor.start("worker", "lasting")
        first = supervisor.pid("worker")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first))

        supervisor.check()

        assert supervisor.pid("worker") != first
        assert is_alive(supervisor.pid("worker"))
        assert supervisor.reports == ["worker was killed by signal 9; starting it again"]


def check_until_it_raises(supervisor):
    while True:
        supervisor.check()
        time.sleep(0.02)


def test_a_component_that_exits_again_and_again_ends_in_an_error_with_its_log(make_supervisor):
    with make_supervisor() as supervisor:
        supervisor.start("worker", "failing")
        with pytest.raises(ComponentFailed, match=r"(?s)exited with code 3 3 times in a row.*the disk is full"):
            check_until_it_raises(supervisor)


def test_a_command_that_fails_is_an_error_with_its_log(make_supervisor):
    with make_supervisor() as supervisor, pytest.raises(ComponentFailed, match=r"(?s)step exited with code 3.*disk"):
        supervisor.run("step", "failing")


def test_logs_of_the_last_start_are_kept_beside_the_new_ones(make_supervisor, tmp_path):
    for _ in range(2):
        with make_supervisor() as supervisor:
            supervisor.start("worker", "lasting")
            wait_until(lambda: "working" in (tmp_path / "logs" / "worker.log").read_text())
    assert (tmp_path / "logs" / "worker.log.1").read_text() == "working\n"


def test_stopping_kills_what_ignores_sigterm_and_its_children(tmp_path, modules):
    output = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, modules / "stubborn.py"], cwd=tmp_path, start_new_session=True, stdout=output
    )
    wait_until(lambda: "ignoring" in (tmp_path / "log").read_text())
    child = int((tmp_path / "child").read_text())

    stop_sessions([process.pid], grace_s=0.3)

    assert process.wait(5) == -signal.SIGKILL
    assert not is_alive(child)
    output.close()


LAUNCHER = """
import os, pathlib, sys, time
from archsync.launcher.components import Supervisor
from archsync.launcher.postgres import EmbeddedPostgres
folder = pathlib.Path(sys.argv[1])
server = EmbeddedPostgres(folder / "postgres", durable=False)
server.start()
lock = (folder / "lock").open("w")
with Supervisor(os.environ, working_folder=folder, logs=folder / "logs", report=print, keep_open=lock) as supervisor:
    supervisor.stop_at_exit(server)
    supervisor.start("worker", "lasting")
    print(supervisor.pid("worker"), supervisor._guard.pid, server.pid, flush=True)
    time.sleep(600)
"""


def test_a_launcher_killed_with_kill_9_leaves_no_process_behind(open_tmp_path, modules):
    folder = open_tmp_path / "killed-launcher"
    folder.mkdir()
    folder.chmod(0o711)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(modules), os.environ["PYTHONPATH"]])}
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )
    with launcher:
        pids = [int(pid) for pid in launcher.stdout.readline().split()]
        assert len(pids) == 3
        assert all(is_alive(pid) for pid in pids)

        launcher.kill()

        wait_until(lambda: not any(is_alive(pid) for pid in pids))
