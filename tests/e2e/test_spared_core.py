"""One client decodes and another trains: who trains leaves a core to who decodes, and has it again afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_adapters.connection import cores
from symbiosis_core.spared_core import Place, go
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.training import METHODS, assert_same_training, plain, random_batches, train

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")

WITHIN_S = 60


@pytest.fixture
def daemon(tiny_path: Path, tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32")
    daemon.start()
    yield daemon
    daemon.close()


def test_who_trains_leaves_a_core_while_another_decodes(
    daemon: DaemonProcess, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[int, Place]] = set()
    both, ended = threading.Event(), threading.Event()
    usable = os.sched_getaffinity(0)
    spared = min(usable)

    def noted(place: Place) -> set[int] | None:
        asked.add((threading.get_ident(), place))
        if len({which for which, _ in list(asked)}) == 2:
            both.set()
        return go(place)

    monkeypatch.setattr(cores, "go", noted)
    decodes = AutoModelForCausalLM.from_pretrained(daemon.address, lane="inference")
    afterwards: list[set[int]] = []

    def decode() -> None:
        while not ended.is_set():
            decodes.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False, pad_token_id=0)
        afterwards.append(os.sched_getaffinity(0))

    decoder = threading.Thread(target=decode)
    decoder.start()
    try:
        trains = AutoModelForCausalLM.from_pretrained(daemon.address, lane="training")
        batches = random_batches(6, 20)
        ours = train(trains, METHODS["lora_qv"], batches)
        deadline = time.monotonic() + WITHIN_S
        while not both.is_set():
            assert time.monotonic() < deadline, asked
            again = AutoModelForCausalLM.from_pretrained(daemon.address, lane="training")
            train(again, METHODS["lora_qv"], batches)
            again.symbiosis.close()
    finally:
        ended.set()
        decoder.join(WITHIN_S)
    assert asked == {
        (threading.get_ident(), Place(spared, leave=True)),
        (decoder.ident, Place(spared, leave=False)),
    }
    assert [os.sched_getaffinity(0), *afterwards] == [usable, usable]
    assert_same_training(ours, train(plain(tiny_path), METHODS["lora_qv"], batches))
    for model in (decodes, trains):
        model.symbiosis.close()
