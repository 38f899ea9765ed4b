"""A DataLoader forks a process that holds a model: its workers neither use the daemon nor keep anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, plain, random_batches, train


class Texts(Dataset[torch.Tensor]):
    """The batches of every training test, made by whoever asks for them."""

    def __init__(self, base: Any = None) -> None:
        self._batches = random_batches(4, 20)
        self._base = base

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._base is not None:
            self._base(self._batches[index])
        return self._batches[index]


@pytest.fixture
def base(tiny_daemon: DaemonProcess) -> Iterator[Any]:
    base = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    base(random_batches(1, 4)[0]).logits.sum().item()  # it is attached when it is forked
    yield base
    base.symbiosis.close()


def loader(dataset: Texts) -> DataLoader[torch.Tensor]:
    return DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", persistent_workers=True
    )


def test_training_from_forked_workers_is_training(base: Any, tiny_daemon: DaemonProcess, tiny_path: Any) -> None:
    """And the daemon sees the tenant leave while the workers still live."""
    batches = loader(Texts())
    ours = train(base, METHODS["lora_qv"], batches)
    base.symbiosis.close()
    tiny_daemon.wait_status(lambda status: not status.clients, "it has left")
    assert all(worker.is_alive() for worker in batches._iterator._workers)  # type: ignore[union-attr]  # it has begun
    assert_same_training(ours, train(plain(tiny_path), METHODS["lora_qv"], loader(Texts())))


@pytest.mark.long
def test_a_worker_that_uses_the_model_is_told_so_and_the_parent_goes_on(base: Any) -> None:
    with pytest.raises(Exception, match="forked child"):
        list(loader(Texts(base)))
    ids = random_batches(1, 4)[0]
    assert base(ids).logits.isfinite().all()
