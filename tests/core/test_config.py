"""The daemon's configuration: what may be left out, what is refused, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from symbiosis_core import config
from symbiosis_core.config import DEFAULT_LANES, DaemonConfig, LaneConfig, check, load
from symbiosis_core.errors import ConfigError, Problem

TABLES: dict[str, type[msgspec.Struct]] = {
    "policy": config.PolicyConfig,
    "lanes.training": LaneConfig,
    "batching": config.BatchingConfig,
    "limits": config.LimitsConfig,
    "lending": config.LendingConfig,
    "compute": config.ComputeConfig,
}


def bounded_integers() -> Iterator[tuple[str, str, int, int]]:
    """Every integer of the configuration with its table and its two bounds."""
    for table, kind in TABLES.items():
        for field in msgspec.structs.fields(kind):
            info = inspect.type_info(field.type)
            if isinstance(info, inspect.IntType):
                assert info.ge is not None, field.name
                assert info.le is not None, field.name
                yield table, field.name, info.ge, info.le


NUMBERS = list(bounded_integers())


def document(table: str, key: str, value: object) -> str:
    needed = "priority = 1\n" if table.startswith("lanes.") and key != "priority" else ""
    return f"[{table}]\n{needed}{key} = {value}\n"


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        check("symbiosis.toml", text)
    return list(caught.value.problems)


def test_every_table_may_be_left_out() -> None:
    assert check("empty", "") == DaemonConfig()
    assert DaemonConfig().lanes == DEFAULT_LANES


def test_every_table_of_the_configuration_is_tried_here() -> None:
    names = {field.name for field in msgspec.structs.fields(DaemonConfig)}
    assert names == {table.partition(".")[0] for table in TABLES} | {"models", "rules"}


def test_rules_are_told_by_their_place_and_go_to_lanes_that_exist() -> None:
    good = check("f.toml", "[[rules]]\nlane = 'training'\nname = 'batch-*'\n")
    assert good.rules == (config.RuleConfig(lane="training", name="batch-*"),)
    two = "[[rules]]\nlane = 'training'\n[[rules]]\nlane = 'training'\nnam = 'x'\n"
    assert problems(two)[0].key == "rules[1].nam"
    [problem] = problems("[[rules]]\nlane = 'nowhere'\n")
    assert problem.key == "rules[0].lane" and "inference, training" in problem.allowed


def test_models_are_told_by_their_place_and_have_names_of_their_own() -> None:
    good = check("f.toml", "[[models]]\nsource = 'smollm2'\n[[models]]\nsource = 'a/b'\ndefault = true\n")
    small, other = good.models
    assert (small.name, small.dtype, small.default, other.default) == ("", "bfloat16", False, True)
    [problem] = problems("[[models]]\nname = 'a'\n")
    assert problem.key == "models[0].source"
    twice = "[[models]]\nsource = 's'\nname = 'a'\ndefault = true\n" * 2
    assert [problem.key for problem in problems(twice)] == ["models[1].name", "models[1].default"]


def test_a_weight_is_a_number_above_nothing() -> None:
    [problem] = problems(document("lanes.a", "weight", 0))
    assert problem == Problem("lanes.a.weight", 0, "must be a number, 0.001 to 1000")


def test_two_configurations_do_not_share_their_lanes() -> None:
    assert DaemonConfig().lanes is not DaemonConfig().lanes


@pytest.mark.parametrize(("table", "key", "low", "high"), NUMBERS)
def test_a_number_is_taken_up_to_its_bounds_and_not_beyond(table: str, key: str, low: int, high: int) -> None:
    for value in (low, high):
        check("f.toml", document(table, key, value))
    for value in (low - 1, high + 1, 1 << 70):
        [problem] = problems(document(table, key, value))
        assert problem == Problem(f"{table}.{key}", value, f"must be an integer, {low} to {high}")


@pytest.mark.parametrize(("table", "key", "low", "high"), NUMBERS)
@pytest.mark.parametrize("written", ["true", "1.0", "'1'", "[1]", "{}", "2026-01-01"])
def test_a_number_is_nothing_but_a_number(table: str, key: str, low: int, high: int, written: str) -> None:
    [problem] = problems(document(table, key, written))
    assert (problem.key, problem.allowed) == (f"{table}.{key}", f"must be an integer, {low} to {high}")


@pytest.mark.parametrize(("table", "kind"), list(TABLES.items()))
def test_a_misspelt_key_is_told_with_the_right_one(table: str, kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        found = problems(document(table, f"{field.name}x", 1))
        assert found[0].key == f"{table}.{field.name}x"
        assert found[0].allowed.startswith(f"unknown key; did you mean `{field.name}`? allowed: ")


def test_lanes_in_the_file_replace_the_default_lanes() -> None:
    found = check("f.toml", "[lanes.only]\npriority = 3\n")
    assert found.lanes == {"only": LaneConfig(priority=3)}


def test_there_is_no_daemon_without_a_lane() -> None:
    assert problems("[lanes]") == [Problem("lanes", {}, "must be a table, 1 to 32 entries")]


def test_there_are_32_lanes_at_most() -> None:
    lanes = [f"[lanes.l{number}]\npriority = 1\n" for number in range(33)]
    assert len(check("f.toml", "".join(lanes[:32])).lanes) == 32
    [problem] = problems("".join(lanes))
    assert problem.key == "lanes"


@pytest.mark.parametrize("name", ["", "l" * 129])
def test_a_lane_has_a_name_that_a_client_can_ask_for(name: str) -> None:
    [problem] = problems(f'[lanes."{name}"]\npriority = 1\n')
    assert problem.allowed == "must be text, 1 to 128 characters"


def test_a_lane_needs_its_priority() -> None:
    [problem] = problems("[lanes.training]\nchunk_rows = 64\n")
    assert problem == Problem("lanes.training.priority", None, "missing; must be an integer, 0 to 100")


def test_all_problems_of_all_tables_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "symbiosis.toml"
    path.write_text("[lanes.training]\nchunk_rows = 0\n[limits]\nslot = 3\n[batching]\nexact = 1\n[polcy]\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        f"{path}: polcy = {{}}: unknown key; did you mean `policy`? "
        "allowed: batching, compute, lanes, lending, limits, models, policy, rules",
        f"{path}: lanes.training.priority: missing; must be an integer, 0 to 100",
        f"{path}: lanes.training.chunk_rows = 0: must be an integer, 1 to 1048576",
        f"{path}: batching.exact = 1: must be true or false",
        f"{path}: limits.slot = 3: unknown key; did you mean `slots`? "
        "allowed: max_clients, max_rows, segments, slot_bytes, slots",
    ]


def test_a_file_is_read_from_a_path_or_its_text(tmp_path: Path) -> None:
    path = tmp_path / "symbiosis.toml"
    path.write_text("[compute]\nthreads = 2\n")
    assert load(path) == load(str(path)) == check("f.toml", path.read_text())
    assert load(path).compute.threads == 2


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DaemonConfig().limits.slots = 9  # type: ignore[misc]


def test_who_may_borrow_is_said_by_name() -> None:
    assert DaemonConfig().lending.allow == "same_user"
    assert check("good", '[lending]\nallow = "nobody"').lending.allow == "nobody"
    (problem,) = problems('[lending]\nallow = "everybody"')
    assert problem == Problem("lending.allow", "everybody", "must be one of 'nobody', 'same_user'")
