"""How much is measured, on what, and with which settings. All of it goes into the JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from symbiosis_bench.end_to_end.messages import Shape

__all__ = ["FULL", "QUICK", "Base", "Scale", "Settings", "telling_environment", "worker_environment"]

_PREFIXES: Final = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "SYMBIOSIS_")


class Base(msgspec.Struct, frozen=True):
    """The shape of a randomly initialised Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


TINY: Final = Base(hidden=64, intermediate=96, layers=2, heads=4, kv_heads=2, vocabulary=256)
SMALL: Final = Base(hidden=256, intermediate=512, layers=4, heads=4, kv_heads=2, vocabulary=2048)
LLAMA_1B: Final = Base(hidden=2048, intermediate=5632, layers=22, heads=32, kv_heads=4, vocabulary=32_000)
"""TinyLlama's: 1.1 B parameters."""

LLAMA_7B: Final = Base(hidden=4096, intermediate=11_008, layers=32, heads=32, kv_heads=32, vocabulary=32_000)


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """The size of every measurement."""

    rounds: int
    """Of one client against one plain process."""
    crowd_rounds: int
    """Of four against four, which take longer, and of memory."""
    train_shapes: tuple[Shape, ...]
    train_steps: tuple[int, ...]
    """Per interval, for each shape."""
    decode_tokens: int
    crowd_shape: Shape
    crowd_steps: int
    crowd_tokens: int
    learned_tokens: int
    """Of the warm-up of four clients of a daemon, which learns meanwhile."""
    peak_shape: Shape
    skewed_tokens: tuple[int, ...]
    """Sequence lengths of four training clients."""
    big_base: Base
    """Of `memory_share`."""
    tiny_base: Base
    memory_shape: Shape
    memory_lanes: tuple[str, ...]
    """Of the clients that are weighed."""
    jobs_base: Base
    """Of `jobs_on_one_gpu`."""
    jobs_shape: Shape
    jobs_steps: int
    jobs_most: int
    """No more jobs are started than that."""


FULL: Final = Scale(
    rounds=5,
    crowd_rounds=3,
    train_shapes=(Shape(4, 256), Shape(1, 128)),
    train_steps=(2, 4),
    decode_tokens=32,
    crowd_shape=Shape(1, 128),
    crowd_steps=4,
    crowd_tokens=24,
    learned_tokens=192,
    peak_shape=Shape(4, 256),
    skewed_tokens=(16, 32, 96, 256),
    big_base=LLAMA_1B,
    tiny_base=TINY,
    memory_shape=Shape(1, 64),
    memory_lanes=("training",) * 4 + ("inference",) * 2,
    jobs_base=LLAMA_7B,
    jobs_shape=Shape(2, 512),
    jobs_steps=8,
    jobs_most=64,
)
QUICK: Final = Scale(
    rounds=2,
    crowd_rounds=2,
    train_shapes=(Shape(2, 16), Shape(1, 8)),
    train_steps=(3, 3),
    decode_tokens=8,
    crowd_shape=Shape(1, 16),
    crowd_steps=4,
    crowd_tokens=8,
    learned_tokens=8,
    peak_shape=Shape(2, 16),
    skewed_tokens=(4, 8, 16, 32),
    big_base=SMALL,
    tiny_base=TINY,
    memory_shape=Shape(1, 16),
    memory_lanes=("training", "inference"),
    jobs_base=TINY,
    jobs_shape=Shape(1, 16),
    jobs_steps=3,
    jobs_most=3,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of the command was told, and what it found."""

    model: str
    dtype: str
    device: str
    threads: int
    """Of torch in every process, also in the daemon: all cores unless told otherwise."""
    cut: str
    """Empty: the library's default."""
    capture: bool
    """Whether generating clients have their decode steps captured."""
    quick: bool
    only: tuple[str, ...]
    """Empty: every key."""
    scale: Scale
    seed: int = 0
    """Of the order in which contenders take turns."""
    lent: bool = True
    """Whether clients with lent weights take part."""
    limit_bytes: int | None = None
    """What the jobs of `jobs_on_one_gpu` may hold together. None: as much as the GPU has."""
    environment: dict[str, str]
    """The user's variables that bear on threads and memory, which every process inherits. Of this kind the
    benchmark sets OMP_NUM_THREADS only, and for all alike."""


def worker_environment(given: Mapping[str, str], threads: int) -> dict[str, str]:
    """Returns the environment of every worker and of the daemon."""
    own = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    return {**given, **own, "OMP_NUM_THREADS": str(threads)}


def telling_environment() -> dict[str, str]:
    """Returns the user's variables that bear on threads and memory."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIXES)}
