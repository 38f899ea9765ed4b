"""What one tenant has achieved, added up from its messages."""

from __future__ import annotations

import math

from symbiosis_bench.demo.progress import Answered, Finished, Message, Ready, Step, Tokens

__all__ = ["Account"]


class Account:
    """One tenant's figures since the start of the measured phase."""

    def __init__(self, name: str, lane: str, method: str) -> None:
        self.name = name
        self.lane = lane
        self.method = method
        self.ready: Ready | None = None
        self.losses: list[float] = []
        """Of every step."""
        self.tokens = 0
        self.decode_ms: list[float] = []
        self.rows = 0
        """Token rows put through the model."""
        self.answered: Answered | None = None
        """The latest answer."""
        self.finished: Finished | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Account of {self.name!r}: {len(self.losses)} steps, {self.tokens} tokens, {self.rows} rows>"

    @property
    def progressed(self) -> bool:
        """Whether at least one step or one token was made."""
        return bool(self.losses or self.tokens)

    def take(self, message: Message) -> None:
        """Adds what the tenant said."""
        match message:
            case Ready():
                self.ready = message
            case Finished():
                self.finished = message
            case _ if self._closed:
                pass
            case Step():
                self.losses.append(math.nan if message.loss is None else message.loss)
                self.rows = message.rows
            case Tokens():
                self.tokens += message.tokens
                self.rows += message.rows
                self.decode_ms.extend(message.decode_ms)
            case Answered():
                self.answered = message

    def close(self) -> None:
        """Ends the measured phase: what is done later counts no more."""
        self._closed = True
