"""The documents say what the code does."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from archsync.cli.docs import refresh
from archsync.cli.main import archsync

DOCS = Path(__file__).parents[2] / "docs"


def test_the_tables_of_settings_are_current() -> None:
    page = (DOCS / "destination.md").read_text()
    assert refresh(page) == page, "run: python -m archsync.cli.docs docs/destination.md"


def leaves(group: click.Group, words: str):
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from leaves(command, f"{words} {name}")
            else:
                yield f"{words} {name}", command


@pytest.mark.parametrize(("words", "command"), list(leaves(archsync, "archsync")), ids=lambda value: str(value))
def test_every_command_and_option_is_documented(words, command) -> None:
    page = (DOCS / "cli.md").read_text()
    assert f"### `{words}" in page
    section = page.split(f"### `{words}")[1].split("\n### ")[0].split("\n## ")[0]
    if words == "archsync destination create":
        assert "destination.md" in section
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in section, (words, parameter.opts)
