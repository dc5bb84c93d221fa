"""The state folder: what a second start finds again, and what keeps two launchers apart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from archsync.errors import ConfigurationError
from archsync.launcher.state import State


@pytest.fixture
def make_state(tmp_path):
    opened = []

    def make():
        opened.append(State(tmp_path / "state"))
        return opened[-1]

    yield make
    for state in opened:
        state.unlock()


def test_secrets_and_ports_are_chosen_once_and_kept(make_state):
    state = make_state()
    secret, port = state.secret("jwt"), state.port("ui")
    state.unlock()

    again = make_state()

    assert (again.secret("jwt"), again.port("ui")) == (secret, port)
    assert len(secret) >= 64


def test_a_remembered_port_in_use_is_replaced_by_a_free_one(make_state):
    state = make_state()
    port = state.port("ui")
    with socket.create_server(("127.0.0.1", port)):
        assert state.port("ui") != port


def test_a_wanted_port_in_use_is_refused_by_number(make_state):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} .* in use"):
            make_state().port("ui", wanted=port)


def test_what_holds_secrets_is_for_the_owner_only(make_state):
    state = make_state()
    state.secret("jwt")
    state.write_environment({"AIRFLOW_CONN_ARCHSYNC_LEDGER": "postgres://postgres:it's@127.0.0.1/archsync"})
    for name in ("state.json", "env"):
        assert (state.folder / name).stat().st_mode & 0o077 == 0


def test_the_environment_file_survives_the_shell(make_state):
    state = make_state()
    value = "postgres://postgres:it's $HOME@127.0.0.1/archsync"
    state.write_environment({"AIRFLOW_CONN_ARCHSYNC_LEDGER": value})
    script = f'. "{state.folder}/env"; printf %s "$AIRFLOW_CONN_ARCHSYNC_LEDGER"'
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value


def test_a_second_launcher_on_the_same_folder_is_refused(make_state):
    state = make_state()
    program = (
        "import sys; from pathlib import Path; from archsync.launcher.state import State; State(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(state.folder)], capture_output=True, text=True)
    assert done.returncode != 0
    assert f"already runs on {state.folder} (process {os.getpid()})" in done.stderr


def test_wiping_removes_everything_that_was_remembered(make_state):
    state = make_state()
    secret = state.secret("jwt")
    (state.airflow_home / "logs").mkdir(parents=True)
    state.wipe()
    assert [entry.name for entry in state.folder.iterdir()] == ["lock"]
    assert state.secret("jwt") != secret


@pytest.mark.skipif(os.geteuid() != 0, reason="for others PostgreSQL runs as themselves")
def test_as_root_the_databases_go_where_the_servers_own_user_can_get(tmp_path, open_tmp_path):
    hidden, reachable = State(tmp_path / "state"), State(open_tmp_path / "state")
    tmp_path.chmod(0o700)
    assert hidden.postgres_folder.parent.as_posix() == "/var/lib/archsync"
    assert reachable.postgres_folder == reachable.folder / "postgres"
    hidden.unlock()
    reachable.unlock()


@pytest.mark.parametrize(
    "arguments", [["--port", "0"], ["--port", "x"], ["--port", "65536"], ["--timeout", "-1"], ["--nonsense"]]
)
def test_wrong_arguments_exit_with_2_before_anything_starts(arguments, tmp_path):
    command = [sys.executable, "-m", "archsync.launcher.demo", "--state", str(tmp_path / "state"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
    assert not (tmp_path / "state").exists()
