"""The cells of one family, one after the other, in a process of its own that may die of any of them."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
import transformers
from transformers import AutoModelForCausalLM as Plain

from symbiosis_adapters.auto import AutoModelForCausalLM as Remote
from symbiosis_bench.compat.cell import Cell, Outcome
from symbiosis_bench.compat.comparison import compare, unsteady
from symbiosis_bench.compat.forks import Say
from symbiosis_bench.compat.methods import METHODS, Method
from symbiosis_bench.compat.observation import NEEDED, Observation, Trips, observe

__all__ = ["Wanted", "cell_of", "try_cells"]

Wanted = tuple[str, str]
"""A method and a cut."""
_DRAWS: Final = 6
"""How often plain PEFT is run on changed weights where a number fails: what jumps does not jump each time."""


def try_cells(family: str, folder: Path, address: str, wanted: Sequence[Wanted], say: Say) -> None:
    """Says a `Cell` as JSON for everything in `wanted`, in order. Equal methods stand together."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    plain: Any = Plain.from_pretrained(folder, dtype=torch.float32).eval()
    expected: tuple[str, Method, Observation] | None = None
    for name, cut in wanted:
        began_s = time.monotonic()
        files = folder / "methods" / name
        if expected is None or expected[0] != name:
            files.mkdir(parents=True, exist_ok=True)
            expected = name, *_expected(plain, METHODS[name], files)
        _, method, seen = expected
        found = _remote(address, cut, plain, method, files) if _does(seen) else None
        cell = compare(family, name, cut, seen, found)
        wrong = next((step for step, said in cell.steps.items() if said is Outcome.FAIL), None)
        if found is not None and wrong in found.values:
            shaken = (observe(_shaken(plain, draw), plain, method, files) for draw in range(_DRAWS))
            cell = unsteady(cell, seen, shaken)
        took_s = round(time.monotonic() - began_s, 2)
        say(msgspec.json.encode(msgspec.structs.replace(cell, also=method.also, seconds=took_s)))


def _expected(plain: Any, method: Method, files: Path) -> tuple[Method, Observation]:
    """Returns what plain PEFT does, and the method as it does it: named more exactly where it fails otherwise."""
    seen = observe(copy.deepcopy(plain), plain, method, files)
    if method.otherwise and not _does(seen):
        exact = method._replace(also=method.otherwise)
        again = observe(copy.deepcopy(plain), plain, exact, files)
        if _does(again):
            return exact, again
    return method, seen


def _does(seen: Observation) -> bool:
    return not set(NEEDED) & set(seen.errors)


def _shaken(plain: Any, number: int) -> Any:
    """Returns a copy of the model with every weight changed by about what float32 rounds off; others each time."""
    copied = copy.deepcopy(plain)
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in copied.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=draw) * 2 - 1
            parameter.mul_(1 + sign * torch.finfo(parameter.dtype).eps)
    return copied


def _remote(address: str, cut: str, plain: Any, method: Method, files: Path) -> Observation:
    model = Remote.from_pretrained(address, cut=cut)
    handle = model.symbiosis

    def trips(_: Any) -> Trips:
        told = handle.explain()
        blocks = [len(block.trips) for block in told.blocks if block.path]
        return Trips(str(told.cut), round(sum(blocks) / len(blocks), 1) if blocks else 0.0)

    try:
        return observe(model, plain, method, files, trips)
    finally:
        handle.close()


def cell_of(line: bytes) -> Cell:
    """Returns what `try_cells` said."""
    return msgspec.json.decode(line, type=Cell)
