"""What the benchmark orders of a worker, and what a worker answers. One order at a time; each ends in one answer.

Stamps are `time.perf_counter()`, which on Linux is one clock for all processes of the host.
"""

from __future__ import annotations

from typing import Final

import msgspec

from symbiosis_bench.lines import Reader

__all__ = [
    "Answer",
    "Began",
    "Decode",
    "Decoded",
    "Judge",
    "Judged",
    "Made",
    "Measured",
    "Message",
    "NoRoom",
    "Of",
    "Order",
    "Peak",
    "Peaked",
    "Ready",
    "Said",
    "Shape",
    "Train",
    "Trained",
    "read_message",
    "read_order",
]


class Shape(msgspec.Struct, frozen=True):
    """A batch of sequences of one length."""

    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}"

    @property
    def rows(self) -> int:
        return self.batch * self.tokens


class Train(msgspec.Struct, frozen=True, tag="train"):
    """Makes some optimizer steps, from the seeded adapter and a new optimizer. Answered by `Trained`."""

    shape: Shape
    steps: int
    threads: int = 0
    """Of torch in this process; 0: as they were when torch was imported."""


class Decode(msgspec.Struct, frozen=True, tag="decode"):
    """Generates so many tokens after the worker's prompt, greedily. Answered by `Decoded`."""

    tokens: int
    threads: int = 0


class Judge(msgspec.Struct, frozen=True, tag="judge"):
    """Reads tokens after the prompt in one forward, and says what it would have chosen. Answered by `Judged`."""

    tokens: tuple[int, ...]


class Peak(msgspec.Struct, frozen=True, tag="peak"):
    """Makes training steps and watches the memory they take. Answered by `Peaked`."""

    shape: Shape
    steps: int


Order = Train | Decode | Judge | Peak


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is open, with its adapter. The worker waits for orders."""

    torch_threads: int
    attention: str
    dtype: str
    adapter: str
    """A digest of the adapter's weights: contenders that are compared start from the same ones."""
    cut: str = ""
    """What is one trip, of a client; empty: no trips."""


class Began(msgspec.Struct, frozen=True, tag="began"):
    """The first step or the first token is made: what belongs to the beginning is over."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What every measured interval tells."""

    stamps_s: tuple[float, ...]
    cuda_bytes: int | None = None
    """Most that torch held on the GPU for this process meanwhile; None without one."""
    device_bytes: int | None = None
    """What all processes hold on the GPU when this one is done, as its driver counts; None without one."""
    torch_threads: int = 0
    """In this process meanwhile."""


class Trained(Measured, frozen=True, kw_only=True, tag="trained"):
    """Some optimizer steps were made. Stamped are the start, and the end of every step."""

    losses: tuple[float | None, ...]
    """None: not a number, or endless; JSON has no word for either."""


class Decoded(Measured, frozen=True, kw_only=True, tag="decoded"):
    """Some tokens were generated. Stamped is every token, as it was chosen."""

    tokens: tuple[int, ...]
    cpu_s: float = 0.0
    """Processor time of the process from the first token to the last."""


class NoRoom(Measured, frozen=True, kw_only=True, tag="no_room"):
    """There was not memory enough on the GPU, to open the model or to carry out the order."""

    stamps_s: tuple[float, ...] = ()


class Judged(msgspec.Struct, frozen=True, tag="judged"):
    """For every position of the tokens that were given."""

    choices: tuple[int, ...]
    """The likeliest token there."""
    margins: tuple[float, ...]
    """How far its logit is above the second one's."""
    surprise: float | None
    """Mean negative log likelihood of the tokens."""


class Peaked(msgspec.Struct, frozen=True, tag="peaked"):
    """Bytes; see `peak` for what they count. `activations` are of the GPU where the model is there, the others are
    the host's."""

    activations: int
    arena: int
    """The part of them that is shared memory."""
    process: int
    """The highest resident set, libraries and mapped weights included."""
    losses: tuple[float | None, ...]
    cuda_bytes: int | None = None


Answer = Trained | Decoded | Judged | Peaked | NoRoom
Said = Ready | Began | Answer


class Made(msgspec.Struct, frozen=True, tag="made"):
    """A model folder is there."""

    folder: str


class Of(msgspec.Struct, frozen=True, tag="of"):
    """What one of several processes behind one standard output says."""

    member: int
    message: Said


Message = Said | Made | Of

read_message: Final[Reader[Message]] = Reader(Message)
read_order: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)
