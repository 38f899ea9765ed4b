"""Says how far the gradients of cells that fail are from plain PEFT in float64, and how far plain PEFT itself is.

    python -m tests.compat.against_float64 [--cells docs/compat.json] [--methods randlora,glora]

A cell fails where two computations in float32 differ; neither is the measure of the other. Here both are measured
by a third: the adapted plain model, copied with all that it has drawn, in float64. See "What magnifies" in
docs/compat.md.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModelForCausalLM as Plain

from symbiosis_adapters.auto import AutoModelForCausalLM as Remote
from symbiosis_bench.compat.adapting import adapt, beside
from symbiosis_bench.compat.base import READY, lend
from symbiosis_bench.compat.batches import batch
from symbiosis_bench.compat.cell import Outcome, Step
from symbiosis_bench.compat.comparison import gradients_off
from symbiosis_bench.compat.families import shape_of
from symbiosis_bench.compat.forks import Fork
from symbiosis_bench.compat.methods import METHODS, Method
from symbiosis_bench.compat.report import from_json

CUTS = ("graph", "siblings")
_START_S = 120.0

Gradients = dict[str, torch.Tensor]


class Off(NamedTuple):
    """How far from float64 the worst gradient is, on the scale of the table's tolerance."""

    plain: float
    remote: tuple[float, ...]
    """By cut."""

    def __str__(self) -> str:
        cuts = ", ".join(f"{cut} {off:.0e}" for cut, off in zip(CUTS, self.remote, strict=True))
        return f"plain {self.plain:.0e}, {cuts}; at most {max(self.remote) / self.plain:.1f} of plain"


def gradients(model: Any, method: Method) -> Gradients:
    """Returns those of the table's step."""
    model.train()
    torch.manual_seed(5)
    model(**batch(), **beside(method)).loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


def measure(plain: Any, address: str, method: Method, files: Path) -> Off:
    """Returns how far both sides are.

    Raises:
        ValueError, RuntimeError: the model computes nothing, or other things, in float64.
    """
    adapted = adapt(copy.deepcopy(plain), method, files)
    exact = gradients(copy.deepcopy(adapted).double(), method)

    def worst(found: Gradients) -> float:
        return max(gradients_off(exact, found).values())

    remote = []
    for cut in CUTS:
        model = Remote.from_pretrained(address, cut=cut)
        try:
            remote.append(worst(gradients(adapt(model, method, files), method)))
        finally:
            model.symbiosis.close()
    off = Off(worst(gradients(adapted, method)), tuple(remote))
    if not max(off.plain, *off.remote) < 0.1:
        raise ValueError("it computes something else in float64")
    return off


def family(name: str, methods: Iterable[Method], folder: Path) -> Iterable[str]:
    """Yields a line for each of the methods."""
    base, address = folder / "base", f"ipc://{folder}/s"
    with Fork(partial(lend, name, shape_of(name), base, address), folder / "log") as daemon:
        said = daemon.hear(_START_S)
        if said != READY:
            raise RuntimeError(f"{name} is not served: {said!r}")
        plain: Any = Plain.from_pretrained(base, dtype=torch.float32).eval()
        for number, method in enumerate(methods):
            files = folder / str(number)
            files.mkdir()
            try:
                yield str(measure(plain, address, method, files))
            except (ValueError, RuntimeError) as error:
                yield f"not to be had: {error}".partition("\n")[0]


def failing(cells: Path, picked: Sequence[str]) -> dict[str, list[str]]:
    """Returns the methods, by family, of cells whose gradients differ. LoRA-GA decomposes them while it adapts."""
    found: dict[str, list[str]] = {}
    for cell in from_json(cells.read_bytes()).cells:
        if cell.outcome is not Outcome.FAIL or cell.steps.get(Step.GRADIENTS) is not Outcome.FAIL:
            continue
        methods = found.setdefault(cell.family, [])
        if cell.method not in methods and cell.method != "lora-ga" and (not picked or cell.method in picked):
            methods.append(cell.method)
    return found


def main() -> int:
    """Prints a line for every family and method that has a cell which fails."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--cells", type=Path, default=Path("docs/compat.json"))
    ask.add_argument("--methods", default="")
    asked = ask.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a process without OpenMP's threads may fork
    transformers.logging.set_verbosity_error()
    for name, methods in failing(asked.cells, [each for each in asked.methods.split(",") if each]).items():
        with tempfile.TemporaryDirectory(prefix="sy-") as folder:
            lines = family(name, [METHODS[method] for method in methods], Path(folder))
            for method, line in zip(methods, lines, strict=True):
                sys.stdout.write(f"{name} {method}: {line}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
