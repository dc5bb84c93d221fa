"""The environment in which a local Airflow runs archsync: every setting it needs, and why."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping

from archsync.launcher.postgres import EmbeddedPostgres
from archsync.launcher.state import CHECKOUT, State, write_private

AIRFLOW_DATABASE = "airflow"
LEDGER_DATABASE = "archsync"
PLATFORM_DATABASE = "platform"
PLATFORM_SCHEMA = "archsync_platform"

#: User name → role in Airflow.
USERS: Mapping[str, str] = {"admin": "admin", "op": "op", "user": "user", "viewer": "viewer"}


def own_settings(state: State, postgres: EmbeddedPostgres, ui_port: int) -> dict[str, str]:
    """Build the variables we set, without those inherited; secrets are made on the first call and kept in ``state``."""
    ui_url = f"http://127.0.0.1:{ui_port}"
    here = os.pathsep.join(str(CHECKOUT / folder) for folder in ("plugins", "include"))
    return {
        "AIRFLOW_HOME": str(state.airflow_home),
        # Before plugins/ joins sys.path by itself, Airflow has already looked for providers (our connection types).
        "PYTHONPATH": here,
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(CHECKOUT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # Measured on two cores: more workers or longer sleeps give fewer jobs per second.
        "AIRFLOW__CORE__PARALLELISM": "16",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        # The default of 16 would cap each destination; its pool is the limit we mean.
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "128",
        "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "128",
        # A new destination's DAGs appear after this many seconds instead of minutes.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "15",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.sqlalchemy_url(AIRFLOW_DATABASE),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(state.airflow_home / "logs"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ui_port),
        "AIRFLOW__API__BASE_URL": ui_url,
        "AIRFLOW__API__WORKERS": "1",
        # Tasks report here; the default is port 8080 whatever the API server listens on.
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{ui_url}/execution/",
        "AIRFLOW__API__SECRET_KEY": state.secret("api_secret_key"),
        "AIRFLOW__API_AUTH__JWT_SECRET": state.secret("jwt_secret"),
        "AIRFLOW__CORE__FERNET_KEY": state.secret("fernet_key", _fernet_key),
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(state.airflow_home / "passwords.json"),
        # Tasks run without a terminal and never need a proxy to reach this machine.
        "NO_PROXY": _with_local_hosts(os.environ.get("NO_PROXY") or os.environ.get("no_proxy", "")),
        "no_proxy": _with_local_hosts(os.environ.get("NO_PROXY") or os.environ.get("no_proxy", "")),
        "AIRFLOW_CONN_ARCHSYNC_LEDGER": _connection_uri(postgres, LEDGER_DATABASE),
        "AIRFLOW_CONN_ARCHSYNC_PLATFORM": _connection_uri(postgres, PLATFORM_DATABASE) + f"?schema={PLATFORM_SCHEMA}",
    }


def process_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Build the whole environment of a component: the inherited one without foreign Airflow settings, and ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return {**inherited, **settings}


def write_passwords(state: State) -> dict[str, str]:
    """Write the password file of Airflow's simple auth manager and return the passwords by user."""
    passwords = {user: state.secret(f"password_{user}", lambda: secrets.token_urlsafe(9)) for user in USERS}
    state.airflow_home.mkdir(exist_ok=True)
    state.airflow_home.chmod(0o700)
    write_private(state.airflow_home / "passwords.json", json.dumps(passwords) + "\n")
    return passwords


def _connection_uri(postgres: EmbeddedPostgres, database: str) -> str:
    return postgres.dsn(database).replace("postgresql://", "postgres://", 1)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _with_local_hosts(no_proxy: str) -> str:
    return ",".join([*filter(None, no_proxy.split(",")), "127.0.0.1", "localhost"])
