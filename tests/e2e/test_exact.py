"""A client of a daemon with exact batches lets no chance into its own bits either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.thread_trial import ThreadTrial
from tests.e2e.daemon_process import DaemonProcess

STEPS = 12


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_client_tries_threads_where_batches_are_not_exact(
    daemon: DaemonProcess, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a step's bits may depend on them."""
    tried: list[object] = []
    monkeypatch.setattr("symbiosis_adapters.connection.cores._compiles", lambda: False)
    monkeypatch.setattr(ThreadTrial, "all_threads", lambda _, kind: tried.append(kind))
    model = AutoModelForCausalLM.from_pretrained(daemon.address)
    with torch.no_grad():
        model(input_ids=torch.arange(STEPS).view(1, STEPS)).logits.sum()
    assert bool(tried) is ("batched" in request.node.name)
    model.symbiosis.close()
