"""The reference transport keeps the contract."""

from __future__ import annotations

from symbiosis_transports.inproc import TRANSPORT
from symbiosis_transports.testing import ChannelConformance


class TestInproc(ChannelConformance):
    """Every promise of the contract, in threads."""

    transport = TRANSPORT
    processes = False
