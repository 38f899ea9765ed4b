"""The contract of a transport: what both sides may rely on, whatever carries questions and rows.

A *link* carries the control plane: a client asks, the daemon answers.

- Every question gets one answer, of the kind that it calls for, in the order of the questions; a refusal is one.
- Who is not there, who is silent and who refuses are told apart, within the link's limit of time.
- Garbage gets a refusal, or ends its connection; it costs nobody else an answer.
- A forked child cannot use its parent's link.

A *channel* joins one client to the daemon. It has a fixed number of *slots*, each a piece of memory that both
sides see. A request is one slot's journey:

    FREE --lease--> LEASED --publish--> PUBLISHED --take--> RUNNING --answer--> ANSWERED --release--> FREE
    client          client              client              daemon              daemon               client

Guarantees that `symbiosis_transports.testing` checks for every transport:

- Memory of a slot belongs to the client except between `publish` and the answer, when it is the daemon's.
- What was written before `publish` is seen after `take`; what was written before `answer`, after `wait`.
- Slots are independent: answers may come in any order. Nothing is lost, nothing is answered twice.
- When either side goes away the other is told once: `DaemonGoneError` from `wait`, `Host.gone` at the daemon.
- A client can hold its own slots for ever, and harm nobody else.

Clients are synchronous: model code is. The daemon's side runs in the one thread of the loop given to `listen`.

    link.py        the control plane: `Link`, `LinkServer`
    channel.py     both ends of a channel
    device.py      slots in memory of a device
    sparing.py     both ends on the cores of one host
    transport.py   how a channel comes about: `Transport`, `Listener`, and the `Host` that a listener asks
"""

from symbiosis_transports.calls import Arrival, Call
from symbiosis_transports.ports.channel import ChannelStatistics, ClientChannel, ServerChannel
from symbiosis_transports.ports.device import DeviceMemory, DeviceRows, OnDevice, ServesOnDevice
from symbiosis_transports.ports.link import Answer, Link, LinkServer
from symbiosis_transports.ports.sparing import HearsOfPlace, SaysPlace
from symbiosis_transports.ports.transport import (
    MOST_DESCRIPTORS,
    Grant,
    Host,
    Listener,
    Peer,
    Placeable,
    Transport,
)

__all__ = [
    "MOST_DESCRIPTORS",
    "Answer",
    "Arrival",
    "Call",
    "ChannelStatistics",
    "ClientChannel",
    "DeviceMemory",
    "DeviceRows",
    "Grant",
    "HearsOfPlace",
    "Host",
    "Link",
    "LinkServer",
    "Listener",
    "OnDevice",
    "Peer",
    "Placeable",
    "SaysPlace",
    "ServerChannel",
    "ServesOnDevice",
    "Transport",
]
