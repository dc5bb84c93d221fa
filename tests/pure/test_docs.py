"""The documentation keeps step with the code: error codes, links, and the commands it quotes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import pytest

from archsync.cli.main import archsync
from archsync.core.job import TRANSITIONS, UNDONE, JobStatus, WaitReason
from archsync.core.naming import DISPATCH_DAG_ID, MAINTAIN_DAG_ID
from archsync.core.profiles import ArchiveProfile
from archsync.messages.association import negotiation_abort_error, rejection_error
from archsync.messages.store_status import explain_store_status
from archsync.net.dicom.transport import TLS_FAILURES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "plugins" / "archsync"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_CODE = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


# -- codes -----------------------------------------------------------------------------------------------------------


def positions_of_codes(sources: Iterable[str]) -> dict[str, int]:
    """Where dataclasses that have a field ``code`` take it as a positional argument, by their names."""
    return {
        node.name: fields.index("code")
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and "code" in (fields := _field_names(node))
    }


def codes_in_python(source: str, positions: dict[str, int]) -> set[str]:
    """The codes that a module states as text.

    Keyword arguments ``code=`` and ``reason_code=``, the class attribute ``code``, assignments to a variable ``code``
    (alone or in a tuple), and the positional argument of a dataclass that has a field ``code``.
    """
    tree = ast.parse(source)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("code", "reason_code"):
            found |= _texts(node.value)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                found |= _assigned(target, node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in positions:
            position = positions[node.func.id]
            found |= _texts(node.args[position]) if len(node.args) > position else set()
    return found - {""}


def _field_names(node: ast.ClassDef) -> list[str]:
    return [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]


def _assigned(target: ast.expr, value: ast.expr) -> set[str]:
    if isinstance(target, ast.Name) and target.id == "code":
        return _texts(value)
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return {text for t, v in zip(target.elts, value.elts, strict=False) for text in _assigned(t, v)}
    return set()


def _texts(node: ast.expr) -> set[str]:
    if isinstance(node, ast.IfExp):
        return _texts(node.body) | _texts(node.orelse)
    if isinstance(node, ast.BoolOp):
        return {text for value in node.values for text in _texts(value)}
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def codes_in_sql(source: str) -> set[str]:
    """The codes that a statement writes to a column ``reason_code``."""
    return set(re.findall(r"reason_code = (?:coalesce\(reason_code, )?'([^']+)'", source))


def codes_of_tables() -> set[str]:
    """The codes that come out of the tables: every C-STORE status, every refusal, every abort, every TLS failure."""
    statuses = {
        explain_store_status(status, profile).code for status in [None, *range(0x10000)] for profile in ArchiveProfile
    }
    titles = {"called_ae_title": "VNA1", "calling_ae_title": "ARCHSYNC"}
    refusals = {
        rejection_error(result, source, reason, **titles).code
        for result in (1, 2)
        for source in range(5)
        for reason in range(12)
    }
    aborts = {negotiation_abort_error(source, reason).code for source in (0, 2) for reason in range(7)}
    return statuses | refusals | aborts | {code for code, _, _ in TLS_FAILURES.values()}


def codes_in_package() -> set[str]:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    positions = positions_of_codes(sources)
    stated = {code for source in sources for code in codes_in_python(source, positions)}
    written = {code for path in PACKAGE.rglob("*.sql") for code in codes_in_sql(path.read_text(encoding="utf-8"))}
    return stated | written | codes_of_tables() | {reason.value for reason in WaitReason}


def headings(text: str) -> list[tuple[int, str]]:
    """The headings of a page with their levels; fenced blocks have none."""
    found = []
    is_fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif not is_fenced and (match := re.match(r"(#{1,6}) (.+)", line)):
            found.append((len(match[1]), match[2].strip()))
    return found


def documented_codes() -> list[str]:
    found = headings(TROUBLESHOOTING.read_text(encoding="utf-8"))
    return [title for level, title in found if level == 3]


def test_codes_are_found_however_the_code_states_them() -> None:
    source = """
class Refusal:
    lasting: bool
    code: str
class Bad(Exception):
    code = "of-a-class"
Refusal(True, "by-position")
raise Bad("x", code="by-keyword" if lasting else "or-this")
finish(reason_code=given or "else-this")
result, code = 1, "in-a-tuple"
Refusal(True, code)
"""
    assert codes_in_python(source, positions_of_codes([source])) == {
        "of-a-class", "by-position", "by-keyword", "or-this", "else-this", "in-a-tuple",
    }  # fmt: skip
    assert codes_in_sql("set reason_code = 'plain', reason_code = coalesce(reason_code, 'lost')") == {"plain", "lost"}


def test_every_code_of_the_package_is_a_lower_case_word() -> None:
    assert [code for code in codes_in_package() if not _CODE.fullmatch(code)] == []


def test_every_code_has_a_troubleshooting_entry() -> None:
    assert sorted(codes_in_package() - set(documented_codes())) == []


def test_every_troubleshooting_entry_is_a_code_of_the_package() -> None:
    assert sorted(set(documented_codes()) - codes_in_package()) == []


def test_no_code_has_two_entries() -> None:
    documented = documented_codes()
    assert sorted({code for code in documented if documented.count(code) > 1}) == []


def test_every_entry_says_what_it_means_what_archsync_does_and_what_you_do() -> None:
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    incomplete = [
        section.splitlines()[0]
        for section in sections
        if not all(f"**{part}:**" in section for part in ("Means", "archsync", "You"))
    ]
    assert incomplete == []


# -- links -----------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors GitHub gives a page's headings."""
    found: set[str] = set()
    for _, title in headings(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def links(text: str) -> list[str]:
    """The targets of a page's links and images; code has none."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"`[^`\n]*`", "", outside)
    return re.findall(r"\]\(([^)\s]+)\)", outside)


def test_anchors_are_made_as_github_makes_them() -> None:
    page = "# A `code` & more\n## Twice\n## Twice\n```\n# not one\n```\n### lost-lease\n### exam_status\n"
    assert anchors(page) == {"a-code--more", "twice", "twice-1", "lost-lease", "exam_status"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            broken.append(f"{target}: no such heading")
    assert broken == []


# -- commands --------------------------------------------------------------------------------------------------------


def shell_lines(text: str) -> Iterator[str]:
    """The commands of a page's ``sh`` blocks, continued lines joined; comments and ``sudo`` left out."""
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if stripped := line.strip().removeprefix("sudo "):
                yield stripped


def words_of(line: str) -> list[str]:
    """The words of a command without variables before it, and without what follows a pipe, `;`, `&&` or `>`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = []
    for word in lexer:
        if set(word) <= set("|;&>"):
            break
        words.append(word)
    while words and re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]):
        words.pop(0)
    return words


def problem_with_archsync(arguments: list[str]) -> str | None:
    """What the command line would say against these arguments: unknown command or option, one too many or missing."""
    command: click.Command = archsync
    context = click.Context(command, info_name="archsync")
    while True:
        try:
            values, rest, _ = command.make_parser(context).parse_args(list(arguments))
        except click.UsageError as exc:
            return exc.format_message()
        if {"--help", "-h"} & set(arguments[:1]):
            return None
        if not isinstance(command, click.Group):
            break
        if not rest:
            return f"{context.command_path}: a subcommand is missing"
        found = command.get_command(context, rest[0])
        if found is None:
            return f"{context.command_path}: no subcommand {rest[0]}"
        context = click.Context(found, parent=context, info_name=rest[0])
        command, arguments = found, rest[1:]
    if rest:
        return f"{context.command_path}: superfluous: {' '.join(rest)}"
    missing = [p.name for p in command.params if p.required and _is_missing(p, values)]
    return f"{context.command_path}: missing: {', '.join(map(str, missing))}" if missing else None


def _is_missing(parameter: click.Parameter, values: dict[str, object]) -> bool:
    return parameter.name not in values or parameter.value_is_missing(values[parameter.name])


def problem_with_script(script: str, arguments: list[str]) -> str | None:
    """What is wrong with a call of one of our scripts."""
    path = ROOT / script
    if not path.is_file():
        return f"no file {script}"
    if script == "scripts/archsync":
        return problem_with_archsync(arguments)
    if script == "scripts/test":
        tiers = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return next((f"no tier {tier}" for tier in tiers if not (ROOT / "tests" / tier).is_dir()), None)
    if script == "scripts/demo":
        known = set()
        for module in ("demo.py", "up.py"):
            known |= set(re.findall(r'"(--[a-z-]+)"', (PACKAGE / "launcher" / module).read_text(encoding="utf-8")))
        options = [a.partition("=")[0] for a in arguments if a.startswith("--")]
        return next((f"no option {option}" for option in options if option not in known | {"--help"}), None)
    return None


def problem_with(line: str) -> str | None:
    words = words_of(line)
    if not words:
        return None
    name = words[0].removeprefix("./")
    if name == "archsync":
        return problem_with_archsync(words[1:])
    if name.startswith("scripts/"):
        return problem_with_script(name, words[1:])
    return None


@pytest.mark.parametrize(
    "line",
    [
        "archsync sing",
        "archsync destination create vna1 --colour red",
        "archsync destination show",
        "archsync db migrate now",
        "scripts/demo --twice",
        "scripts/test no-such-tier",
        "scripts/nothing",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    assert problem_with(line)


@pytest.mark.parametrize(
    "line", ["archsync destination show vna1 --json | less", "A=b scripts/demo --once --port 8097  # twice", "ls -l"]
)
def test_a_command_that_exists_is_let_pass(line: str) -> None:
    assert problem_with(line) is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_ours_that_is_quoted_exists(page: Path) -> None:
    lines = shell_lines(page.read_text(encoding="utf-8"))
    assert [f"{line}: {problem}" for line in lines if (problem := problem_with(line))] == []


# -- pictures and names ----------------------------------------------------------------------------------------------


def test_the_state_diagram_shows_exactly_the_allowed_status_changes() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, flags=re.DOTALL)
    assert diagram is not None
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)", diagram[1], flags=re.MULTILINE))
    # Said in a sentence under the diagram: every undone job may end so, and retry takes both back.
    ended_by_rule_or_person = {JobStatus.SUPPRESSED, JobStatus.CANCELLED}
    said = {(old, new) for old in UNDONE for new in ended_by_rule_or_person}
    said |= {(old, JobStatus.WAITING) for old in ended_by_rule_or_person}
    allowed = {(old, new) for old, news in TRANSITIONS.items() for new in news}
    assert {(JobStatus(old), JobStatus(new)) for old, new in drawn} | said == allowed
    assert not said & {(JobStatus(old), JobStatus(new)) for old, new in drawn}


def test_the_dags_are_called_what_the_documentation_calls_them() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {DISPATCH_DAG_ID, MAINTAIN_DAG_ID} <= set(re.findall(r"archsync_\w+", text))


def test_every_table_of_the_ledger_is_described() -> None:
    migrations = "".join(p.read_text(encoding="utf-8") for p in (PACKAGE / "ledger" / "migrations").glob("*.sql"))
    tables = set(re.findall(r"^create table (\w+)", migrations, flags=re.MULTILINE))
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert sorted(t for t in tables if f"`{t}`" not in text) == []
