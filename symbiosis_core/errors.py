"""One tree of errors. The type answers two questions: whose fault is it, and is it safe to try again.

    SymbiosisError
    |- ConfigError            the user's file or argument is wrong; carries every problem that was found
    |- UsageError             the caller used the API in a way that cannot work; nothing was sent
    |- LocalProtocolError     this side broke the protocol: a bug here
    |- RemoteProtocolError    the other side broke the protocol: a bug there, or hostile input
    |- RefusedError           the daemon understood and said no; `code` is stable, `remedy` says what to do
    |  |- BusyError           ... for now: safe to retry after `retry_after_s`
    |- ClosedError            this object was closed by its owner
    |- DaemonGoneError        the daemon is not there (any more); safe to retry, requests are pure
    |- DaemonSilentError      the daemon holds the connection but did not answer within the limit

Foreign exceptions (OSError, zmq.ZMQError, msgspec.ValidationError) are translated once, at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "BusyError",
    "ClosedError",
    "ConfigError",
    "DaemonGoneError",
    "DaemonSilentError",
    "LocalProtocolError",
    "Problem",
    "RefusalCode",
    "RefusedError",
    "RemoteProtocolError",
    "SymbiosisError",
    "UsageError",
]


class SymbiosisError(Exception):
    """Every error that Symbiosis raises on purpose."""


class UsageError(SymbiosisError):
    """The call cannot work as made. The message says what to do instead."""


class Problem(NamedTuple):
    """One thing that is wrong with a configuration file."""

    key: str
    """Where: a key path such as `lanes.training.chunk_rows`."""
    value: object
    """What stands there."""
    allowed: str
    """What may stand there."""

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}: {self.allowed}"


class ConfigError(SymbiosisError):
    """A configuration file is wrong. All problems are listed, not only the first."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


class LocalProtocolError(SymbiosisError):
    """This side did something that the protocol does not allow here."""


class RemoteProtocolError(SymbiosisError):
    """The other side sent something that the protocol does not allow here."""


class RefusalCode(StrEnum):
    """Why the daemon says no. Stable: scripts may compare against it."""

    VERSION = "version"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    ORDER = "order"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_LANE = "unknown_lane"
    UNKNOWN_TENSOR = "unknown_tensor"
    UNKNOWN_OP = "unknown_op"
    BAD_TOKEN = "bad_token"
    BAD_REGION = "bad_region"
    BAD_DTYPE = "bad_dtype"
    BAD_ROWS = "bad_rows"
    BAD_INDEX = "bad_index"
    NO_BACKWARD = "no_backward"
    NO_TRANSPORT = "no_transport"
    PERMISSION = "permission"
    QUOTA = "quota"
    DRAINING = "draining"
    FAILED = "failed"


class RefusedError(SymbiosisError):
    """The daemon refused a request and lives on. `code` is stable; `remedy` says what to do."""

    def __init__(self, code: RefusalCode, reason: str, remedy: str = "") -> None:
        self.code = code
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{reason} ({code}). {remedy}".rstrip(" ."))


class BusyError(RefusedError):
    """Refused only for now: the same call may succeed after `retry_after_s` seconds."""

    def __init__(
        self, code: RefusalCode, reason: str, remedy: str = "", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(code, reason, remedy)
        self.retry_after_s = retry_after_s


class ClosedError(SymbiosisError):
    """The object was closed before or during the call."""


class DaemonGoneError(SymbiosisError):
    """There is no daemon at the address, or it went away. Sending the request again later is safe."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(
            f"the daemon at {address} is gone: {reason}. Start it with `symbiosis serve --listen {address}`, "
            "or pass reconnect_s=... to wait for its return"
        )


class DaemonSilentError(SymbiosisError):
    """The daemon is connected but gave no answer within `waited_s` seconds."""

    def __init__(self, address: str, waited_s: float) -> None:
        self.address = address
        self.waited_s = waited_s
        super().__init__(
            f"the daemon at {address} gave no answer within {waited_s:g} s; `symbiosis status --address "
            f"{address}` shows whether it is stopped or overloaded; raise answer_timeout_s if its queue is long"
        )
