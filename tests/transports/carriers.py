"""Transports by name for tests with processes: `cuda_ipc` over the fake device, which is a folder."""

from __future__ import annotations

from pathlib import Path

from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.fake_cuda import FakeDevices
from symbiosis_transports.ports import Transport
from symbiosis_transports.registry import transport

__all__ = ["carrier"]


def carrier(name: str, endpoint: str) -> Transport:
    """Returns the transport of that name. The fake device is beside the endpoint."""
    if name != "cuda_ipc":
        return transport(name)
    folder = Path(endpoint).parent / "device"
    folder.mkdir(exist_ok=True)
    return CudaIpc(FakeDevices(folder))
