"""The runner, on a suite of a few tests that is laid out as PEFT's is; and on PEFT's own, where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

pytestmark = pytest.mark.long

CHECKOUT: Final = "SYMBIOSIS_PEFT_CHECKOUT"
"""The environment's name for a checkout or source distribution of the installed PEFT."""
HEAD: Final = """
import os
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from . import testing_utils
ID = "trl-internal-testing/tiny-random-LlamaForCausalLM"
class Tests:
    transformers_class = AutoModelForCausalLM
"""
TRAINS: Final = """
    def test_trains(self):
        base = self.transformers_class.from_pretrained(ID)
        model = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
        ids = torch.tensor([[3, 4, 5]])
        model(input_ids=ids, labels=ids).loss.backward()
        assert any(each.grad is not None for each in model.parameters())
"""
UNTOUCHED: Final = """
    def test_opens_no_model(self):
        assert self.transformers_class is not None
"""
PLAIN_ONLY: Final = """
    def test_wants_a_plain_linear(self):
        assert type(AutoModelForCausalLM.from_pretrained(ID).lm_head) is torch.nn.Linear
    def test_fails_on_both(self):
        raise ValueError
"""
DEADLY: Final = """
    def test_ends_its_process_where_the_model_is_remote(self):
        if type(AutoModelForCausalLM.from_pretrained(ID).lm_head) is not torch.nn.Linear:
            os._exit(0)
"""


def run(peft: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Returns how the runner ended, and the score that it leaves."""
    command = [sys.executable, "-m", "tests.compat.run_peft_suite", "--peft", str(peft), "--out", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True)
    score = out / "decoder-graph.json"
    assert score.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(score.read_text())


def suite(folder: Path, *tests: str) -> Path:
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "testing_utils.py").touch()
    (folder / "tests" / "test_decoder_models.py").write_text(HEAD + "".join(tests))
    return folder


def test_what_only_plain_models_pass_is_told_and_what_calls_no_remote_layer(tmp_path: Path) -> None:
    status, score = run(suite(tmp_path / "peft", TRAINS, UNTOUCHED, PLAIN_ONLY), tmp_path / "out")
    assert (status, score["plain"], score["remote"], score["untouched"]) == (1, 3, 2, 1)
    assert list(score["failures"].values()) == [["test_wants_a_plain_linear"]]
    assert score["others"] == {"failed": 1}


def test_a_test_that_ends_its_process_has_not_passed(tmp_path: Path) -> None:
    """Nor have those after it, whatever the status is that the process ends with."""
    status, score = run(suite(tmp_path / "peft", DEADLY, TRAINS), tmp_path / "out")
    assert (status, score["plain"], score["remote"]) == (1, 2, 0)
    assert [len(tests) for tests in score["failures"].values()] == [2]


def test_a_suite_without_a_test_is_no_success(tmp_path: Path) -> None:
    status, score = run(suite(tmp_path / "peft"), tmp_path / "out")
    assert (status, score["plain"]) == (2, 0)


@pytest.mark.skipif(CHECKOUT not in os.environ, reason=f"{CHECKOUT} names no checkout of PEFT")
def test_some_of_pefts_own_tests_pass(tmp_path: Path) -> None:
    status, score = run(Path(os.environ[CHECKOUT]), tmp_path / "out", "--every", "400")
    assert (status, score["remote"]) == (0, score["plain"])
    assert score["plain"] > 10
    assert score["untouched"] < score["plain"]
