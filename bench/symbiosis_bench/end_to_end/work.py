"""What a contender does in a measured interval: training steps, greedy tokens, a judgement."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

import torch
from transformers.generation.streamers import BaseStreamer

from symbiosis_bench.end_to_end.adapter import parameters, restore
from symbiosis_bench.end_to_end.contender import PROMPT_TOKENS, Contender
from symbiosis_bench.end_to_end.messages import Decode, Decoded, Judge, Judged, Shape, Train, Trained

__all__ = ["TokenClock", "decode", "finite", "generate", "judge", "optimizer_of", "step", "train", "train_steps"]

_LEARNING_RATE: Final = 1e-2
"""So much that every update moves the losses after it by more than 1 %, which is what rounding is allowed: at 2e-4
whoever never updated passed. Measured on SmolLM2 in `bench/README.md`."""


def train(contender: Contender, order: Train, began: Callable[[], object]) -> Trained:
    """Trains as a plain loop does. Every interval is the same one again, so its losses can be compared."""
    contender.begin(order.threads)
    losses, stamps_s = train_steps(contender, order, began)
    return Trained(
        losses=tuple(losses),
        stamps_s=tuple(stamps_s),
        cuda_bytes=contender.cuda_bytes(),
        device_bytes=contender.device_bytes(),
        torch_threads=torch.get_num_threads(),
    )


def train_steps(
    contender: Contender, order: Train, began: Callable[[], object]
) -> tuple[list[float | None], list[float]]:
    """Returns the loss of every step, and the stamps of the start and of every step's end."""
    contender.model.train()
    optimizer = optimizer_of(contender)
    losses: list[float | None] = []
    contender.synchronize()
    stamps_s = [time.perf_counter()]
    for number in range(order.steps):
        losses.append(finite(step(contender, optimizer, number, order.shape)))
        stamps_s.append(time.perf_counter())
        if number == 0:
            began()
    return losses, stamps_s


def optimizer_of(contender: Contender) -> torch.optim.Optimizer:
    """Returns a new optimizer over the seeded adapter."""
    restore(contender.model, contender.adapter)
    return torch.optim.AdamW(parameters(contender.model).values(), lr=_LEARNING_RATE)


def step(contender: Contender, optimizer: torch.optim.Optimizer, number: int, shape: Shape) -> float:
    """Makes one optimizer step and returns its loss."""
    ids_BT = contender.text.batch(number, shape).to(contender.device)
    loss = contender.model(input_ids=ids_BT, labels=ids_BT).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    contender.synchronize()
    return float(loss.item())


def decode(contender: Contender, order: Decode, began: Callable[[], object]) -> Decoded:
    """Generates with transformers' generate()."""
    contender.begin(order.threads)
    restore(contender.model, contender.adapter)
    contender.model.eval()
    clock = TokenClock(contender, began)
    tokens = generate(contender, order.tokens, clock)
    return Decoded(
        tokens=tokens,
        stamps_s=tuple(clock.stamps_s),
        cpu_s=clock.cpu_s,
        cuda_bytes=contender.cuda_bytes(),
        device_bytes=contender.device_bytes(),
        torch_threads=torch.get_num_threads(),
    )


def generate(contender: Contender, tokens: int, clock: TokenClock) -> tuple[int, ...]:
    """Returns so many tokens after the prompt, chosen greedily."""
    prompt_BT = contender.text.prompt(PROMPT_TOKENS).to(contender.device)
    made_BT = contender.model.generate(
        input_ids=prompt_BT,
        attention_mask=torch.ones_like(prompt_BT),
        max_new_tokens=tokens,
        do_sample=False,
        streamer=clock,
    )
    return tuple(made_BT[0, prompt_BT.shape[1] :].tolist())


def judge(contender: Contender, order: Judge) -> Judged:
    """Reads prompt and tokens at once; position i is judged by what stands before it."""
    contender.begin(0)
    restore(contender.model, contender.adapter)
    contender.model.eval()
    prompt_BT = contender.text.prompt(PROMPT_TOKENS)
    given_BT = torch.tensor([order.tokens], dtype=prompt_BT.dtype)
    with torch.inference_mode():
        ids_BT = torch.cat((prompt_BT, given_BT), dim=1).to(contender.device)
        logits_TV = contender.model(input_ids=ids_BT).logits[0, PROMPT_TOKENS - 1 : -1].float().cpu()
    best = logits_TV.topk(2)
    surprise = torch.nn.functional.cross_entropy(logits_TV, given_BT[0]).item()
    return Judged(
        choices=tuple(best.indices[:, 0].tolist()),
        margins=tuple((best.values[:, 0] - best.values[:, 1]).tolist()),
        surprise=finite(surprise),
    )


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class TokenClock(BaseStreamer):
    """Notes when every token is chosen. generate() hands it the prompt first."""

    def __init__(self, contender: Contender, began: Callable[[], object]) -> None:
        self._contender = contender
        self._began = began
        self._prompted = False
        self._first_s = 0.0
        self.stamps_s: list[float] = []

    @property
    def cpu_s(self) -> float:
        """Processor time of this process since the first token."""
        return time.process_time() - self._first_s

    def put(self, value: Any) -> None:
        if not self._prompted:
            self._prompted = True
            return
        self._contender.synchronize()
        self.stamps_s.append(time.perf_counter())
        if len(self.stamps_s) == 1:
            self._first_s = time.process_time()
            self._began()

    def end(self) -> None:
        pass
