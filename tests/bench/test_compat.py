"""`symbiosis bench compat`: nothing is forgotten, what differs is told, and no cell stops the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from symbiosis_bench.compat.cell import Cell, Outcome, Step
from symbiosis_bench.compat.comparison import compare, unsteady
from symbiosis_bench.compat.families import FAMILIES, QUICK_FAMILIES
from symbiosis_bench.compat.methods import METHODS, QUICK_METHODS
from symbiosis_bench.compat.observation import Observation, Trips
from symbiosis_bench.compat.page import by_hand, page
from symbiosis_bench.compat.report import Report, cells_in, from_json, score, to_json
from symbiosis_bench.machine import this_machine
from symbiosis_core.errors import UsageError

MAIN = [sys.executable, "-m", "symbiosis_core", "bench", "compat"]


def test_no_tuner_of_peft_is_forgotten() -> None:
    assert {method.tuner for method in METHODS.values()} == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_every_configuration_has_the_fields_that_are_set() -> None:
    for name, method in METHODS.items():
        fields = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.tuner)].__dataclass_fields__
        assert set(method.fields) <= set(fields), name


def test_the_quick_run_is_a_part_of_the_whole() -> None:
    assert set(QUICK_FAMILIES) <= set(FAMILIES)
    assert set(QUICK_METHODS) <= set(METHODS)


# -- comparison ----------------------------------------------------------------------------------------------


def observed(**changes: Any) -> Observation:
    values: dict[Step, Any] = {
        Step.ADAPT: (8, 100),
        Step.LOSS: 2.0,
        Step.GRADIENTS: {"a": torch.tensor([1.0, -2.0])},
        Step.LOGITS: torch.tensor([3.0, 4.0]),
        Step.TOKENS: torch.tensor([1, 2]),
        Step.RELOAD: torch.tensor([3.0, 4.0]),
        Step.MERGE: torch.tensor([3.0, 4.0]),
    }
    errors: dict[Step, Exception] = {}
    for name, change in changes.items():
        step = Step(name)
        if isinstance(change, Exception):
            del values[step]
            errors[step] = change
        else:
            values[step] = change
    return Observation(values, errors, Trips("graph", 2.0))


def judged(plain: Observation, remote: Observation | None) -> Cell:
    return compare("llama", "lora", "graph", plain, remote)


def test_what_is_equal_within_the_tolerance_passes() -> None:
    near = observed(loss=2.0 + 1e-5, gradients={"a": torch.tensor([1.0 + 1e-4, -2.0])})
    cell = judged(observed(), near)
    assert (cell.outcome, cell.served, cell.trips) == (Outcome.PASS, "graph", 2.0)
    assert set(cell.steps) == set(Step)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapt": (9, 100)}, "adapt: (9, 100) trainable parameters and all, not (8, 100)"),
        ({"loss": 2.0 + 1e-4}, "loss: off by 5e-05"),
        ({"loss": float("nan")}, "loss: off by nan"),
        ({"gradients": {"a": torch.tensor([1.001, -2.0])}}, "gradients: 1 of 1 off by 5e-04, such as a"),
        ({"gradients": {"a": torch.tensor([1.0, float("nan")])}}, "gradients: 1 of 1 off by nan, such as a"),
        ({"gradients": {}}, "gradients: 1 parameters have a gradient on one side only, such as a"),
        ({"logits": torch.tensor([3.0])}, "logits: shape (1,), not (2,)"),
        ({"tokens": torch.tensor([1, 3])}, "tokens: other tokens"),
        ({"reload": torch.tensor([3.0, 4.1])}, "reload: off by 2e-02"),
        ({"merge": ValueError("no\n  way")}, "merge: ValueError: no way"),
    ],
)
def test_what_differs_fails_with_its_step(changes: dict[str, Any], reason: str) -> None:
    cell = judged(observed(), observed(**changes))
    assert (cell.outcome, cell.reason) == (Outcome.FAIL, reason)


@pytest.mark.parametrize(("off", "outcome"), [(9e-9, Outcome.PASS), (2e-8, Outcome.FAIL)])
def test_what_cancels_is_measured_by_what_does_not(off: float, outcome: Outcome) -> None:
    """Float32 resolves 1.2e-7 of the largest gradient."""
    plain = observed(gradients={"a": torch.tensor([1.0]), "key bias": torch.tensor([1e-9])})
    remote = observed(gradients={"a": torch.tensor([1.0]), "key bias": torch.tensor([1e-9 + off])})
    assert judged(plain, remote).outcome is outcome


def test_a_gradient_without_entries_is_equal_to_itself() -> None:
    """OSF has such where a layer has one output only."""
    empty = observed(gradients={"a": torch.ones(1), "b": torch.empty(0, 4)})
    assert judged(empty, empty).outcome is Outcome.PASS


def test_a_method_without_gradients_proves_nothing() -> None:
    nothing = observed(gradients={})
    assert judged(nothing, nothing).reason == "gradients: none"


def test_a_refused_read_of_the_weights_is_told_apart() -> None:
    refused = UsageError("q_proj.weight: torch's add() is not possible, for its values are in the daemon and more")
    wrapped = RuntimeError("merging failed")
    wrapped.__cause__ = refused
    for error in (refused, wrapped):
        assert judged(observed(), observed(merge=error)).outcome is Outcome.LENT
    assert judged(observed(), observed(merge=error, tokens=torch.tensor([0, 0]))).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("step", "plain", "remote", "shaken", "off"),
    [
        ("loss", 2.0, 2.1, 2.2, "1e-01"),
        ("logits", torch.tensor([4.0]), torch.tensor([5.0]), torch.tensor([4.4]), "1e-01"),
        ("gradients", {"a": torch.ones(1)}, {"a": torch.ones(1) * 2}, {"a": torch.ones(1) * 1.5}, "5e-01"),
    ],
)
def test_a_cell_that_fails_says_how_far_plain_peft_is_from_itself(
    step: str, plain: Any, remote: Any, shaken: Any, off: str
) -> None:
    failed = judged(observed(**{step: plain}), observed(**{step: remote}))
    told = unsteady(failed, observed(**{step: plain}), observed(**{step: shaken}))
    assert told.outcome is Outcome.FAIL
    assert told.reason == f"{failed.reason}; the last bit of the weights moves plain PEFT by {off}"


def test_what_no_rounding_explains_is_left_as_it_is() -> None:
    failed = judged(observed(), observed(tokens=torch.tensor([1, 3])))
    assert unsteady(failed, observed(), observed(tokens=torch.tensor([1, 3]))) == failed


def test_where_plain_peft_fails_there_is_nothing_to_compare() -> None:
    cell = judged(observed(loss=ValueError("no such family")), None)
    assert (cell.outcome, cell.reason) == (Outcome.NOT_PLAIN, "loss: ValueError: no such family")
    merged = judged(observed(merge=ValueError("cannot merge")), observed())
    assert (merged.outcome, merged.steps[Step.MERGE]) == (Outcome.PASS, Outcome.NOT_PLAIN)


# -- the report ----------------------------------------------------------------------------------------------


def cell(family: str, method: str, outcome: Outcome, **more: Any) -> Cell:
    return Cell(family=family, method=method, cut="graph", outcome=outcome, **more)


MERGE_LENT = {Step.LOSS: Outcome.PASS, Step.MERGE: Outcome.LENT}
CELLS = (
    cell("llama", "lora", Outcome.PASS, trips=1.0, served="graph"),
    cell("llama", "ia3", Outcome.FAIL, reason="loss: model.layers.0.mlp.up_proj: off by 3e-02"),
    cell("gpt2", "lora", Outcome.LENT, trips=1.5, served="siblings", steps=MERGE_LENT, reason="merge: x"),
    cell("gpt2", "ia3", Outcome.FAIL, reason="loss: model.layers.1.mlp.up_proj: off by 5e-01"),
    cell("opt", "lora", Outcome.LENT, steps={Step.ADAPT: Outcome.LENT}, reason="adapt: x"),
    cell("opt", "ia3", Outcome.NOT_PLAIN, reason="adapt: ValueError: no"),
)
REPORT = Report(
    machine=this_machine(),
    families=("llama", "gpt2", "opt"),
    methods=("lora", "ia3"),
    cuts=("graph",),
    cells=CELLS,
)


def test_the_score_counts_what_plain_peft_passes() -> None:
    assert score(CELLS) == (5, 1, 2, 2, 2)


def test_the_page_shows_every_cell_and_every_reason() -> None:
    _, _, cells = page(REPORT).partition("## The cells")
    lines = cells.splitlines()
    assert [line for line in lines if line.startswith(("| llama", "| gpt2", "| opt"))] == [
        "| llama | 1 |",
        "| gpt2 | (1.5 siblings) |",
        "| opt | weights |",
        "| llama | loss 1 |",
        "| gpt2 | loss 1 |",
        "| opt | - |",
    ]
    assert "1. `loss: up_proj: off by some`: ia3 (llama 3e-02, gpt2 5e-01)." in lines
    assert "- `adapt: ValueError: no`: ia3 (opt)." in lines
    assert "- At once: lora." in lines


def test_the_section_that_is_written_by_hand_outlives_the_page(tmp_path: Path) -> None:
    section = "\n## PEFT's own tests\n\n5 of 6.\n"
    (tmp_path / "old.md").write_text("# Compatibility\n\nSomething.\n" + section)
    assert by_hand(tmp_path / "old.md") == section
    assert by_hand(tmp_path / "none.md") == by_hand(None) == ""


def test_the_same_report_gives_the_same_page() -> None:
    later = msgspec.structs.replace(REPORT.machine, date="2031-01-01T00:00:00+00:00")
    again = msgspec.structs.replace(from_json(to_json(REPORT)), machine=later)
    assert page(again) == page(REPORT)


def test_the_page_begins_with_every_family_and_says_when() -> None:
    days = ("2026-11-22T09:00:00+00:00", "2026-11-21T10:00:00+00:00")
    cells = tuple(msgspec.structs.replace(each, date=days[index % 2]) for index, each in enumerate(CELLS))
    told = page(msgspec.structs.replace(REPORT, cells=cells))
    assert ", 2026-11-21 to 2026-11-22." in told
    summary, _, _ = told.partition("## The cells")
    assert [line for line in summary.splitlines() if line.startswith(("| llama", "| gpt2", "| opt"))] == [
        "| llama | 1 of 2 | 1 |",
        "| gpt2 | 0 of 2 | 1.5 siblings |",
        "| opt | 0 of 1 | ? |",
    ]


def written(folder: Path, name: str, date: str, *cells: Cell, **machine: str) -> Path:
    report = msgspec.structs.replace(
        REPORT, machine=msgspec.structs.replace(REPORT.machine, date=date, **machine), cells=cells
    )
    file = folder / name
    file.write_bytes(to_json(report))
    return file


def test_of_equal_cells_the_latest_is_taken_over(tmp_path: Path) -> None:
    new = written(tmp_path, "new", "2026-11-22", cell("llama", "lora", Outcome.PASS))
    old = written(
        tmp_path, "old", "2026-11-21", cell("llama", "lora", Outcome.FAIL), cell("opt", "lora", Outcome.PASS)
    )
    found = cells_in([new, old], REPORT.machine)
    assert {key: (each.outcome, each.date) for key, each in found.items()} == {
        ("llama", "lora", "graph"): (Outcome.PASS, "2026-11-22"),
        ("opt", "lora", "graph"): (Outcome.PASS, "2026-11-21"),
    }


def test_what_is_no_report_of_these_versions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"was made with peft 0\.1, and here is peft "):
        cells_in([written(tmp_path, "old", "2026-11-22", peft="0.1")], REPORT.machine)
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="is no report of this benchmark"):
        cells_in([tmp_path / "empty"], REPORT.machine)
    with pytest.raises(UsageError, match="cannot read"):
        cells_in([tmp_path / "none"], REPORT.machine)


# -- processes -----------------------------------------------------------------------------------------------


def in_a_fork(work: str, folder: Path) -> list[str]:
    """Returns what comes of a fork that does `work`, seen from a process without threads."""
    script = f"""
import os, sys, time
from pathlib import Path
from symbiosis_bench.compat.forks import Fork
def work(say):
    say(b"begun")
    {work}
with Fork(work, Path({str(folder / "log")!r})) as fork:
    try:
        while (line := fork.hear(1.0)) is not None:
            print(line.decode())
        print(fork.how_it_ended())
    except TimeoutError:
        print("hangs")
print(Path(f"/proc/{{fork.pid}}").exists())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("work", "heard"),
    [
        ("say(b'more')", ["more", "ended with status 0"]),
        ("raise ValueError", ["ended with status 1"]),
        ("os.abort()", ["was ended by SIGABRT"]),
        ("time.sleep(600)", ["hangs"]),
    ],
)
def test_a_fork_is_heard_and_ended_however_it_goes(work: str, heard: list[str], tmp_path: Path) -> None:
    assert in_a_fork(work, tmp_path) == ["begun", *heard, "False"]


# -- the command ---------------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run([*MAIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("option", "says"), [("--families", "there are llama,"), ("--methods", "there are lora,")]
)
def test_a_name_that_does_not_exist_is_told(option: str, says: str, tmp_path: Path) -> None:
    done = run(tmp_path, option, "lama")
    assert done.returncode == 2
    assert f"{option} lama: {says}" in done.stderr


def test_the_quick_table_has_no_failure(tmp_path: Path) -> None:
    """For real: daemons, every step, both cuts. What fails here is a step back."""
    done = run(tmp_path, "--quick", "--json", "out.json", "--page", "out.md")
    assert done.returncode == 0, done.stdout + done.stderr
    told = from_json((tmp_path / "out.json").read_bytes())
    assert [(each.family, each.method, each.reason) for each in told.cells if each.outcome is Outcome.FAIL] == []
    assert len(told.cells) == len(QUICK_FAMILIES) * len(QUICK_METHODS) * 2
    assert {each.served for each in told.cells if each.cut == "graph"} == {"graph"}
    assert json.loads((tmp_path / "out.json").read_text())["machine"]["cores"] > 0
    assert (tmp_path / "out.md").read_text() == page(told)
    again = run(tmp_path, "--quick", "--from", "out.json", "--json", "out.json", "--page", "again.md")
    assert again.returncode == 0, again.stdout + again.stderr
    assert from_json((tmp_path / "out.json").read_bytes()).cells == told.cells
    assert (tmp_path / "again.md").read_text() == (tmp_path / "out.md").read_text()
    assert not list(tmp_path.glob("sy-compat-*"))


UNSTEADY = "lora-ga"
"""Signs of singular vectors, which the last bit of a weight turns round: see docs/compat.md."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("families", "methods"),
    [
        pytest.param(FAMILIES, ("lora all", "dora", "ia3", "prefix"), id="every family"),
        pytest.param(("llama",), [method for method in METHODS if method != UNSTEADY], id="every method"),
    ],
)
def test_a_row_and_some_columns_of_the_table_have_no_failure(
    families: Iterable[str], methods: Iterable[str], tmp_path: Path
) -> None:
    done = run(tmp_path, "--families", ",".join(families), "--methods", ",".join(methods), "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = from_json((tmp_path / "out.json").read_bytes())
    assert [(each.family, each.method, each.reason) for each in told.cells if each.outcome is Outcome.FAIL] == []
    assert sum(each.outcome is Outcome.PASS for each in told.cells) > 0.9 * len(told.cells)
