"""The chat tenant as a process: generate() on the shared base, one prompt after the other, until told to finish.

python -m symbiosis_bench.demo.chatting --address ipc:///...
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any, Final

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from symbiosis_adapters import AutoModelForCausalLM, AutoTokenizer
from symbiosis_bench.demo.orders import Orders
from symbiosis_bench.demo.progress import Answered, Finished, Ready, Tokens
from symbiosis_bench.demo.tenants import CHAT
from symbiosis_bench.lines import Reporter

__all__ = ["TokenClock", "main"]

_TELL_EVERY_MS: Final = 500.0
_WARM_UP_TOKENS: Final = 4


def main() -> None:
    """Opens the model, waits for the start, answers its prompts in turn until told to finish."""
    reporter = Reporter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    given = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(given.address, lane=CHAT.lane, name=CHAT.name)
    tokenizer = AutoTokenizer.from_pretrained(model)
    orders = Orders()
    chat = _Chat(model, tokenizer, orders)
    chat.answer(CHAT.prompts[0], _WARM_UP_TOKENS)
    reporter.tell(Ready(trainable_parameters=0))

    orders.wait_start()
    for prompt in itertools.cycle(CHAT.prompts):
        if orders.finish:
            break
        clock = TokenClock(reporter)
        reporter.tell(Answered(prompt, chat.answer(prompt, CHAT.answer_tokens, clock)))
    reporter.tell(Finished())


class _Chat:
    """The model with its tokenizer, and when to stop."""

    def __init__(self, model: Any, tokenizer: Any, orders: Orders) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._until = StoppingCriteriaList([_Told(orders)])

    def answer(self, prompt: str, tokens: int, clock: TokenClock | None = None) -> str:
        encoded = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        answered = self._model.generate(
            **encoded, max_new_tokens=tokens, do_sample=False, streamer=clock, stopping_criteria=self._until
        )
        told: str = self._tokenizer.decode(answered[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        return told.strip()


class TokenClock(BaseStreamer):
    """Takes the time between the tokens of one answer, and reports it now and then.

    generate() hands it the prompt first, then every token as it is chosen.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._prompt_rows = 0
        self._last_s: float | None = None
        self._forget()

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt, or one token."""
        if not self._prompt_rows:
            self._prompt_rows = value.numel()
            return
        now_s = time.perf_counter()
        self._tokens += 1
        if self._last_s is None:
            self._rows += self._prompt_rows
        else:
            self._rows += 1
            self._decode_ms.append((now_s - self._last_s) * 1e3)
        self._last_s = now_s
        if sum(self._decode_ms) >= _TELL_EVERY_MS:
            self.end()

    def end(self) -> None:
        """Reports what has not been reported."""
        if self._tokens:
            self._reporter.tell(Tokens(self._tokens, self._rows, tuple(self._decode_ms)))
        self._forget()

    def _forget(self) -> None:
        self._tokens = 0
        self._rows = 0
        self._decode_ms: list[float] = []


class _Told(StoppingCriteria):
    """Ends an answer when the tenant is to finish."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._orders.finish, dtype=torch.bool)


if __name__ == "__main__":
    main()
