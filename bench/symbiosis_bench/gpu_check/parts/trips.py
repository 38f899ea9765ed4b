"""How long a round trip takes where answers come by events, and where the daemon waits for the device first.

With `--mps` the same beside NVIDIA's multi-process service, which is started for it, if it is there.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from symbiosis_bench.gpu_check.parts.asked import options, source_of, tell
from symbiosis_bench.gpu_check.parts.server import START_S, serving
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction, DType
from symbiosis_transports.cuda.seam import CudaSource
from symbiosis_transports.cuda_ipc import CudaIpc
from symbiosis_transports.ports import Call
from symbiosis_transports.tensors import slot_memory, view_rows
from symbiosis_transports.testing import ADD_ONE

_SIZES: Final = (2304, 102_400)
_SERIES_S: Final = 2.5
"""A series ends after that time, however few its trips; the least that quantiles can be taken of are made."""
_LEAST: Final = 10
_CONTROL: Final = "nvidia-cuda-mps-control"


def trips_us(source: CudaSource, endpoint: str, size: int, trips: int) -> dict[str, float]:
    """Returns quantiles of so many trips at most, each ended by a look at the answer, as the next kernel."""
    channel = CudaIpc(source).connect(endpoint, Token("good"), START_S)
    took: list[float] = []
    stop_s = time.monotonic() + _SERIES_S
    while len(took) < trips and (len(took) < _LEAST or time.monotonic() < stop_s):
        began = time.perf_counter_ns()
        slot = channel.lease_nowait()
        channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, size, 0, 1 << 19))
        channel.wait(slot, 60)
        y_1N = view_rows(slot_memory(channel, slot), 1 << 19, 1, size, DType.UINT8)
        if y_1N.is_cuda:
            torch.cuda.current_stream().synchronize()
        channel.release(slot)
        took.append((time.perf_counter_ns() - began) / 1e3)
    channel.close()
    cuts = statistics.quantiles(took[len(took) // 10 :], n=100)
    return {
        "trips": len(took),
        "p50_us": round(cuts[49], 1),
        "p90_us": round(cuts[89], 1),
        "p99_us": round(cuts[98], 1),
    }


@contextmanager
def mps() -> Iterator[None]:
    """The multi-process service, for this process and its children. Must come before CUDA is used here."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        subprocess.run([_CONTROL, "-d"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        try:
            yield
        finally:
            subprocess.run([_CONTROL], input="quit\n", text=True, check=False)


def measure(source: CudaSource, trips: int) -> dict[str, dict[str, float]]:
    """Returns figures per way of answering and size."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, wait in (("events", False), ("full sync", True)):
            endpoint = str(Path(folder, f"{int(wait)}.cuda"))
            with serving(source, endpoint, wait=wait):
                for size in _SIZES:
                    found[f"{name}, {size} bytes"] = trips_us(source, endpoint, size, trips)
    return found


def main() -> None:
    """Measures, or says why not."""
    parser = options(__doc__)
    parser.add_argument("--mps", action="store_true")
    asked = parser.parse_args()
    source, trips = source_of(asked.fake), 50 if asked.fake else 3000
    if not asked.mps:
        tell(**measure(source, trips))
    elif shutil.which(_CONTROL) is None:
        tell(skipped=f"there is no {_CONTROL}")
    else:
        with mps():
            tell(mps=True, **measure(source, trips))


if __name__ == "__main__":
    main()
