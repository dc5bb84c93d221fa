"""The lock files: complete, exact, and free of any registry's address."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements", "requirements-dev")
# name, extras, version, marker; then the hashes
ENTRY = re.compile(
    r"([a-z0-9][a-z0-9._-]*)(\[[a-z0-9,-]+\])?==(\S+)( ; [^\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+"
)


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> list[str]:
    return re.split(r"\n(?=\S)", (ROOT / f"{lock}.txt").read_text().rstrip("\n"))


def named(lock: str) -> dict[str, str]:
    return {ENTRY.fullmatch(entry)[1]: ENTRY.fullmatch(entry)[3] for entry in entries(lock)}


def wanted(lock: str) -> set[str]:
    lines = (ROOT / f"{lock}.in").read_text().splitlines()
    return {normalise(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in lines if re.match(r"[A-Za-z0-9]", line)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_has_one_exact_version_and_hashes(lock):
    assert [entry for entry in entries(lock) if not ENTRY.fullmatch(entry)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_asked_for_is_locked(lock):
    assert wanted(lock) <= named(lock).keys()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_requirement_with_extras_is_locked_without_them_too(lock):
    # pip in hash mode takes them for two requirements.
    parsed = [ENTRY.fullmatch(entry) for entry in entries(lock)]
    plain = {(m[1], m[3]) for m in parsed if not m[2]}
    assert {(m[1], m[3]) for m in parsed if m[2]} <= plain


@pytest.mark.parametrize("lock", LOCKS)
def test_no_address_is_named(lock):
    for suffix in ("in", "txt"):
        text = (ROOT / f"{lock}.{suffix}").read_text()
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text


def test_the_tools_agree_with_the_lock_of_what_runs():
    runtime, tools = named("requirements"), named("requirements-dev")
    assert {name: (runtime[name], tools[name]) for name in runtime.keys() & tools if runtime[name] != tools[name]} == {}


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").iterdir() if p.is_file()))
def test_a_script_is_posix_shell_and_may_be_run(script):
    path = ROOT / "scripts" / script
    assert path.read_text().startswith("#!/bin/sh\n")
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", path], capture_output=True, text=True).stderr == ""


def test_an_unknown_tier_is_named_with_those_there_are():
    done = subprocess.run([ROOT / "scripts" / "test", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no tier 'nonsense'" in done.stderr
    assert "pure" in done.stderr
