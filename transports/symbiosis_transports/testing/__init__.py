"""The public conformance suites: what `ports` promises, checked over any transport, in threads and processes.

A backend's whole test file:

    class TestMyTransport(ChannelConformance):
        transport = TRANSPORT
        processes = True          # False where both ends must share a process
        apart = False             # True where they must not, as on a device

    rows.py              bytes into slots and out of them, wherever these are
    echo.py              a real daemon's end with the smallest possible service
    apart.py             the same in a process of its own
    conformance.py       the promises of a channel
    faulty.py            a channel whose n-th operation fails, for anomaly loops over whatever is built on one
    asked.py             the daemon's end of a control link, with the smallest possible control plane
    link_conformance.py  the promises of a link
"""

from symbiosis_transports.testing.apart import EchoProcess
from symbiosis_transports.testing.asked import AskedDaemon
from symbiosis_transports.testing.conformance import ChannelConformance
from symbiosis_transports.testing.echo import ADD_ONE, HANG_UP, NEVER, REFUSE, EchoDaemon, add_one
from symbiosis_transports.testing.faulty import FaultyChannel
from symbiosis_transports.testing.link_conformance import LinkConformance

__all__ = [
    "ADD_ONE",
    "HANG_UP",
    "NEVER",
    "REFUSE",
    "AskedDaemon",
    "ChannelConformance",
    "EchoDaemon",
    "EchoProcess",
    "FaultyChannel",
    "LinkConformance",
    "add_one",
]
