"""Which examples Hypothesis tries: the same in every run, others when they are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("asked", "is_fixed"), [(None, True), ("", True), ("1", False)])
def test_examples_are_fixed_unless_new_ones_are_asked_for(asked: str | None, is_fixed: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ARCHSYNC_EXPLORE"}
    if asked is not None:
        environment["ARCHSYNC_EXPLORE"] = asked
    code = "import conftest; from hypothesis import settings; print(settings().derandomize)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTS, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == str(is_fixed)
