"""What the benchmark orders of a worker, and what a worker answers.

Stamps are `time.perf_counter()`, which on Linux is one clock for all processes of the host.
"""

from __future__ import annotations

from typing import Final

import msgspec

from symbiosis_bench.end_to_end.messages import Made, Ready, Shape
from symbiosis_bench.lines import Reader

__all__ = ["Message", "Order", "Rest", "Serve", "Served", "TrainOn", "Trained", "read_message", "read_order"]


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Answers prompts that arrive so many seconds after a common start, one after the other. Ends in `Served`."""

    start_s: float
    """A stamp: who shares the arrivals with others is told the same."""
    arrivals_s: tuple[float, ...]
    tokens: int
    """For each prompt."""


class TrainOn(msgspec.Struct, frozen=True, tag="train_on"):
    """Makes optimizer steps until the next order."""

    shape: Shape


class Rest(msgspec.Struct, frozen=True, tag="rest"):
    """Ends what is going on. A worker that trained answers `Trained`."""


Order = Serve | TrainOn | Rest


class Served(msgspec.Struct, frozen=True, tag="served"):
    """Every prompt: when it arrived, when the client began it, and when each of its tokens was chosen."""

    arrived_s: tuple[float, ...]
    began_s: tuple[float, ...]
    tokens_s: tuple[tuple[float, ...], ...]


class Trained(msgspec.Struct, frozen=True, tag="trained_on"):
    """The end of every step."""

    stamps_s: tuple[float, ...]


Message = Ready | Made | Served | Trained

read_message: Final[Reader[Message]] = Reader(Message)
read_order: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)
