"""How a client gets its place: it is greeted, looks at the base, and connects by the transport that was chosen.

A transport that turns out not to work on this side is told to the daemon as an obstacle, and another is chosen.
One whose door is shut is tried again first, a moment later: the daemon may have been exchanged for another in
between. Where there is no other transport, or no other place, what happened at the last door is the error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from msgspec.structs import replace

from symbiosis_adapters.connection.asking import greet
from symbiosis_core.errors import (
    DaemonGoneError,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
    SymbiosisError,
)
from symbiosis_core.ids import Token
from symbiosis_core.logs import event, get_logger
from symbiosis_core.specs import ModelSpec
from symbiosis_core.wire import MAX_OBSTACLE, Capability, Hello, Welcome
from symbiosis_transports.address import Address
from symbiosis_transports.ports import ClientChannel, Transport
from symbiosis_transports.registry import names, transport

__all__ = ["Attached", "attach"]

log = get_logger(__name__)

_TIMEOUT_S = 10.0
_PAUSE_S = 0.2
"""Before a shut door is tried again."""
_MOST_UNTAKEN: Final = 16
_UNTAKEN: Final[dict[str, deque[Token]]] = {}
"""By control address: what this process was promised there and could not take up. Whoever asks next gives one
back; only these, for what another thread was promised it is about to take."""


class Attached(NamedTuple):
    """A place in a daemon."""

    welcome: Welcome
    spec: ModelSpec
    """The catalogue of the base."""
    channel: ClientChannel


def attach(address: Address, hello: Hello, look: Callable[[ModelSpec], None]) -> Attached:
    """Returns a place in the daemon at `address`. `look` raises if the base is none that the caller can use."""
    capabilities = tuple([transport(name).capability() for name in names()])
    shut: SymbiosisError | None = None
    shut_before = ""
    untaken = _UNTAKEN.setdefault(address.control, deque(maxlen=_MOST_UNTAKEN))
    while True:
        with suppress(IndexError):
            hello = replace(hello, instead=untaken.pop())
        try:
            welcome, spec = greet(address, replace(hello, capabilities=capabilities))
        except RefusedError as error:
            if error.code in (RefusalCode.NO_TRANSPORT, RefusalCode.QUOTA) and shut is not None:
                raise shut from error
            raise
        except BaseException:
            if hello.instead:
                untaken.append(hello.instead)  # perhaps nobody has read it
            raise
        carrier, endpoint = transport(welcome.transport), welcome.endpoint
        if address.scheme == "tcp":  # only this side knows by which name it reaches the host
            endpoint = carrier.endpoint(address.control)
        with _remembered(welcome.token, untaken):
            look(spec)
        try:
            with _remembered(welcome.token, untaken):
                return Attached(welcome, spec, carrier.connect(endpoint, welcome.token, _TIMEOUT_S))
        except RefusedError as error:
            if error.code is not RefusalCode.NO_TRANSPORT or _known(carrier, capabilities):
                raise
            shut, reason = None, error.reason
        except (DaemonGoneError, RemoteProtocolError) as error:
            if _known(carrier, capabilities):
                raise
            shut, reason = error, error.reason if isinstance(error, DaemonGoneError) else str(error)
            if carrier.name != shut_before:
                shut_before = carrier.name
                time.sleep(_PAUSE_S)
                continue
        log.warning(event("another transport is used", not_used=carrier.name, reason=reason))
        obstacle = reason[:MAX_OBSTACLE]
        capabilities = tuple(
            [replace(one, obstacle=obstacle) if one.transport == carrier.name else one for one in capabilities]
        )


@contextmanager
def _remembered(token: Token, untaken: deque[Token]) -> Iterator[None]:
    """Keeps a promise that is not taken up, to give it back."""
    try:
        yield
    except BaseException:
        untaken.append(token)
        raise


def _known(carrier: Transport, capabilities: Sequence[Capability]) -> bool:
    """Whether the daemon was told that it does not work here, and has chosen it all the same."""
    return any(one.obstacle for one in capabilities if one.transport == carrier.name)
