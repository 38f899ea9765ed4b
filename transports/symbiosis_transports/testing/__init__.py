"""The public conformance suite: what `ports` promises, checked over any transport, in threads and processes.

A backend's whole test file:

    class TestMyTransport(ChannelConformance):
        transport = TRANSPORT
        processes = True          # False where both ends must share a process

    echo.py         a real daemon's end with the smallest possible service
    conformance.py  the promises
    faulty.py       a channel whose n-th operation fails, for anomaly loops over whatever is built on a channel
"""

from symbiosis_transports.testing.conformance import ChannelConformance
from symbiosis_transports.testing.echo import ADD_ONE, HANG_UP, NEVER, REFUSE, EchoDaemon, add_one
from symbiosis_transports.testing.faulty import FaultyChannel

__all__ = [
    "ADD_ONE",
    "HANG_UP",
    "NEVER",
    "REFUSE",
    "ChannelConformance",
    "EchoDaemon",
    "FaultyChannel",
    "add_one",
]
