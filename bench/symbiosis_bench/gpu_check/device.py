"""What the device and its driver are, so that figures can be judged."""

from __future__ import annotations

import os
import shutil
import subprocess

__all__ = ["device_facts"]


def device_facts() -> dict[str, object]:
    """Returns facts about the first GPU."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "count": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "mps_pipe": os.environ.get("CUDA_MPS_PIPE_DIRECTORY", ""),
        "allocator": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip().split("\n")[0]
