"""The API does what its document says, for whatever schemathesis makes of that: no crash, no undeclared answer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, settings
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from archsync.api.app import create_app, document
from archsync.core.destination import Destination
from archsync.core.study import Priority
from archsync.ledger import destinations
from archsync.ledger.database import Ledger

DOCUMENT = {**document(create_app()), "servers": [{"url": "/archsync"}]}
schema = schemathesis.openapi.from_dict(DOCUMENT)
BASE_URL = f"http://{asgi.HOST}/archsync"
#: Connects to whatever host is generated; test_api_destinations.py has its peers.
TALKS = "/destinations/test"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def client(airflow_app, tokens, postgres, _ledger_template, _platform_template) -> Iterator[requests.Session]:
    """The API as an admin has it, with a destination, some jobs and an empty platform, which all examples share."""
    names = {kind: f"{kind}_{uuid.uuid4().hex[:12]}" for kind in ("ledger", "platform")}
    postgres.create_database(names["ledger"], template=_ledger_template)
    postgres.create_database(names["platform"], template=_platform_template)
    with Ledger(postgres.dsn(names["ledger"])) as ledger:
        for name in ("vna1", "vna2"):
            destinations.insert(ledger, Destination(name=name, called_ae_title=name.upper(), host="127.0.0.1", port=9))
        ledger.execute(
            "insert into job (job_type, status, destination_id, priority, patient_key, study_key, study_instance_uid)"
            " select 'archive', (array['failed', 'waiting', 'succeeded', 'running'])[1 + n %% 4], 1 + n %% 2, %s,"
            " n::text, n::text, '1.2.' || n from generate_series(1, 40) n",
            [int(Priority.ROUTINE)],
        )
    with pytest.MonkeyPatch.context() as patch:
        uris = {kind: postgres.dsn(name).replace("postgresql://", "postgres://", 1) for kind, name in names.items()}
        patch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", uris["ledger"])
        patch.setenv("AIRFLOW_CONN_ARCHSYNC_PLATFORM", f"{uris['platform']}?schema=archsync_platform")
        with asgi.get_client(airflow_app) as opened:
            opened.headers["Authorization"] = f"Bearer {tokens['admin']}"
            yield opened
    for name in names.values():
        postgres.drop_database(name)


# Airflow's middlewares leave streams of anyio to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@schema.exclude(path_regex=TALKS).parametrize()
@settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
def test_every_answer_is_one_that_the_document_tells_of(case: schemathesis.Case, client: requests.Session) -> None:
    # Airflow's own router finds no application behind a path with a line break in it.
    assume(not any("\n" in unquote(str(value)) for value in (case.path_parameters or {}).values()))
    response = case.call(session=client, base_url=BASE_URL)
    case.validate_response(response, checks=CHECKS)
