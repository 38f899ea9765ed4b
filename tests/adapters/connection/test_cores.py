"""A forward over a few rows runs in one thread unless all were faster; afterwards torch has as many as before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from symbiosis_adapters.connection import cores
from symbiosis_adapters.connection.cores import FEW_ROWS, after_wait, before_wait, interrupted, watch_forwards
from symbiosis_core.spared_core import Place
from symbiosis_core.thread_trial import ThreadTrial

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


class Waiting(nn.Module):
    """Waits for the daemon in its forward, and says how many threads it had then."""

    def __init__(self, rows: int, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.rows, self.inner = rows, inner

    def forward(self, fail: bool = False) -> int:
        before_wait(self.rows)
        if self.inner is not None:
            self.inner()
        if fail:
            raise ValueError("the model's own")
        return torch.get_num_threads()


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def watched(model: nn.Module) -> nn.Module:
    watch_forwards(model)
    return model


def test_few_rows_take_one_thread_until_the_forward_returns() -> None:
    assert watched(Waiting(FEW_ROWS))() == 1
    assert torch.get_num_threads() == 2


USABLE = os.sched_getaffinity(0)
SPARED = min(USABLE)
LEAVE, STAY = Place(SPARED, leave=True), Place(SPARED, leave=False)


class Placed(nn.Module):
    """Is asked in its forward to compute elsewhere, as `places` says, and says where it could each time."""

    def __init__(self, *places: Place | None, rows: int = 1) -> None:
        super().__init__()
        self.places, self.rows = places, rows

    def forward(self, fail: bool = False) -> list[set[int]]:
        seen = []
        for place in self.places:
            before_wait(self.rows)
            after_wait(place, self.rows)
            seen.append(os.sched_getaffinity(0))
        if fail:
            raise ValueError("the model's own")
        return seen


def test_a_forward_is_where_the_daemon_asks_it_to_be_until_it_returns() -> None:
    others = USABLE - {SPARED}
    assert watched(Placed(None, LEAVE, LEAVE, STAY, None, LEAVE))() == [
        USABLE, others, others, {SPARED}, USABLE, others,
    ]  # fmt: skip
    assert os.sched_getaffinity(0) == USABLE


def test_a_forward_that_fails_goes_back_too() -> None:
    with pytest.raises(ValueError, match="own"):
        watched(Placed(STAY))(fail=True)
    assert os.sched_getaffinity(0) == USABLE


def test_nobody_stays_on_one_core_for_many_rows() -> None:
    assert watched(Placed(STAY, LEAVE, rows=FEW_ROWS + 1))() == [USABLE, USABLE - {SPARED}]


def test_outside_of_a_forward_nothing_is_moved() -> None:
    assert Placed(LEAVE, STAY)() == [USABLE, USABLE]


def test_who_keeps_its_threads_keeps_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_keeps", lambda: True)
    model = Placed(LEAVE)
    model.register_forward_pre_hook(cores._enter)
    model.register_forward_hook(cores._leave, always_call=True)
    assert model() == [USABLE]


class AskedToLeave(torch.autograd.Function):
    """Is asked in its backward."""

    seen: list[set[int]]

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        before_wait(1)
        after_wait(LEAVE)
        AskedToLeave.seen.append(os.sched_getaffinity(0))
        return gradient


@pytest.mark.parametrize("threads", [1, 2])
def test_a_backward_goes_back_when_it_returns(threads: int) -> None:
    torch.set_num_threads(threads)
    AskedToLeave.seen = []
    x = torch.ones(3, requires_grad=True)
    apply: Any = AskedToLeave.apply
    apply(apply(x)).sum().backward()
    assert AskedToLeave.seen == [USABLE - {SPARED}] * 2
    assert os.sched_getaffinity(0) == USABLE


class FailsOnce(torch.autograd.Function):
    """Is asked in its backward, and then fails the first time."""

    fails: bool

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        after_wait(LEAVE)
        if FailsOnce.fails:
            FailsOnce.fails = False
            raise ValueError("a quota")
        return gradient


def test_a_backward_that_is_made_again_after_it_failed_goes_back_when_it_returns() -> None:
    torch.set_num_threads(1)
    FailsOnce.fails, apply = True, cast("Any", FailsOnce.apply)
    loss = apply(torch.ones(3, requires_grad=True)).sum()
    with pytest.raises(ValueError, match="quota"):
        loss.backward(retain_graph=True)
    loss.backward()
    assert os.sched_getaffinity(0) == USABLE


def test_after_an_interrupt_the_next_forward_goes_back_as_well() -> None:
    """Torch calls no hook where somebody presses Ctrl-C in a forward."""

    def interrupt() -> None:
        after_wait(LEAVE)
        interrupted()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(Waiting(1, cast("nn.Module", interrupt)))()
    assert os.sched_getaffinity(0) == USABLE
    watched(Placed(LEAVE))()
    assert os.sched_getaffinity(0) == USABLE


def test_who_stays_is_told_so_and_who_may_not_be_there_is_not() -> None:
    said: list[bool] = []
    elsewhere = Place(max(USABLE) + 1, leave=False)

    def ask() -> None:
        said.extend(after_wait(place, 1) for place in (STAY, STAY, LEAVE, elsewhere, None))

    watched(Waiting(1, cast("nn.Module", ask)))()
    assert said == [True, True, False, False, False]
    assert after_wait(STAY, 1) is False


def test_many_rows_keep_their_threads() -> None:
    assert watched(Waiting(FEW_ROWS + 1))() == 2


def test_a_forward_that_fails_gives_the_threads_back() -> None:
    with pytest.raises(ValueError, match="own"):
        watched(Waiting(1))(fail=True)
    assert torch.get_num_threads() == 2


def test_a_model_inside_of_a_model_gives_them_back_at_the_end_of_the_outer() -> None:
    assert watched(Waiting(1, watched(Waiting(1))))() == 1
    assert torch.get_num_threads() == 2


class Noting(LogitsProcessor):
    """Notes how many threads there are where a token is chosen."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.seen.append(torch.get_num_threads())
        return scores


def generator(rows: int = 0) -> Any:
    """A small model that waits for so many rows in its forwards, or for none."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip
    if rows:
        model.model.layers[0].register_forward_pre_hook(lambda *_: before_wait(rows))
    return model


def generate(model: Any, *noting: LogitsProcessor, **more: Any) -> None:
    ids = torch.tensor([[1, 2, 3]])
    model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False,
        logits_processor=LogitsProcessorList(noting), **more,
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (FEW_ROWS + 1, 2)])
def test_generate_chooses_tokens_with_the_threads_of_its_forwards(rows: int, threads: int) -> None:
    model, noting = generator(rows), Noting()
    watch_forwards(model)
    generate(model, noting)
    assert noting.seen == [threads] * 3
    assert torch.get_num_threads() == 2


def test_generate_that_fails_gives_the_threads_back() -> None:
    model = generator(1)
    watch_forwards(model)
    with pytest.raises(ValueError, match="own"):
        generate(model, stopping_criteria=StoppingCriteriaList([fails]))
    assert torch.get_num_threads() == 2


def fails(input_ids: torch.Tensor, scores: Any, **more: Any) -> bool:
    raise ValueError("the caller's own")


def test_an_assistant_that_is_computed_here_has_all_threads() -> None:
    model, assistant = generator(1), generator()
    seen: list[int] = []
    watch_forwards(model)
    assistant.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    generate(model, assistant_model=assistant)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 2


def test_generate_is_wrapped_once() -> None:
    watch_forwards(generator(1))
    wrapped = LlamaForCausalLM.generate
    watch_forwards(generator(1))
    assert LlamaForCausalLM.generate is wrapped


class Clock:
    """A clock that goes by as much as one thread, or all, would take between two waits."""

    def __init__(self, one_us: int, all_us: int) -> None:
        self.now_us, self.one_us, self.all_us = 0, one_us, all_us

    def __call__(self) -> int:
        self.now_us += self.one_us if torch.get_num_threads() == 1 else self.all_us
        return self.now_us


class Layered(nn.Module):
    """Waits several times in a forward, and returns how many threads it had after each."""

    def __init__(self, trial: ThreadTrial | None, rows: int = 1) -> None:
        super().__init__()
        self.trial, self.rows = trial, rows

    def forward(self, layers: int, kinds: int) -> list[int]:
        seen = []
        for layer in range(layers):
            before_wait(self.rows, layer % kinds, self.trial)
            seen.append(torch.get_num_threads())
        return seen


@pytest.fixture(autouse=True)
def _nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no test before had."""
    monkeypatch.setattr(cores, "_compiles", lambda: False)


@pytest.mark.parametrize(("all_us", "most"), [(70, 2), (150, 1)])
def test_few_rows_take_all_threads_where_that_was_seen_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, all_us: int, most: int
) -> None:
    monkeypatch.setattr(cores, "monotonic_us", Clock(100, all_us))
    model = watched(Layered(ThreadTrial()))
    seen = [threads for _ in range(20) for threads in model(10, 3)]
    assert seen[:12] == [1] * 12, "what one thread takes has to be known first"
    assert 2 in seen[12:20]
    assert seen[-36:].count(most) >= 33
    assert torch.get_num_threads() == 2


def test_what_comes_between_two_forwards_is_not_taken_for_a_part_of_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, trial = Clock(100, 70), ThreadTrial()
    monkeypatch.setattr(cores, "monotonic_us", clock)
    model = watched(Layered(trial))
    for _ in range(40):
        model(2, 2)
        clock.now_us += 1_000_000
    assert trial._kinds[0].one_us == 100


def test_nor_is_what_comes_after_a_backward_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, trial = Clock(100, 70), ThreadTrial()
    monkeypatch.setattr(cores, "monotonic_us", clock)
    for _ in range(3):
        with pytest.raises(ValueError, match="own"):
            backward_of(1, fail=True, trial=trial)
        clock.now_us += 1_000_000
    backward_of(1, trial=trial)
    assert trial._kinds[1].one_us == 100
    assert torch.get_num_threads() == 2


def test_without_a_trial_and_where_something_is_compiled_it_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "monotonic_us", Clock(100, 70))
    assert set(watched(Layered(None))(100, 1)) == {1}
    monkeypatch.setattr(cores, "_compiles", lambda: True)
    assert set(watched(Layered(ThreadTrial()))(100, 1)) == {1}


def test_many_rows_after_few_have_all_threads_again() -> None:
    model = Layered(None)
    watch_forwards(model)
    model.register_forward_pre_hook(lambda *_: before_wait(1))
    assert model(1, 1) == [1]
    model.rows = FEW_ROWS + 1
    assert model(1, 1) == [2]


class Passing(torch.autograd.Function):
    """Waits for the daemon in its backward, and notes how many threads it had then."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, rows: int, seen: list[int], fail: bool, trial: ThreadTrial | None
    ) -> torch.Tensor:
        ctx.asked = rows, seen, fail, trial
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, seen, fail, trial = ctx.asked
        before_wait(rows, rows, trial)
        seen.append(torch.get_num_threads())
        if fail:
            raise ValueError("the model's own")
        return dys[0], None, None, None, None


def backward_of(rows: int, *, fail: bool = False, trial: ThreadTrial | None = None) -> list[int]:
    seen: list[int] = []
    x = torch.ones(1, requires_grad=True)
    for _ in range(2):
        x = Passing.apply(x, rows, seen, fail, trial)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    x.sum().backward()
    return seen


def test_a_backward_of_few_rows_takes_one_thread_until_it_returns() -> None:
    assert backward_of(FEW_ROWS) == [1, 1]
    assert torch.get_num_threads() == 2
    assert backward_of(FEW_ROWS + 1) == [2, 2]


def test_after_a_backward_that_failed_the_next_forward_gives_the_threads_back() -> None:
    with pytest.raises(ValueError, match="own"):
        backward_of(1, fail=True)
    assert watched(Waiting(FEW_ROWS + 1))() == 2


def test_outside_of_a_forward_nothing_is_changed() -> None:
    before_wait(1)
    assert torch.get_num_threads() == 2


SCRIPT = """
import os, time, torch
from symbiosis_adapters.connection.cores import before_wait, watch_forwards
watch_forwards(torch.nn.Linear(1, 1))
torch.set_num_threads(2)
x = torch.ones(1 << 20)
def burned():
    x.exp()
    before_wait(1000)
    start = time.process_time()
    time.sleep(0.05)
    return time.process_time() - start
burned()
print(min(burned() for _ in range(5)))
"""


def test_waiting_burns_no_processor_time() -> None:
    """With the threads kept, OpenMP's would look for work for some milliseconds after each operation."""
    burned = {}
    for keep in ("0", "1"):
        environment = {**os.environ, "SYMBIOSIS_KEEP_THREADS": keep, "OMP_NUM_THREADS": "2"}
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            environment.pop(name, None)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True
        )
        burned[keep] = float(done.stdout)
    assert burned["0"] < burned["1"]
