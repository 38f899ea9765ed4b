"""What is told of a GPU only. Nothing here has run on one yet, and nothing is claimed for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from symbiosis_bench.end_to_end.messages import Measured, Peaked
from symbiosis_bench.spread import Spread, spread

__all__ = ["cuda_bytes"]

N = TypeVar("N", bound=str)


def cuda_bytes(told: Mapping[N, Sequence[Measured | Peaked]]) -> dict[str, Spread]:
    """Returns the GPU memory of a process of every contender; nothing without a GPU."""
    known = {
        name: [answer.cuda_bytes for answer in answers if answer.cuda_bytes is not None]
        for name, answers in told.items()
    }
    return {f"{name}_cuda_bytes": spread(values) for name, values in known.items() if values}
