"""TRL's trainers, as they are, in scripts of which one line changes: what they log is what plain PEFT logs.

They multiply hidden rows by parts of the head's weight themselves: where the base lends its weights these are read
and no more, where it does not the daemon multiplies.
"""

from __future__ import annotations

import logging
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.e2e.daemon_process import DaemonProcess
from tests.transports.ports import free_pair
from tests.words import tokenizer_of

# trl 1.16 asks transformers 5.23 by the old names; goes when it asks by those of activation checkpointing
pytestmark = pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing(_enable|_disable)?` is deprecated:FutureWarning"
)

SCRIPT = """
import random
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, set_seed
from trl import {kind}Config, {kind}Trainer
{imports}

set_seed(0)
words = random.Random(1)

def text(count):
    return " ".join(f"w{{words.randrange(3, 128)}}" for _ in range(count))

model = AutoModelForCausalLM.from_pretrained({where!r})
tokenizer = AutoTokenizer.from_pretrained({tokenizer!r})
lora = LoraConfig(
    r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.1, task_type="CAUSAL_LM"
)
arguments = {kind}Config(
    output_dir={folder!r}, max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2,
    logging_steps=1, learning_rate=5e-3, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, seed=0,
    save_strategy="no", {arguments}
)
{data}
trainer = {kind}Trainer(
    model, args=arguments, processing_class=tokenizer, peft_config=lora, {trainer}
)
trainer.train()
"""
OURS = "from symbiosis_adapters import AutoModelForCausalLM"
THEIRS = "from transformers import AutoModelForCausalLM"

SFT = {
    "arguments": "",
    "data": "data = Dataset.from_list([{'text': text(6 + row % 4)} for row in range(16)])",
    "trainer": "train_dataset=data",
}
DPO = {
    "arguments": "",
    "data": "data = Dataset.from_list("
    "[{'prompt': text(4), 'chosen': ' ' + text(5), 'rejected': ' ' + text(6)} for _ in range(16)])",
    "trainer": "train_dataset=data, ref_model=None",
}
GRPO = {
    "arguments": "num_generations=2, max_completion_length=8, beta=0.1",
    "data": "data = Dataset.from_list([{'prompt': text(4 + row % 3)} for row in range(16)])\n"
    "def reward(completions, **_):\n"
    "    return [sum(map(ord, completion)) % 11 / 3 for completion in completions]",
    "trainer": "train_dataset=data, reward_funcs=reward",
}
LOGGED = {
    "SFT": (SFT, ["loss", "grad_norm", "entropy"]),
    "DPO": (DPO, ["loss", "grad_norm", "rewards/margins", "logps/chosen"]),
    "GRPO": (GRPO, ["loss", "grad_norm", "reward", "kl", "completions/mean_length"]),
}
"""By trainer: how it is called, and what of its log is compared."""


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What scripts set for their process is set back for the next test."""
    threads, level = torch.get_num_threads(), logging.getLogger("transformers").level
    yield
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity(level)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose tokens are the words w3 to w127."""
    words = ["<pad>", "<s>", "</s>", *(f"w{n}" for n in range(3, 128))]
    path = tmp_path_factory.mktemp("words")
    tokenizer_of(words, "<pad>", pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(path)
    return path


def train(script: str, path: Path) -> Any:
    """Runs a user's script and returns its trainer."""
    path.write_text(script)
    return runpy.run_path(str(path))["trainer"]


def logged(trainer: Any, keys: list[str]) -> list[list[float]]:
    return [[entry[key] for key in keys] for entry in trainer.state.log_history if "loss" in entry]


class Scripts:
    """Runs the script of a trainer, on plain bases once for all tests."""

    def __init__(self, tokenizer: Path, folder: Path, tiny_path: Path) -> None:
        self._tokenizer, self._folder, self._tiny = tokenizer, folder, tiny_path
        self._plain: dict[str, list[list[float]]] = {}

    def run(self, kind: str, imports: str, where: str) -> Any:
        given = {**LOGGED[kind][0], "kind": kind, "tokenizer": str(self._tokenizer), "folder": str(self._folder)}
        return train(SCRIPT.format(imports=imports, where=where, **given), self._folder / "script.py")

    def plain(self, kind: str) -> list[list[float]]:
        """What the trainer logs on a plain base."""
        if kind not in self._plain:
            self._plain[kind] = logged(self.run(kind, THEIRS, str(self._tiny)), LOGGED[kind][1])
        return self._plain[kind]

    def check(self, kind: str, address: str, expected: list[list[float]]) -> None:
        """The trainer logs the same on the base at this address, and takes none of its weights.

        The loss of GRPO is what is left of advantages of about one that cancel, so their size is the measure.
        """
        ours = self.run(kind, OURS, address)
        handle = ours.accelerator.unwrap_model(ours.model).symbiosis
        try:
            found = logged(ours, LOGGED[kind][1])
            assert len(expected) == 4
            assert len({tuple(entry) for entry in expected}) == 4
            losses = [entry[0] for entry in found]
            left = 1e-6 if kind == "GRPO" else 0.0
            assert losses == pytest.approx([entry[0] for entry in expected], rel=1e-5, abs=left)
            assert found == [pytest.approx(entry, rel=1e-4, abs=1e-5) for entry in expected]
            assert handle.explain().taken == ()
        finally:
            handle.close()


@pytest.fixture(scope="module")
def scripts(tokenizer_path: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tokenizer_path, tmp_path_factory.mktemp("scripts"), tiny_path)


@pytest.fixture(scope="module")
def closed_port() -> str:
    return f"tcp://127.0.0.1:{free_pair()}"


@pytest.fixture(scope="module")
def closed_daemon(
    tiny_path: Path, tmp_path_factory: pytest.TempPathFactory, closed_port: str
) -> Iterator[DaemonProcess]:
    """A daemon that lends its weights to nobody, at a socket and at a port."""
    folder = tmp_path_factory.mktemp("closed")
    config = folder / "daemon.toml"
    config.write_text('[lending]\nallow = "nobody"\n')
    options = ("--dtype", "float32", "--config", str(config), "--listen", closed_port)
    daemon = DaemonProcess(folder, str(tiny_path), *options)
    try:
        yield daemon.start()
    finally:
        daemon.close()


@pytest.mark.parametrize("kind", LOGGED)
def test_a_trainer_of_trl_logs_the_same_after_one_changed_line(
    kind: str, tiny_daemon: DaemonProcess, scripts: Scripts
) -> None:
    """DPO's reference, and that of GRPO, is the same base with the adapter disabled."""
    scripts.check(kind, tiny_daemon.address, scripts.plain(kind))


@pytest.mark.parametrize("kind", LOGGED)
def test_it_does_so_where_the_base_lends_nothing(
    kind: str, closed_daemon: DaemonProcess, scripts: Scripts
) -> None:
    scripts.check(kind, closed_daemon.address, scripts.plain(kind))


@pytest.mark.long
@pytest.mark.usefixtures("closed_daemon")
@pytest.mark.parametrize("kind", LOGGED)
def test_it_does_so_over_a_network(kind: str, closed_port: str, scripts: Scripts) -> None:
    scripts.check(kind, closed_port, scripts.plain(kind))
