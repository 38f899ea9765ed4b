"""Two bases in one daemon: each serves its own clients as if it were alone, and names tell them apart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM as PlainModel
from transformers import Qwen2Config

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.errors import RefusalCode, RefusedError
from tests.e2e.conftest import StartTenant
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, plain, random_batches, train
from tests.transports.ports import free_pair


@pytest.fixture(scope="module")
def wide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another family, width and depth than the tiny Llama, of the same vocabulary."""
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = PlainModel.from_config(config)
    path = tmp_path_factory.mktemp("wide") / "qwen"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def port() -> int:
    return free_pair()


@pytest.fixture(scope="module")
def daemon(
    tiny_path: Path, wide_path: Path, tmp_path_factory: pytest.TempPathFactory, port: int
) -> Iterator[DaemonProcess]:
    """Holds both, the second under a name of its own, and marks neither. At a socket and at a port."""
    folder = tmp_path_factory.mktemp("two")
    config = folder / "daemon.toml"
    config.write_text(
        f"[[models]]\nsource = '{tiny_path}'\ndtype = 'float32'\n"
        f"[[models]]\nsource = '{wide_path}'\nname = 'wide'\ndtype = 'float32'\n"
    )
    running = DaemonProcess(folder, "", "--config", str(config), "--listen", f"tcp://127.0.0.1:{port}")
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(scope="module")
def paths(tiny_path: Path, wide_path: Path) -> dict[str, Path]:
    return {"llama": tiny_path, "wide": wide_path}


def models(address: str, *more: str) -> str:
    command = [sys.executable, "-m", "symbiosis_core", "models", "--address", address, *more]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_training_and_tokens_are_those_of_the_named_base_while_others_work_on_the_other(
    daemon: DaemonProcess, paths: dict[str, Path], start_tenant: StartTenant
) -> None:
    start_tenant("train", f"{daemon.address}#llama", 1)
    before = daemon.status()
    assert [(client.name, client.model) for client in before.clients] == [("train-1", "llama")]
    for name, path in paths.items():
        base = AutoModelForCausalLM.from_pretrained(f"{daemon.address}#{name}")
        ours = train(base, METHODS["lora_qv"], random_batches(3, 12))
        theirs = train(plain(path), METHODS["lora_qv"], random_batches(3, 12))
        assert_same_training(ours, theirs)
        assert _tokens(ours[0]) == _tokens(theirs[0])
        base.symbiosis.close()
    daemon.wait_status(
        lambda now: all(
            late.rows > early.rows and late.batches > early.batches
            for late, early in zip(now.models, before.models, strict=True)
        ),
        "both bases are computed",
    )


def test_a_name_in_a_tcp_address_reaches_that_base(
    daemon: DaemonProcess, port: int, paths: dict[str, Path]
) -> None:
    daemon.wait_status(lambda now: not now.clients, "who was killed is gone")
    for name, path in paths.items():
        base = AutoModelForCausalLM.from_pretrained(f"tcp://127.0.0.1:{port}#{name}")
        assert [(client.model, client.transport) for client in daemon.status().clients] == [(name, "zmq_tcp")]
        assert base.config.model_type == plain(path).config.model_type
        assert _tokens(base) == _tokens(plain(path).eval())
        base.symbiosis.close()
        daemon.wait_status(lambda now: not now.clients, "it has left")
    with pytest.raises(RefusedError, match=r"several models.*its models are: llama, wide"):
        AutoModelForCausalLM.from_pretrained(f"tcp://127.0.0.1:{port}")


@pytest.mark.long
def test_decode_steps_are_captured_on_each_base(daemon: DaemonProcess, paths: dict[str, Path]) -> None:
    for name, path in paths.items():
        base = AutoModelForCausalLM.from_pretrained(f"{daemon.address}#{name}", lane="inference")
        base.symbiosis.capture(at_once=True)
        assert _tokens(base) == _tokens(plain(path).eval())
        base.symbiosis.close()


def test_each_base_lends_its_own_weights(daemon: DaemonProcess, paths: dict[str, Path]) -> None:
    for name, path in paths.items():
        lent = AutoModelForCausalLM.from_pretrained(f"{daemon.address}#{name}", cut="lent")
        for (key, weight), (_, expected) in zip(
            lent.named_parameters(), plain(path).named_parameters(), strict=True
        ):
            assert torch.equal(weight, expected), key
        lent.symbiosis.close()


@pytest.mark.parametrize(("fragment", "reason"), [("#nobody", "no model 'nobody'"), ("", "several models")])
def test_a_name_that_means_none_or_several_is_refused_with_those_that_there_are(
    daemon: DaemonProcess, fragment: str, reason: str
) -> None:
    with pytest.raises(RefusedError, match=f"{reason}.*its models are: llama, wide") as caught:
        AutoModelForCausalLM.from_pretrained(daemon.address + fragment)
    assert caught.value.code is RefusalCode.UNKNOWN_MODEL


def test_models_lists_them(daemon: DaemonProcess, paths: dict[str, Path]) -> None:
    found = json.loads(models(f"{daemon.address}#wide", "--json"))
    assert [(each["name"], each["dtype"], each["default"]) for each in found] == [
        ("llama", "float32", False),
        ("wide", "float32", False),
    ]
    for each, path in zip(found, paths.values(), strict=True):
        assert each["bytes"] == sum(
            tensor.nbytes for tensor in {*plain(path).parameters(), *plain(path).buffers()}
        )
        assert len(each["fingerprint"]) == 32 and each["ops"] > 10
    assert found[0]["fingerprint"] != found[1]["fingerprint"]
    table = models(daemon.address)
    assert all(each["name"] in table and each["fingerprint"] in table for each in found)
    assert daemon.status().memory.base == sum(each["bytes"] for each in found)
    assert "serving llama (" in daemon.said() and ", wide (" in daemon.said()


def _tokens(model: Any) -> list[int]:
    prompt = torch.tensor([[5, 17, 42]])
    answer: list[int] = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)[0].tolist()
    return answer
