"""What the parent asks of its processes, and what they answer: one JSON object a line."""

from __future__ import annotations

from typing import Final

import msgspec

from symbiosis_bench.lines import Reader

__all__ = [
    "ClientOrder",
    "Look",
    "Looked",
    "Measure",
    "Measured",
    "Message",
    "Place",
    "Ready",
    "Spin",
    "Tally",
    "Tell",
    "Trip",
    "read_client_order",
    "read_message",
    "read_server_order",
]


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, and through which contender."""

    contender: str
    endpoint: str
    size_bytes: int
    compute: str
    spin: str
    cores: tuple[int, ...]
    """Where this client runs meanwhile."""


class Look(Trip, frozen=True, kw_only=True, tag="look"):
    """Connects where need be, warms up, and looks at every byte of some answers. Answered by `Looked`."""


class Measure(Trip, frozen=True, kw_only=True, tag="measure"):
    """Makes round trips. Answered by `Measured`."""

    calls: int
    round_s: float


class Spin(msgspec.Struct, frozen=True, tag="spin"):
    """A server waits awake that long from now on, in microseconds. Not answered."""

    spin_us: int
    learns: bool
    """As the daemon does: less often where looks miss."""


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """Asks a server for its `Tally`."""


class Place(msgspec.Struct, frozen=True):
    """Which memory a buffer is, whoever has mapped it."""

    device: str
    inode: int
    offset_bytes: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The process waits for orders."""

    endpoint: str = ""
    """Where to connect, of a server."""


class Looked(msgspec.Struct, frozen=True, tag="looked"):
    """How many of the answers were not what they should be."""

    wrong: int


class Measured(msgspec.Struct, frozen=True, tag="measured", kw_only=True):
    """One client's round trips."""

    laps_ns: tuple[int, ...]
    begin_s: float
    end_s: float
    wrong: int
    """Answers that were another call's."""
    doorbells: int = 0
    sleeps: int = 0
    spin_hits: int = 0
    copied_bytes: int = 0
    place: Place | None = None
    """Where the client's rows lay; None where they lie nowhere in particular."""


class Tally(msgspec.Struct, frozen=True, tag="tally", kw_only=True):
    """What a server has done since its start."""

    requests: int
    batches: int
    busy_ns: int
    """Of the work itself."""
    cpu_ns: int
    """Of the process, all threads."""
    doorbells: int = 0
    copied_bytes: int = 0
    places: tuple[Place, ...] = ()
    """Where rows of the clients lie."""


ClientOrder = Look | Measure
ServerOrder = Spin | Tell
Message = Ready | Looked | Measured | Tally

read_message: Final[Reader[Message]] = Reader(Message)
read_client_order: Final[msgspec.json.Decoder[ClientOrder]] = msgspec.json.Decoder(ClientOrder)
read_server_order: Final[msgspec.json.Decoder[ServerOrder]] = msgspec.json.Decoder(ServerOrder)
