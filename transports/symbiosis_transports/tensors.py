"""Where memory of a slot becomes a tensor: the one place that both the daemon and the client use for it."""

from __future__ import annotations

from typing import Final

import torch

from symbiosis_core.ids import SlotIndex
from symbiosis_core.specs import DType
from symbiosis_transports.ports import ClientChannel, DeviceMemory, DeviceRows, OnDevice, ServerChannel

__all__ = ["TORCH_DTYPES", "slot_memory", "torch_dtype", "view_rows"]

TORCH_DTYPES: Final[dict[DType, torch.dtype]] = {
    DType.FLOAT32: torch.float32,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT16: torch.float16,
    DType.INT64: torch.int64,
    DType.FLOAT64: torch.float64,
    DType.INT32: torch.int32,
    DType.BOOL: torch.bool,
    DType.UINT8: torch.uint8,
    DType.INT8: torch.int8,
}


def torch_dtype(dtype: DType) -> torch.dtype:
    """Returns torch's name for an element type."""
    return TORCH_DTYPES[dtype]


def slot_memory(channel: ClientChannel | ServerChannel, slot: SlotIndex) -> DeviceRows:
    """Returns the memory of a slot, wherever it is."""
    return channel.device_rows(slot) if isinstance(channel, OnDevice) else channel.buffer(slot)


def view_rows(buffer: DeviceRows, at: int, rows: int, width: int, dtype: DType) -> torch.Tensor:
    """Returns a view of `buffer` from byte `at` on, shape (rows, width). Costs 2-3 us: keep it.

    As long as the view lives, so does the memory; but memory of a GPU ends with its channel.
    """
    if isinstance(buffer, DeviceMemory):
        whole = torch.as_tensor(buffer, device=torch.device("cuda", buffer.device))
        nbytes = rows * width * TORCH_DTYPES[dtype].itemsize
        return whole[at : at + nbytes].view(TORCH_DTYPES[dtype]).view(rows, width)
    flat = torch.frombuffer(buffer, dtype=TORCH_DTYPES[dtype], count=rows * width, offset=at)
    return flat.view(rows, width)
