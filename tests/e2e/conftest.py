"""Daemons over a tiny random model and over the real one, and tenants beside them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from symbiosis_scheduler.frozen.embedded import resolve
from tests.e2e.daemon_process import DaemonProcess

TENANT = Path(__file__).with_name("tenant.py")
StartTenant = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, saved as anybody's model would be."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    path = tmp_path_factory.mktemp("tiny") / "llama"
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The embedded model, converted once."""
    return Path(resolve("smollm2"))


@pytest.fixture(params=[True, False], ids=["exact", "batched"])
def daemon(request: pytest.FixtureRequest, tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon over the tiny model that batches, and one with exact batches."""
    file = tmp_path / "daemon.toml"
    file.write_text(f"[batching]\nexact = {str(request.param).lower()}\n")
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--config", str(file))
    try:
        yield daemon.start()
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def tiny_daemon(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One daemon over the tiny model for a whole module."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("d"), str(tiny_path), "--dtype", "float32")
    try:
        yield daemon.start()
    finally:
        daemon.close()


@pytest.fixture
def fresh_daemon(tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon for one test, to be killed."""
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32")
    try:
        yield daemon.start()
    finally:
        daemon.close()


def _tenants() -> Iterator[StartTenant]:
    """Starts tenants as processes and kills them at the end. Their output is not read, but for the first line."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str, address: str, seed: int = 0, cut: str = "graph") -> subprocess.Popen[str]:
        tenant = subprocess.Popen(
            [sys.executable, str(TENANT), mode, address, str(seed), cut], stdout=subprocess.PIPE, text=True
        )
        started.append(tenant)
        assert tenant.stdout is not None
        assert tenant.stdout.readline() == "ready\n"
        return tenant

    yield start
    for tenant in started:
        tenant.kill()
        tenant.communicate()


start_tenant = pytest.fixture(_tenants, name="start_tenant")


@pytest.fixture(scope="module")
def busy_tiny_daemon(tiny_daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """The tiny daemon while one tenant trains and another generates."""
    tenants = _tenants()
    start = next(tenants)
    start("train", tiny_daemon.address, 1)
    start("generate", tiny_daemon.address, 2)
    yield tiny_daemon
    next(tenants, None)
