"""docker-compose.yaml as far as it can be checked without an engine: structure, secrets, health, what it mounts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES = COMPOSE["services"]
AIRFLOW_SERVICES = sorted(name for name in SERVICES if name.startswith("airflow-"))

# From the Compose specification: what we use of it.
SERVICE_KEYS = {
    "build", "command", "depends_on", "environment", "healthcheck", "image", "ports", "restart", "stop_grace_period",
    "user", "volumes",
}  # fmt: skip
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
DURATION = re.compile(r"([0-9]+(us|ms|s|m|h))+")
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<operator>:\?|:-)?(?P<rest>[^}]*)\}")
MAY_HAVE_A_DEFAULT = {"AIRFLOW_UID", "AIRFLOW_PORT", "AIRFLOW_BASE_URL"}
IS_SECRET = re.compile(r"PASSWORD|SECRET|FERNET_KEY|SQL_ALCHEMY_CONN|RESULT_BACKEND|BROKER_URL|AIRFLOW_CONN_")


def all_texts(node):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from all_texts(key)
            yield from all_texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from all_texts(value)
    else:
        yield str(node)


def variables():
    return [match for text in all_texts(SERVICES) for match in VARIABLE.finditer(text)]


def env_example():
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_it_has_the_parts_of_an_airflow_with_celery():
    assert set(SERVICES) == {
        "postgres", "redis", "airflow-init", "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor",
        "airflow-triggerer", "airflow-worker",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_known_keys_an_image_and_a_command(name):
    service = SERVICES[name]
    assert set(service) <= SERVICE_KEYS
    assert isinstance(service["command"], list)
    assert all(isinstance(value, str) for value in service["environment"].values()), "YAML booleans and numbers trip"
    assert service["restart"] in ("no", "unless-stopped")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_pinned_to_a_version(name):
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert image
    assert re.match(r"\d+\.\d+", tag)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"airflow-init"}))
def test_a_lasting_service_has_a_health_check_with_times(name):
    check = SERVICES[name]["healthcheck"]
    assert set(check) <= HEALTHCHECK_KEYS
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["retries"] >= 3
    assert all(DURATION.fullmatch(check[key]) for key in ("interval", "timeout", "start_period"))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_a_service_waits_for_can_happen(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_secret_comes_from_the_environment_and_has_no_default(name):
    secrets = {key: value for key, value in SERVICES[name]["environment"].items() if IS_SECRET.search(key)}
    assert secrets
    for key, value in secrets.items():
        assert re.search(r"\$\{\w+:\?", value), f"{key} must be required"
        literal = VARIABLE.sub("", value)
        assert not re.search(r"//\w*:\w+@", literal), f"{key} carries a password of its own"


def test_only_harmless_variables_have_defaults():
    defaulted = {match["name"] for match in variables() if match["operator"] != ":?"}
    assert defaulted == MAY_HAVE_A_DEFAULT


def test_the_example_environment_names_exactly_the_required_variables_without_values():
    required = {match["name"] for match in variables() if match["operator"] == ":?"}
    assert set(env_example()) == required
    assert set(env_example().values()) == {""}


def test_the_example_explains_every_optional_variable():
    text = (ROOT / ".env.example").read_text()
    assert all(f"#{name}=" in text for name in MAY_HAVE_A_DEFAULT)


def test_the_filled_in_environment_never_gets_into_git():
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", AIRFLOW_SERVICES)
def test_all_airflow_services_share_image_settings_keys_and_volumes(name):
    common = COMPOSE["x-airflow"]
    assert SERVICES[name]["image"] == common["image"]
    assert SERVICES[name]["volumes"] == common["volumes"]
    assert common["environment"].items() <= SERVICES[name]["environment"].items()


def test_tasks_report_to_the_api_server():
    url = COMPOSE["x-airflow"]["environment"]["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
    assert url == "http://airflow-apiserver:8080/execution/"
    assert SERVICES["airflow-apiserver"]["ports"] == ["${AIRFLOW_PORT:-8080}:8080"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_is_mounted_exists(name):
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).exists()
        elif not source.startswith("${"):
            assert source in COMPOSE["volumes"]


def test_every_named_volume_is_used():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= used


def test_the_image_is_built_on_the_locked_airflow_and_holds_what_it_runs():
    dockerfile = (ROOT / "Dockerfile").read_text()
    version = re.search(r"(?m)^apache-airflow==(\S+)", (ROOT / "requirements.txt").read_text())[1]
    assert f"FROM apache/airflow:{version}-python3.12\n" in dockerfile
    assert "--require-hashes" in dockerfile
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"(?m)^COPY --chown=airflow:0 (\S+)", dockerfile):
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore
    assert "PYTHONPATH=/opt/airflow/plugins:/opt/airflow/include" in dockerfile
