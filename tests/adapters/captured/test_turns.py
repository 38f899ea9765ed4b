"""A decode step is traced between steps that go on as ever; nobody notices, and whatever fails, they go on."""

from __future__ import annotations

import gc
import logging
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from symbiosis_adapters.capture import capture_decoding
from symbiosis_adapters.captured.turns import Tracing, pause
from tests.adapters.local import Pair
from tests.adapters.training import QV, adapted

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
PROMPT = torch.tensor([[5, 17, 3, 41]])


class Capturing:
    """Makes adapted models that are traced between their steps."""

    def __init__(self) -> None:
        self._captures: weakref.WeakSet[Any] = weakref.WeakSet()

    def __call__(self, pair: Pair) -> tuple[Any, Any]:
        """Returns such a model, and what is captured of it."""
        remote = pair.remote()
        capture_decoding(remote, remote.symbiosis_deferral)
        self._captures.add(capture := vars(remote)["symbiosis_capture"])
        return adapted(remote, QV), capture

    def abandon(self) -> None:
        for capture in self._captures:
            if capture._tracing is not None:
                capture._tracing.abandon()


@pytest.fixture
def capturing() -> Iterator[Capturing]:
    torch.compiler.reset()
    made = Capturing()
    yield made
    made.abandon()
    torch.compiler.reset()


def tracers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "symbiosis-trace"]


class Sampling:
    """Samples token by token, in step with another."""

    def __init__(self, model: Any) -> None:
        self.model, self.numbers, self.more = model, torch.Generator.get_state(torch.default_generator), 0.0
        self.out = self._forward(input_ids=PROMPT)

    @torch.no_grad()
    def _forward(self, **given: Any) -> Any:
        return self.model(use_cache=True, **given)

    def step(self) -> tuple[int, float]:
        """Returns a token and a number of Python's, both from generators that go on from this one's last step."""
        torch.set_rng_state(self.numbers)
        random.seed(self.more)
        token = torch.multinomial(self.out.logits[:, -1].softmax(-1), 1)
        self.out = self._forward(input_ids=token, past_key_values=self.out.past_key_values)
        self.numbers, self.more = torch.get_rng_state(), random.random()
        return int(token), self.more


def test_steps_go_on_while_one_is_traced_and_draw_the_same_random_numbers(
    capturing: Capturing,
) -> None:
    pair = Pair("llama")
    plain, (mine, capture) = adapted(pair.plain(), QV), capturing(pair)
    theirs, ours = Sampling(plain), Sampling(mine)
    eager = 0
    while not capture._runs:
        assert capture._misses < 3, "the capture was given up"
        assert ours.step() == theirs.step()
        eager += 1
    assert eager > 5, "the trace has made nobody wait for the whole of it"
    for _ in range(5):
        assert ours.step() == theirs.step()
    assert capture._runs == 6
    assert capture._traced == 1
    assert not tracers()


def test_what_is_changed_while_a_step_is_traced_is_not_in_its_graph(capturing: Capturing) -> None:
    pair = Pair("llama")
    plain, (mine, capture) = adapted(pair.plain(), QV), capturing(pair)
    theirs, ours = Sampling(plain), Sampling(mine)
    assert ours.step() == theirs.step()
    for _ in range(8):
        capture._tracing.go_on(0)  # beyond the first layer, whose scaling is in the graph by now
    assert tracers()
    for model in (mine, plain):
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.scaling["default"] *= 3
    while not capture._runs:
        assert capture._misses < 3, "the capture was given up"
        assert ours.step() == theirs.step()
    torch.testing.assert_close(ours.out.logits, theirs.out.logits, rtol=1e-5, atol=1e-5)


def test_others_may_compile_while_a_step_is_traced(capturing: Capturing) -> None:
    pair = Pair("llama")
    mine, capture = capturing(pair)
    ours = Sampling(mine)
    ours.step()
    assert tracers()
    doubled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(lambda x: x * 2, backend="eager")
    assert torch.equal(doubled(torch.ones(3)), torch.full((3,), 2.0))
    assert not torch.compiler.is_compiling()
    while not capture._runs:
        assert capture._misses < 3, "the capture was given up"
        ours.step()


def test_a_model_that_is_gone_is_not_traced_any_more(capturing: Capturing) -> None:
    mine, _ = capturing(Pair("llama"))
    Sampling(mine).step()
    assert tracers()
    del mine, _
    gc.collect()
    for thread in tracers():
        thread.join(60)
    assert not tracers()
    assert not torch.compiler.is_compiling()


def test_a_step_under_autocast_is_captured_for_such_steps(capturing: Capturing) -> None:
    """The tracer is another thread, and autocast is a thread's own."""
    mine, capture = capturing(Pair("llama"))
    with torch.autocast("cpu", torch.bfloat16):
        ours = Sampling(mine)
        while not capture._traced:
            ours.step()
        before = capture._runs
        ours.step()
    assert capture._runs > before


def test_a_default_device_is_nothing_to_trace_under(capturing: Capturing) -> None:
    mine, capture = capturing(Pair("llama"))
    ours = Sampling(mine)
    with torch.device("cpu"):
        ours.step()
    assert not tracers() and not capture._traced


def test_a_step_that_fails_and_a_stop_end_the_trace(capturing: Capturing) -> None:
    mine, capture = capturing(Pair("llama"))
    Sampling(mine).step()
    (thread,) = tracers()
    capture.stop()
    thread.join(60)
    assert not tracers()
    Sampling(mine).step()
    (thread,) = tracers()
    with pytest.raises(ZeroDivisionError):
        capture._traced, capture._run_captured = True, lambda *_, **__: 1 / 0
        Sampling(mine).step()
    thread.join(60)
    assert not tracers()


def test_what_cannot_be_traced_is_run_as_ever_and_said_once(
    capturing: Capturing, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Pair("llama")
    plain, (mine, _) = adapted(pair.plain(), QV), capturing(pair)
    for model in (mine, plain):
        layer = model.base_model.model.model.layers[1].mlp
        layer.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    theirs, ours = Sampling(plain), Sampling(mine)
    with caplog.at_level(logging.INFO, logger="symbiosis"):
        assert ours.step() == theirs.step()
        while tracers():
            assert ours.step() == theirs.step()
        for _ in range(5):
            assert ours.step() == theirs.step()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("symbiosis")]
    assert len(said) == 1
    assert said[0].startswith("decode steps cannot be captured")
    assert not tracers()


def test_a_turn_ends_at_the_next_pause_and_an_abandoned_trace_ends_there() -> None:
    reached: list[int] = []

    def trace() -> None:
        for here in range(3):
            reached.append(here)
            with torch._dynamo.convert_frame.compile_lock:
                pause()

    tracing = Tracing(trace)
    for expected in ([0], [0, 1]):
        tracing.go_on(0)
        assert reached == expected
    tracing.abandon()
    assert tracing.done
    assert tracing.failure is None
    assert reached == [0, 1]


def paused_trace() -> Tracing:
    """One that stands at a pause, inside of a compilation, as a real one does."""

    def trace() -> None:
        with torch._dynamo.convert_frame.compile_lock:
            while True:
                pause()

    tracing = Tracing(trace)
    tracing.go_on(0)
    return tracing


def test_who_compiles_may_collect_a_model_that_is_traced() -> None:
    """The collector calls it in the thread that has the lock which the tracer wants."""
    tracing = paused_trace()
    with torch._dynamo.convert_frame.compile_lock:
        tracing.abandon()
        assert not tracing.done
    for thread in tracers():
        thread.join(60)
    assert tracing.done


def test_however_often_a_client_is_interrupted_a_turn_ends_before_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracing, interrupts = paused_trace(), [KeyboardInterrupt("one"), KeyboardInterrupt("two")]
    waited = tracing._yours.acquire

    def acquire() -> bool:
        if interrupts:
            raise interrupts.pop()
        return waited()

    monkeypatch.setattr(tracing._yours, "acquire", acquire)
    with pytest.raises(KeyboardInterrupt):
        tracing.go_on(1e9)
    assert not interrupts and not tracing.done
    assert vars(tracing._yours)["_value"] == 0, "no end of a turn is left over"
    tracing.abandon()
    assert tracing.done


def test_a_trace_that_comes_back_without_a_graph_has_failed() -> None:
    tracing = Tracing(lambda: None)
    tracing.go_on(0)
    assert tracing.done and "nothing was compiled" in str(tracing.failure)
