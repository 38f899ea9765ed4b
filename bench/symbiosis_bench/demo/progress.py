"""What a tenant's process tells the demo: one JSON object a line on standard output, each a typed message.

Standard output belongs to these messages alone: `Reporter` takes it away from the libraries, whose prints then go
to standard error, which the parent keeps in a log.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

__all__ = ["Answered", "Finished", "Message", "Ready", "Reporter", "Step", "Tokens", "Unreadable", "decode"]


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


class Unreadable(msgspec.Struct, frozen=True):
    """A line that is no message: a bug in the tenant."""

    line: str


_decoder: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
_LINE_SHOWN: Final = 200


def decode(line: bytes) -> Message | Unreadable:
    """Returns the message in a line of a tenant's standard output."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Unreadable(line.decode(errors="replace").strip()[:_LINE_SHOWN])


class Reporter:
    """The tenant's end. Make it before any library has a chance to print."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def tell(self, message: Message) -> None:
        """Writes one line; at once, so that the parent sees it live."""
        self._file.write(msgspec.json.encode(message) + b"\n")
