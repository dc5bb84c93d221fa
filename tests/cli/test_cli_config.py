"""``archsync config``: a YAML file against the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archsync.ledger import destinations as store
from archsync.ledger import plan_queue

FILE = """\
gateways:
  north_1:
    facility_group: region
    queue: edge_north
destinations:
  vna1:
    called_ae_title: VNA1
    host: vna1.example
    port: 11112
    facilities: [CITY]
    retry_delay_s: 5
  vna2:
    called_ae_title: 0123
    host: vna2.example
    port: 104
    gateway: north_1
    facility_groups: region
    send_window: 22:00-06:00
"""


@pytest.fixture
def write(tmp_path: Path):
    """Writes the configuration file and gives its path."""

    def to_file(text: str) -> str:
        path = tmp_path / "archsync.yaml"
        path.write_text(text)
        return str(path)

    return to_file


@pytest.fixture
def problems(run, write):
    """Gives the problems that a file is refused with, as (line, message)."""

    def of(text: str) -> list[tuple[int, str]]:
        path = write(text)
        result = run("config", "plan", path, status=2)
        *lines, summary = result.stderr.splitlines()
        assert summary.startswith(f"error: {len(lines)} problem")
        assert all(line.startswith(f"{path}:") for line in lines)
        parts = [line.removeprefix(f"{path}:").split(": ", 1) for line in lines]
        return [(int(line), message) for line, message in parts]

    return of


def test_plan_shows_what_would_be_made_and_changes_nothing(run, write, ledger_dsn, contents, pacs) -> None:
    before = contents(ledger_dsn)
    output = run("config", "plan", write(FILE)).stdout
    assert output == (
        "+ gateway north_1\n"
        "    facility_group: region\n"
        "    queue: edge_north\n"
        "+ destination vna1\n"
        "    called_ae_title: VNA1\n"
        "    host: vna1.example\n"
        "    port: 11112\n"
        "    facilities: CITY\n"
        "    retry_delay_s: 5\n"
        "+ destination vna2\n"
        "    called_ae_title: 0123\n"
        "    host: vna2.example\n"
        "    port: 104\n"
        "    gateway: north_1\n"
        "    facility_groups: region\n"
        "    send_window: 22:00-06:00\n"
        "3 things to make, 0 to change.\n"
    )
    assert contents(ledger_dsn) == before


def test_apply_makes_it_so_and_a_second_apply_has_nothing_to_change(
    run, write, ledger, ledger_dsn, contents, audit, pacs
) -> None:
    path = write(FILE)
    assert "Applied." in run("config", "apply", path, "--yes").stdout
    vna1, vna2 = store.all_destinations(ledger)
    assert (vna1.facilities, vna1.retry_delay_s) == (("CITY",), 5.0)
    assert (vna2.called_ae_title, vna2.gateway, vna2.facility_groups) == ("0123", "north_1", ("region",))
    assert [gateway.queue for gateway in store.gateways(ledger)] == ["edge_north"]
    assert [action for _, action, _, _ in audit()] == ["gateway.create", "destination.create", "destination.create"]
    after = contents(ledger_dsn)
    again = run("config", "apply", path, "--yes").stdout
    assert again == "Nothing to change.\n"
    assert contents(ledger_dsn) == after


def test_apply_asks_and_takes_no_for_an_answer(run, write, ledger, pacs) -> None:
    path = write(FILE)
    result = run("config", "apply", path, typed="n\n", status=1)
    assert result.stdout.endswith("Nothing was changed.\n")
    assert store.all_destinations(ledger) == []
    run("config", "apply", path, typed="y\n")
    assert len(store.all_destinations(ledger)) == 2


def test_a_change_is_shown_with_its_old_value_and_applied(run, write, ledger, audit, pacs) -> None:
    run("config", "apply", write(FILE), "--yes")
    changed = FILE.replace("port: 104", "port: 105").replace("queue: edge_north", "queue: edge_2")
    output = run("config", "apply", write(changed), "--yes").stdout
    assert output.startswith(
        "~ gateway north_1\n    queue: edge_north → edge_2\n~ destination vna2\n    port: 104 → 105\n"
    )
    assert store.get(ledger, "vna2").port == 105
    assert store.gateways(ledger)[0].queue == "edge_2"
    assert [action for _, action, _, _ in audit()[-2:]] == ["gateway.set", "destination.set"]


def test_what_the_file_does_not_name_is_left_alone_and_that_is_said(run, write, ledger, pacs) -> None:
    run("config", "apply", write(FILE), "--yes")
    run("destination", "set", "vna1", "max_attempts=3")
    part = "destinations:\n  vna1:\n    port: 11112\n    settle_s: 1\n"
    output = run("config", "apply", write(part), "--yes").stdout
    assert (
        "Kept as they are, not in the file: vna1: called_ae_title: VNA1, host: vna1.example, facilities: CITY" in output
    )
    assert "max_attempts: 3" in output
    assert "Left alone, not in the file: gateway north_1, destination vna2\n" in output
    vna1 = store.get(ledger, "vna1")
    assert (vna1.settle_s, vna1.max_attempts, vna1.facilities) == (1.0, 3, ("CITY",))


def test_the_plan_as_json(run_json, run, write, pacs) -> None:
    run("config", "apply", write(FILE), "--yes")
    plan = run_json("config", "plan", write(FILE.replace("port: 104", "port: 105")))
    assert plan["steps"] == [
        {
            "kind": "destination",
            "name": "vna2",
            "action": "change",
            "changes": [{"setting": "port", "old": "104", "new": "105"}],
        }
    ]
    assert plan["left_alone"] == []


def test_the_file_is_json_too_since_yaml_is_a_superset(run, write, ledger) -> None:
    settings = {"called_ae_title": "A", "host": "h", "port": 104, "tls": True, "facilities": []}
    run("config", "apply", write(json.dumps({"destinations": {"vna1": settings}})), "--yes")
    assert store.get(ledger, "vna1").tls


def test_every_problem_is_named_at_once_with_its_line(problems, pacs) -> None:
    found = problems(
        """\
gateways:
  north_1:
    facility_group: moon
  north_2:
    queue: q
destinations:
  vna1:
    called_ae_title: ABCDEFGHIJKLMNOPQ
    host: h
    prot: 104
    port: hundred
  vna2:
    facilities: [CITY]
  VNA3:
    called_ae_title: A
    host: h
    port: 104
  vna4:
    called_ae_title: A
    host: h
    port: 104
    facilities:
      - CITY
      - MOON
    gateway: south_9
  vna5:
    called_ae_title: A
    host: h
    port: {tcp: 104}
  vna6:
    called_ae_title: A
    host: h
    port: 104
    settle_s: 900
  vna6:
    port: 105
destination: {}
"""
    )
    assert found == [
        (3, "the platform has no facility group 'moon' (it has metro, region)"),
        (4, "north_2: a gateway needs facility_group"),
        (8, "called_ae_title: an AE title has at most 16 characters, this one has 17 (got 'ABCDEFGHIJKLMNOPQ')"),
        (10, "unknown setting 'prot'; did you mean 'port'?"),
        (11, "port: must be a whole number (got 'hundred')"),
        (12, "vna2: a destination needs called_ae_title, host, port"),
        (
            14,
            "name: must be 1 to 40 lower-case letters, digits or underscores, starting with a letter (got 'VNA3')",
        ),
        (22, "the platform has no facility 'MOON' (it has CITY, NORTH, SOUTH)"),
        (25, "gateway: there is no gateway 'south_9' (there are north_1, north_2)"),
        (29, "port: must be a single value or a list of them"),
        (30, "vna6: settle_max_s: must not be shorter than settle_s"),
        (35, "'vna6' is named twice, first in line 30"),
        (37, "unknown section 'destination'; there are gateways and destinations"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ("- vna1\n", 1, "the file must be a mapping (name: value)"),
        ("destinations: [vna1]\n", 1, "destinations must be a mapping (name: value)"),
        ("destinations:\n  vna1: {name: vna2}\n", 2, "name: the entry's key is the name"),
        ("destinations:\n  vna1:\n    port: 1\n    port: 2\n", 4, "'port' is named twice, first in line 3"),
        ("destinations:\n  vna1:\n\tport: 1\n", 3, "not YAML: found character '\\t' that cannot start any token"),
        ("destinations:\n  vna1: [1\n", 3, "not YAML: expected ',' or ']', but got '<stream end>'"),
        ("destinations: !!python/object:os.system {}\n---\n{}\n", 2, "not YAML: but found another document"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_with_its_line(problems, text, line, message) -> None:
    assert problems(text)[0] == (line, message)


def test_a_file_with_problems_changes_nothing(run, write, ledger, pacs) -> None:
    run("config", "apply", write(FILE.replace("port: 104", "port: none")), "--yes", status=2)
    assert store.all_destinations(ledger) == []
    assert store.gateways(ledger) == []


def test_a_file_that_is_missing_or_not_text_is_refused_in_one_line(run, tmp_path) -> None:
    assert "does not exist" in run("config", "plan", str(tmp_path / "none.yaml"), status=2).stderr
    (tmp_path / "latin.yaml").write_bytes(b"destinations: {\xe4: 1}")
    assert "not UTF-8 text" in run("config", "plan", str(tmp_path / "latin.yaml"), status=2).stderr


def test_the_identity_of_a_destination_that_holds_studies_needs_override(
    run, write, problems, ledger, pacs, audit
) -> None:
    run("config", "apply", write(FILE), "--yes")
    held = store.get(ledger, "vna1")
    ledger.execute("insert into held_instance (destination_id, placement_id) values (%s, 1)", [held.destination_id])
    moved = FILE.replace("host: vna1.example", "host: new.example")
    ((line, message),) = problems(moved)
    assert line == 8
    assert message.endswith("; --override-lock REASON allows it")
    assert "host: vna1.example → new.example" in run("config", "plan", write(moved), "--override-lock", "moved").stdout
    run("config", "apply", write(moved), "--yes", "--override-lock", "moved to the new site")
    assert store.get(ledger, "vna1").host == "new.example"
    assert audit()[-1][1] == "destination.override"
    assert audit()[-1][3].endswith("; lock overridden: moved to the new site")


def test_an_unchanged_scope_needs_no_platform(run, write, pacs) -> None:
    run("config", "apply", write(FILE), "--yes")
    output = run("--platform-dsn", "postgresql://127.0.0.1:1/none", "config", "plan", write(FILE)).stdout
    assert output == "Nothing to change.\n"


def test_a_change_of_scope_has_every_study_compared_again(run, write, ledger, pacs) -> None:
    run("config", "apply", write(FILE), "--yes")
    plan_queue.advance(ledger, "7", [])
    run("config", "apply", write(FILE.replace("[CITY]", "[CITY, NORTH]")), "--yes")
    assert plan_queue.watermark(ledger) is None


def test_the_example_file_is_valid_for_the_simulated_platform(run, ledger, pacs) -> None:
    example = Path(__file__).parents[2] / "include" / "archsync.example.yaml"
    run("config", "apply", str(example), "--yes")
    assert len(store.all_destinations(ledger)) >= 2
    assert run("config", "plan", str(example)).stdout.endswith("Nothing to change.\n")
