"""ZeroMQ beside shared memory keeps the contract."""

from __future__ import annotations

from symbiosis_transports.testing import ChannelConformance
from symbiosis_transports.zmq_ipc import TRANSPORT


class TestZmqIpc(ChannelConformance):
    """Every promise of the contract, in threads and in processes."""

    transport = TRANSPORT
