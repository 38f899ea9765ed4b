"""What the device and its driver are, so that figures can be judged.

    python -m symbiosis_bench.gpu_check.device

A process of its own asks, for a driver that hangs must not take the check with it. It ends with 1 and the reason
where no GPU can be used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Final

__all__ = ["device_facts"]

_DRIVER_S: Final = 10.0


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
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=False, timeout=_DRIVER_S)
    except subprocess.TimeoutExpired:
        return "unknown"
    return told.stdout.strip().split("\n")[0]


def main() -> None:
    """Tells the facts, or why there is no GPU."""
    from symbiosis_transports.cuda.source import CudaDevices

    if obstacle := CudaDevices().obstacle():
        sys.exit(obstacle)
    print(json.dumps(device_facts()), flush=True)


if __name__ == "__main__":
    main()
