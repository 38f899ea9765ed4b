"""Lending between real processes: equal to plain PEFT, there once, and independent of its daemon's life."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig
from transformers import AutoModelForCausalLM as PlainModel
from transformers import LlamaConfig

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.errors import UsageError
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import LORA, METHODS, assert_same_training, plain, random_batches, train

TENANT = Path(__file__).with_name("lent_tenant.py")
NEEDING: dict[str, PeftConfig] = {
    "dora": LoraConfig(**LORA, target_modules="all-linear", use_dora=True),
    "pissa": LoraConfig(**LORA, target_modules=["q_proj", "v_proj"], init_lora_weights="pissa"),
}


@pytest.mark.parametrize(("method", "cut"), [("dora", "graph"), ("pissa", "graph"), ("lora_all", "lent")])
def test_twenty_steps_equal_plain_peft(tiny_daemon: DaemonProcess, tiny_path: Path, method: str, cut: str) -> None:
    config = {**METHODS, **NEEDING}[method]
    base = AutoModelForCausalLM.from_pretrained(tiny_daemon.address, cut=cut)
    ours = train(base, config, random_batches(20, 24))
    assert_same_training(ours, train(plain(tiny_path), config, random_batches(20, 24)))
    base.symbiosis.close()


def test_a_client_with_lent_weights_generates_on_when_its_daemon_is_killed(
    fresh_daemon: DaemonProcess, tiny_path: Path
) -> None:
    """Its mapping is its own. What it would ask a later daemon for, it does not need."""
    base = AutoModelForCausalLM.from_pretrained(fresh_daemon.address, cut="lent")
    prompt = torch.arange(3, 9)[None]
    expected = plain(tiny_path).generate(prompt, max_new_tokens=32, do_sample=False)
    fresh_daemon.kill()
    assert torch.equal(base.generate(prompt, max_new_tokens=32, do_sample=False), expected)
    base.symbiosis.close()


def test_a_daemon_that_lends_to_nobody_says_what_to_set(tiny_path: Path, tmp_path: Path) -> None:
    config = tmp_path / "daemon.toml"
    config.write_text('[lending]\nallow = "nobody"\n')
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(config))
    try:
        base = AutoModelForCausalLM.from_pretrained(daemon.start().address)
        with pytest.raises(UsageError, match=r'dora.* To have them lent, set lending\.allow = "same_user"'):
            train(base, NEEDING["dora"], random_batches(1, 8))
        base.symbiosis.close()
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def large_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One over a base that is large enough to be seen: 46 MB."""
    folder = tmp_path_factory.mktemp("large")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    PlainModel.from_config(config).save_pretrained(folder / "llama")
    daemon = DaemonProcess(folder, str(folder / "llama"), "--dtype", "float32")
    try:
        yield daemon.start()
    finally:
        daemon.close()


def lent_memory(pid: int) -> dict[str, int]:
    """Bytes of a process's mappings of lent weights, by the kernel's names."""
    found: dict[str, int] = {}
    mapped = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mapped = "memfd:symbiosis-weights" in line
        elif mapped and line.endswith(" kB"):
            name, kilobytes, _ = line.split()
            found[name[:-1]] = found.get(name[:-1], 0) + int(kilobytes) * 1024
    return found


def test_two_clients_that_read_every_weight_share_the_daemons_one_copy(large_daemon: DaemonProcess) -> None:
    base = large_daemon.status().memory.base
    assert base > 40e6
    command = [sys.executable, str(TENANT), large_daemon.address]
    tenants = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for tenant in tenants:
            assert tenant.stdout is not None
            assert tenant.stdout.readline() == "ready\n"
        assert large_daemon.process is not None
        owners = [large_daemon.process.pid, *(tenant.pid for tenant in tenants)]
        memory = [lent_memory(pid) for pid in owners]
    finally:
        for tenant in tenants:
            tenant.communicate()
    for each in memory[1:]:
        assert each["Rss"] > 0.99 * base, "it has not read everything"
        assert each["Private_Dirty"] + each["Private_Clean"] < 0.01 * base, "it has pages of its own"
        assert each["Pss"] < 0.4 * base, "it is charged for more than its share of a third"
    assert sum(each["Pss"] for each in memory) < 1.01 * base
