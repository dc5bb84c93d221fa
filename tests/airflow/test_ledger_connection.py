"""What the ledger's connection says beside where the ledger is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from archsync.errors import ConfigurationError
from archsync.hooks.ledger import LedgerHook


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch):
    def define(**extra: Any) -> LedgerHook:
        values = {"conn_type": "postgres", "host": "db.example", "schema": "archsync", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_ARCHSYNC_LEDGER", json.dumps(values))
        return LedgerHook()

    return define


def test_how_long_content_is_kept_is_a_setting_of_the_connection_and_none_of_the_driver(define) -> None:
    hook = define(keep_days=7, sslmode="require")
    assert hook.keep_days() == 7.0
    assert "sslmode=require" in hook.get_dsn()
    assert "keep_days" not in hook.get_dsn()
    assert define(keep_days="90").keep_days() == 90.0
    assert define().keep_days() == 30.0


@pytest.mark.parametrize("value", ["a month", -1, None, 1e9, "nan"])
def test_a_wrong_number_of_days_is_named(define, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="keep_days: must be a number of days from 0 to 36500") as refused:
        define(keep_days=value).keep_days()
    assert refused.value.code == "bad-setting"
