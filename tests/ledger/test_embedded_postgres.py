"""The embedded server: what the demo and every database test stand on."""

from __future__ import annotations

import os
import signal
import socket

import psutil
import psycopg
import pytest

from archsync.errors import ConfigurationError
from archsync.launcher.postgres import EmbeddedPostgres


@pytest.fixture
def server(postgres_version, open_tmp_path, request):
    server = EmbeddedPostgres(open_tmp_path / request.node.name, version=postgres_version, durable=False)
    yield server
    server.stop(mode="immediate")


def _scalar(dsn: str, query: str):
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchone()[0]


def test_data_password_and_port_outlive_a_stop(server, postgres_version):
    server.start()
    dsn = server.dsn()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    server.stop()
    assert not server.is_running()

    again = EmbeddedPostgres(server.data_dir, version=postgres_version, durable=False)
    again.start()

    assert again.dsn() == dsn
    assert _scalar(dsn, "SELECT number FROM kept") == 7
    assert _scalar(dsn, "SHOW server_version_num").startswith(str(postgres_version))


def test_starting_twice_is_starting_once(server, postgres_version):
    server.start()
    pid = server.pid
    EmbeddedPostgres(server.data_dir, version=postgres_version).start()
    assert server.pid == pid


def test_a_server_killed_with_kill_9_starts_again_with_its_committed_data(server):
    server.start()
    port = server.port
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    process = psutil.Process(server.pid)
    process.send_signal(signal.SIGKILL)
    process.wait(10)

    server.start()

    assert server.port == port
    assert _scalar(server.dsn(), "SELECT number FROM kept") == 7


def test_a_pid_file_left_behind_that_names_a_stranger_is_no_running_server(server):
    server.start()
    server.stop()
    (server.data_dir / "cluster" / "postmaster.pid").write_text(f"{os.getpid()}\n{server.data_dir}\n0\n1\n")

    assert not server.is_running()
    server.start()
    assert _scalar(server.dsn(), "SELECT 1") == 1


def test_a_taken_remembered_port_is_replaced_by_a_free_one(server, postgres_version):
    server.start()
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        server.start()
        assert _scalar(server.dsn(), "SELECT 1") == 1


def test_a_taken_port_that_was_asked_for_is_refused_by_number(server, postgres_version):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = EmbeddedPostgres(server.data_dir, version=postgres_version, port=port)
        with pytest.raises(ConfigurationError, match=f"port {port} .* in use"):
            server.start()


def test_data_of_another_major_version_is_left_alone(server, postgres_version):
    server.start()
    server.stop()
    other = 16 if postgres_version == 18 else 18
    with pytest.raises(ConfigurationError, match=f"belongs to PostgreSQL {postgres_version}, not {other}"):
        EmbeddedPostgres(server.data_dir, version=other).start()


def test_a_wrong_password_is_refused(server):
    server.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{server.port}/postgres")


def test_the_password_is_for_the_owner_only(server):
    server.start()
    assert (server.data_dir / "password").stat().st_mode & 0o077 == 0
    assert (server.data_dir / "cluster").stat().st_mode & 0o077 == 0


def test_a_database_can_be_cloned_and_dropped_while_someone_is_connected(server):
    server.start()
    server.create_database("first")
    with psycopg.connect(server.dsn("first")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    server.create_database("second", template="first")
    server.create_database("second", if_missing=True)
    connection = psycopg.connect(server.dsn("second"))
    assert connection.execute("SELECT number FROM kept").fetchone() == (7,)

    server.drop_database("second")

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn("second"))
    connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another user")
def test_as_root_a_folder_the_system_user_cannot_enter_is_named_and_its_modes_are_left_alone(
    tmp_path, postgres_version
):
    tmp_path.chmod(0o700)
    server = EmbeddedPostgres(tmp_path / "pg", version=postgres_version)
    with pytest.raises(ConfigurationError, match=f"can't reach {tmp_path}"):
        server.start()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
