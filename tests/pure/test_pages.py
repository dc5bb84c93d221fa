"""The pages' modules fit together, and stand on nothing but Airflow's own page: there is no build step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "plugins" / "archsync" / "pages"
MODULES = sorted(PAGES.glob("*.js"))
ENTRIES = {"main.js": "Archive Sync", "run_tab.js": "Archive job", "tile.js": "Archive Sync tile"}

_IMPORT = re.compile(r"^import \{([^}]*)\} from \"([^\"]+)\";$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?:const|class|function) (?:(\w+)|\{([^}]*)\})", re.MULTILINE)


def exported(module: Path) -> set[str]:
    names: set[str] = set()
    for one, several in _EXPORT.findall(module.read_text()):
        names |= {one} if one else {name.strip() for name in several.split(",")}
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_what_a_module_imports_is_exported_where_it_says_and_used(module: Path) -> None:
    text = module.read_text()
    rest = _IMPORT.sub("", text)
    imports = _IMPORT.findall(text)
    assert text.count("import {") == len(imports)
    for names, source in imports:
        assert source.startswith("./")
        for name in (part.strip() for part in names.split(",")):
            assert name in exported(PAGES / source), f"{source} exports no {name}"
            assert re.search(rf"\b{name}\b", rest), f"{name} is imported and not used"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_fetches_nothing_from_elsewhere_and_runs_no_text(module: Path) -> None:
    text = module.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"https?://|//cdn|\beval\(|new Function|innerHTML|dangerouslySetInnerHTML|document\.write", text
    )


def test_each_react_app_is_a_function_under_its_name() -> None:
    found = {m.name: re.findall(r"^globalThis\[\"([^\"]+)\"\] = ", m.read_text(), re.MULTILINE) for m in MODULES}
    assert {name: names[0] for name, names in found.items() if names} == ENTRIES


def test_every_module_is_reached_from_an_entry() -> None:
    reached: set[str] = set()
    todo = list(ENTRIES)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [source.removeprefix("./") for _, source in _IMPORT.findall((PAGES / name).read_text())]
    assert reached == {module.name for module in MODULES}
