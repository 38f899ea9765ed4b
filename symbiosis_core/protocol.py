"""The control conversation as a pure state machine: bytes in, messages out, no socket.

One request is in flight at a time and every request has exactly one kind of answer; both facts are the tables
below. The transports floor moves the frames; the daemon answers `Request`s; nothing here knows either.

    client:  IDLE --ask()--> ASKED --answered()--> IDLE        a broken answer leads to CLOSED, for good
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from symbiosis_core.errors import BusyError, LocalProtocolError, RefusedError, RemoteProtocolError
from symbiosis_core.wire import (
    AskQuota,
    Borrow,
    Configure,
    Configured,
    Describe,
    Fetch,
    Hello,
    Learn,
    Learned,
    Loan,
    ModelReply,
    QuotaState,
    Refused,
    Reply,
    Request,
    Status,
    StatusReply,
    TakeTrace,
    TensorPart,
    TraceTaken,
    Welcome,
    decode_reply,
    encode,
)

__all__ = ["ANSWERS", "ClientConversation", "refusal"]

ANSWERS: Final[dict[type[Request], type[Reply]]] = {
    Hello: Welcome,
    Describe: ModelReply,
    Fetch: TensorPart,
    Learn: Learned,
    AskQuota: QuotaState,
    Configure: Configured,
    TakeTrace: TraceTaken,
    Borrow: Loan,
    Status: StatusReply,
}


class _State(Enum):
    IDLE = auto()
    ASKED = auto()
    CLOSED = auto()


class ClientConversation:
    """The client's half of the control conversation."""

    def __init__(self) -> None:
        self._state = _State.IDLE
        self._expected: type[Reply] = Refused

    def __repr__(self) -> str:
        return f"<ClientConversation {self._state.name.lower()}>"

    def ask(self, request: Request) -> list[bytes]:
        """Returns the frames to send for `request`.

        Raises:
            LocalProtocolError: a request is still unanswered, or the conversation is over.
        """
        if self._state is _State.ASKED:
            raise LocalProtocolError("the request before is still unanswered; wait for it, or hang up")
        if self._state is _State.CLOSED:
            raise LocalProtocolError("the conversation is over; begin a new one on a new link")
        frames = encode(request)
        self._state, self._expected = _State.ASKED, ANSWERS[type(request)]
        return frames

    def answered(self, frames: list[bytes]) -> Reply:
        """Returns the reply in `frames`, which is of the kind that the request calls for.

        Raises:
            RefusedError: the daemon said no; the conversation can go on.
            RemoteProtocolError: the answer is not one; the conversation is over.
        """
        if self._state is not _State.ASKED:
            self._state = _State.CLOSED
            raise RemoteProtocolError("an answer came that nobody asked for")
        try:
            reply = decode_reply(frames)
        except RemoteProtocolError:
            self._state = _State.CLOSED
            raise
        if isinstance(reply, Refused):
            self._state = _State.IDLE
            raise refusal(reply)
        if not isinstance(reply, self._expected):
            self._state = _State.CLOSED
            raise RemoteProtocolError(f"{type(reply).__name__} does not answer the request")
        self._state = _State.IDLE
        return reply


def refusal(message: Refused) -> RefusedError:
    """Returns the exception that a `Refused` message stands for."""
    if message.retry_after_s is not None:
        return BusyError(message.code, message.reason, message.remedy, retry_after_s=message.retry_after_s)
    return RefusedError(message.code, message.reason, message.remedy)
