"""What all tiers share: Airflow kept away from the user's own, and databases on a real PostgreSQL.

Databases are clones of a template on which the migrations ran once, one for each test, dropped afterwards.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from archsync.core.transfer import OutgoingInstance

ROOT = Path(__file__).resolve().parent.parent
POSTGRES_VERSIONS = (16, 18)
#: What the caller tells the tests, not archsync.
OPTIONS = {"ARCHSYNC_TEST_PG", "ARCHSYNC_EXPLORE"}


def _isolate_airflow() -> None:
    """Point Airflow at a throw-away home with SQLite; it reads these on import, so before anything imports it."""
    home = Path(tempfile.mkdtemp(prefix="archsync-test-airflow-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "ARCHSYNC_")) and name not in OPTIONS]:
        del os.environ[name]
    plugins = str(ROOT / "plugins")
    os.environ.update(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(ROOT / "dags"),
        AIRFLOW__CORE__PLUGINS_FOLDER=plugins,
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__UNIT_TEST_MODE="False",
        AIRFLOW__CORE__FERNET_KEY="",
        AIRFLOW__API_AUTH__JWT_SECRET="a secret of the tests, long enough for HS512 to be content with it.",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(home / "logs"),
        # Processes that tests start find the package, and the connection types of its dist-info, the same way.
        PYTHONPATH=os.pathsep.join([plugins, *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    if plugins not in sys.path:
        sys.path.insert(0, plugins)


_isolate_airflow()
# A slow machine is no failure.
# The same examples in every run, so that a change is judged by itself; ARCHSYNC_EXPLORE=1 looks for new ones.
_EXPLORES = bool(os.environ.get("ARCHSYNC_EXPLORE"))
settings.register_profile("archsync", deadline=None, derandomize=not _EXPLORES)
settings.load_profile("archsync")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the ledger tier on every PostgreSQL we support, unless ARCHSYNC_TEST_PG names one."""
    in_ledger_tier = (ROOT / "tests" / "ledger") in Path(metafunc.definition.path).parents
    if in_ledger_tier and "postgres_version" in metafunc.fixturenames and "ARCHSYNC_TEST_PG" not in os.environ:
        ids = [f"pg{version}" for version in POSTGRES_VERSIONS]
        metafunc.parametrize("postgres_version", POSTGRES_VERSIONS, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def postgres_version(request: pytest.FixtureRequest) -> int:
    """PostgreSQL's major version: the parameter in the ledger tier, elsewhere ARCHSYNC_TEST_PG, else 18."""
    return getattr(request, "param", None) or int(os.environ.get("ARCHSYNC_TEST_PG", "18"))


@pytest.fixture(scope="session")
def open_tmp_path() -> Iterator[Path]:
    """A temporary folder that PostgreSQL's system user may pass through when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="archsync-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(postgres_version: int, open_tmp_path: Path) -> Iterator[object]:
    """A running server (an EmbeddedPostgres) for the whole session; the databases in it belong to the tests."""
    from archsync.launcher.postgres import EmbeddedPostgres

    # A folder of its own each time: after the ledger tier went to another version, this one starts anew.
    folder = open_tmp_path / f"pg{postgres_version}-{uuid.uuid4().hex[:8]}"
    server = EmbeddedPostgres(folder, version=postgres_version, durable=False)
    server.start()
    yield server
    server.stop(mode="immediate")


@pytest.fixture(scope="session")
def _ledger_template(postgres) -> str:
    from archsync.ledger.migrate import migrate

    name = "template_ledger"
    postgres.create_database(name)
    migrate(postgres.dsn(name))
    return name


@pytest.fixture(scope="session")
def _platform_template(postgres) -> str:
    import psycopg

    name = "template_platform"
    postgres.create_database(name)
    with psycopg.connect(postgres.dsn(name), autocommit=True) as connection:
        connection.execute((ROOT / "include" / "platform" / "schema.sql").read_text())
    return name


@pytest.fixture
def empty_dsn(postgres) -> Iterator[str]:
    """URI of an empty database of this test's own."""
    yield from _database(postgres, "empty", None)


@pytest.fixture
def ledger_dsn(postgres, _ledger_template) -> Iterator[str]:
    """URI of this test's own, migrated, empty ledger."""
    yield from _database(postgres, "ledger", _ledger_template)


@pytest.fixture
def platform_dsn(postgres, _platform_template) -> Iterator[str]:
    """URI of this test's own platform database with the reference schema, without studies."""
    yield from _database(postgres, "platform", _platform_template)


def _database(postgres, kind: str, template: str | None) -> Iterator[str]:
    name = f"{kind}_{uuid.uuid4().hex[:12]}"
    postgres.create_database(name, template=template)
    yield postgres.dsn(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Path]:
    """Gives the path of a DICOM sample of pydicom's wheel by its name."""
    from pydicom.data import get_testdata_file

    def find(name: str) -> Path:
        path = get_testdata_file(name, download=False)
        assert path is not None, f"pydicom's wheel has no {name}"
        return Path(path)

    return find


@pytest.fixture(scope="session")
def outgoing() -> Callable[..., OutgoingInstance]:
    """Gives the instance to send for a file, as a truthful platform would describe it; keyword arguments lie."""
    from pydicom import dcmread

    def describe(path: Path, **lies: str) -> OutgoingInstance:
        header = dcmread(path, stop_before_pixels=True)
        truth = OutgoingInstance(
            instance_key=path.name,
            sop_class_uid=header.SOPClassUID,
            sop_instance_uid=header.SOPInstanceUID,
            transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
            location=path.as_uri(),
            size_bytes=path.stat().st_size,
            study_instance_uid=header.StudyInstanceUID,
            series_instance_uid=header.SeriesInstanceUID,
        )
        return dataclasses.replace(truth, **lies)

    return describe


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's own metadata database (SQLite), created once; for tests that run a DAG or read a connection."""
    from airflow.utils import db

    db.initdb()


@pytest.fixture
def contents() -> Callable[[str], dict[str, list[str]]]:
    """Gives all rows of all tables of a database."""
    import psycopg

    def read(dsn: str) -> dict[str, list[str]]:
        with psycopg.connect(dsn) as connection:
            tables = connection.execute(
                "select format('%I.%I', schemaname, tablename) from pg_tables"
                " where schemaname not in ('pg_catalog', 'information_schema')"
            ).fetchall()
            return {
                table: sorted(row for (row,) in connection.execute(f"select t::text from {table} t").fetchall())
                for (table,) in tables
            }

    return read
