"""A DataLoader forks a process that holds a model: its workers neither use the daemon nor keep anything of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, plain, random_batches, train
from tests.transports.ports import free_pair


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


@pytest.fixture(scope="module")
def daemon(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DaemonProcess, str]]:
    """A daemon, and where it is besides its socket."""
    listen = f"tcp://127.0.0.1:{free_pair()}"
    folder = tmp_path_factory.mktemp("d")
    daemon = DaemonProcess(folder, str(tiny_path), "--dtype", "float32", "--listen", listen)
    try:
        yield daemon.start(), listen
    finally:
        daemon.close()


@pytest.fixture(params=["socket", "tcp"])
def base(request: pytest.FixtureRequest, daemon: tuple[DaemonProcess, str]) -> Iterator[Any]:
    at_socket, listen = daemon
    base = AutoModelForCausalLM.from_pretrained(listen if request.param == "tcp" else at_socket.address)
    base(random_batches(1, 4)[0]).logits.sum().item()  # it is attached when it is forked
    yield base
    base.symbiosis.close()


def loader(dataset: Texts) -> DataLoader[torch.Tensor]:
    return DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", persistent_workers=True
    )


def test_training_from_forked_workers_is_training(
    base: Any, daemon: tuple[DaemonProcess, str], tiny_path: Path
) -> None:
    """And the daemon sees the tenant leave while the workers still live."""
    batches = loader(Texts())
    ours = train(base, METHODS["lora_qv"], batches)
    base.symbiosis.close()
    daemon[0].wait_status(lambda status: not status.clients, "it has left")
    assert all(worker.is_alive() for worker in batches._iterator._workers)  # type: ignore[union-attr]  # it has begun
    assert_same_training(ours, train(plain(tiny_path), METHODS["lora_qv"], loader(Texts())))


def test_a_worker_that_uses_the_model_is_told_so_and_the_parent_goes_on(base: Any) -> None:
    workers: Any = iter(loader(Texts(base)))
    with pytest.raises(Exception, match="forked child"):
        list(workers)
    workers._shutdown_workers()  # what the garbage collector takes 10 s for, see docs/gotchas.md
    ids = random_batches(1, 4)[0]
    assert base(ids).logits.isfinite().all()
