"""What a tenant's process tells the demo; `symbiosis_bench.lines` says how."""

from __future__ import annotations

from typing import Final

import msgspec

from symbiosis_bench.lines import Reader

__all__ = ["Answered", "Finished", "Message", "Ready", "Step", "Tokens", "decode"]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is open and the tenant waits for the start."""

    trainable_parameters: int
    answer: str = ""
    """What the model answers before the training, where a question is asked."""


class Step(msgspec.Struct, frozen=True, tag="step"):
    """One optimizer step was made."""

    step: int
    loss: float | None
    """None: not a number, or endless; JSON has no word for either."""
    rows: int
    """Token rows put through the model since the start, padding included."""


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Some tokens were generated since the last such message."""

    tokens: int
    rows: int
    """Token rows put through the model for them; a prompt's rows count with its first token."""
    decode_ms: tuple[float, ...]
    """Per decode step: the time since the token before. The first token of an answer has none."""


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """One answer is complete."""

    prompt: str
    answer: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The tenant's last word."""

    adapter: str = ""
    """The folder in which the adapter was saved."""
    answer: str = ""
    """What the model answers after the training, where a question is asked."""


Message = Ready | Step | Tokens | Answered | Finished


decode: Final[Reader[Message]] = Reader(Message)
