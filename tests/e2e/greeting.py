"""A client that asks for a place and, as long as nobody takes it with the token, does nothing else."""

from __future__ import annotations

from symbiosis_core.wire import Hello, Welcome
from symbiosis_transports.registry import names, transport
from symbiosis_transports.zmq_link import ControlClient

__all__ = ["greet"]


def greet(address: str, name: str, wish: str, timeout_s: float = 20) -> Welcome:
    """Asks for a place."""
    ours = tuple(transport(name).capability() for name in names())
    with ControlClient(address, timeout_s) as link:
        welcome = link.ask(Hello(name, wish, capabilities=ours))
    assert isinstance(welcome, Welcome)
    return welcome
