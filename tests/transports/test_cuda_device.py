"""CUDA IPC keeps the contract on a GPU. Nothing of this runs without one, and nobody has run it yet."""

from __future__ import annotations

import pytest

from symbiosis_transports.cuda.source import CudaDevices
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.testing import ChannelConformance

DEVICES = CudaDevices()

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(DEVICES.obstacle()), reason=f"needs a GPU: {DEVICES.obstacle()}"),
]


class TestCudaIpcOnADevice(ChannelConformance):
    """Every promise of the contract, each daemon in a process of its own."""

    transport = CudaIpc(DEVICES)
    apart = True
