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
    |- ServiceFailedError     a part of the daemon ended that should not have; the cause is its own exception

The arguments of an error are its fields, so that every error survives pickling: data loaders and pools hand
exceptions from process to process that way, and one that cannot be rebuilt hangs them. Foreign exceptions
(OSError, zmq.ZMQError, msgspec.ValidationError) are translated once, at the edge.
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
    "ServiceFailedError",
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
    """Where: a key path such as `lanes.training.chunk_rows`, a place such as `line 3, column 7`, or empty: the
    file itself."""
    value: object
    """What stands there. None: nothing; TOML has no null."""
    allowed: str
    """What may stand there, or what to do."""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.key}: {self.allowed}" if self.key else self.allowed
        return f"{self.key} = {_shown(self.value)}: {self.allowed}"


def _shown(value: object) -> str:
    """Returns `value` as TOML writes it, cut short: a whole table may stand where a number should."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class ConfigError(SymbiosisError):
    """A configuration file is wrong. All problems are listed, not only the first."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        return "\n".join(f"{self.source}: {problem}" for problem in self.problems)


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
    BAD_SEGMENT = "bad_segment"
    NOT_LENT = "not_lent"
    BAD_CONFIG = "bad_config"


class RefusedError(SymbiosisError):
    """The daemon refused a request and lives on. `code` is stable; `remedy` says what to do."""

    def __init__(self, code: RefusalCode, reason: str, remedy: str = "") -> None:
        self.code = code
        self.reason = reason
        self.remedy = remedy
        super().__init__(code, reason, remedy)

    def __str__(self) -> str:
        return f"{self.reason} ({self.code}). {self.remedy}".rstrip(" .")


class BusyError(RefusedError):
    """Refused only for now: the same call may succeed after `retry_after_s` seconds."""

    def __init__(self, code: RefusalCode, reason: str, remedy: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(code, reason, remedy)
        self.retry_after_s = retry_after_s


class ClosedError(SymbiosisError):
    """The object was closed before or during the call."""


class DaemonGoneError(SymbiosisError):
    """There is no daemon at the address, or it went away. Sending the request again later is safe."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(address, reason)

    def __str__(self) -> str:
        return (
            f"the daemon at {self.address} is gone: {self.reason}. Start it with "
            f"`symbiosis serve --listen {self.address}`, or pass reconnect_s=... to wait for its return"
        )


class DaemonSilentError(SymbiosisError):
    """The daemon is connected but gave no answer within `waited_s` seconds."""

    def __init__(self, address: str, waited_s: float) -> None:
        self.address = address
        self.waited_s = waited_s
        super().__init__(address, waited_s)

    def __str__(self) -> str:
        return (
            f"the daemon at {self.address} gave no answer within {self.waited_s:g} s; "
            f"`symbiosis status --address {self.address}` shows whether it is stopped or overloaded; "
            "raise answer_timeout_s if its queue is long"
        )


class ServiceFailedError(SymbiosisError):
    """A service of the kernel failed, and the kernel stopped all others.

    `__cause__` is the service's own exception with its traceback, or None where it raised none.
    """

    def __init__(self, service: str, reason: str) -> None:
        self.service = service
        self.reason = reason
        super().__init__(service, reason)

    def __str__(self) -> str:
        return f"service {self.service} {self.reason}"
