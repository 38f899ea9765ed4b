"""Watches one forward of a model, to learn what no type tells: who is called with what.

The question is put to the model itself: for the time of one forward over four tokens every op's module is a
*witness* that notes its input and answers zeros. No weight is read and nothing is multiplied, so the probe of a
large model costs as little as that of a small one. The witness of an embedding stands where the client's remote
layer will stand, between a subclass and `nn.Embedding`, so the probe is also a rehearsal of the client.

Why not a copy on the meta device: there, a forward fails as soon as it asks for a value (Bart's mask) or for a
kernel that knows no meta form (the experts of Mixtral and Phi-MoE in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from symbiosis_scheduler.frozen.quantised import row_dtype
from symbiosis_scheduler.frozen.stacks import matrix_by_matrix

__all__ = ["Sightings", "watch"]

_TOKENS = 4


@dataclass(slots=True)
class Sightings:
    """What one forward showed."""

    runs: list[list[str]] = field(default_factory=list)
    """Linears in call order; those called in succession on the very same tensor object stand in one run."""
    reached: set[str] = field(default_factory=set)
    """Embeddings whose lookup, `nn.Embedding.forward`, was called."""
    token_fed: set[str] = field(default_factory=set)
    """Embeddings that looked up the input ids, or a view of them."""
    values_read: set[str] = field(default_factory=set)
    """Modules whose weight or bias was used by other code than their own forward."""
    stacks: dict[str, bool] = field(default_factory=dict)
    """Parameters of three dimensions that are used matrix by matrix: whether as x @ W, and not linear(x, W)."""
    failure: str = ""
    """Why the forward ended early. Empty: it did not, so what was not seen does not happen."""


def watch(
    model: PreTrainedModel, linears: Mapping[str, nn.Module], embeddings: Mapping[str, nn.Embedding]
) -> Sightings:
    """Returns what a forward of `model` shows. The model is in eval mode, and unchanged afterwards."""
    seen = Sightings()
    ids = torch.arange(_TOKENS, device=model.device)[None]
    last: list[Tensor] = []  # holds the tensor, so that its identity cannot be used again
    with ExitStack() as stack:
        for name, module in linears.items():
            stack.enter_context(_linear_witness(module, _note_call(seen, last, name)))
        for name, embedding in embeddings.items():
            stack.enter_context(_embedding_witness(embedding, _note_lookup(seen, ids, name)))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_ValueReads(seen.values_read, [*linears.items(), *embeddings.items()]))
        matrices = stack.enter_context(matrix_by_matrix(model))
        try:
            model(input_ids=ids, use_cache=False)
        except Exception as error:  # noqa: BLE001  a model's code may raise anything; the daemon does without
            seen.failure = f"{type(error).__name__}: {error}"
        else:
            seen.stacks = matrices.agreed()
    return seen


def _note_call(seen: Sightings, last: list[Tensor], name: str) -> Callable[[Tensor], None]:
    def note(x: Tensor) -> None:
        if last and last[0] is x:
            seen.runs[-1].append(name)
        else:
            seen.runs.append([name])
            last[:] = [x]

    return note


def _note_lookup(seen: Sightings, ids: Tensor, name: str) -> Callable[[Tensor], None]:
    def note(looked_up: Tensor) -> None:
        seen.reached.add(name)
        # Models reshape the ids before the lookup; a view shares their storage.
        if looked_up.untyped_storage().data_ptr() == ids.untyped_storage().data_ptr():
            seen.token_fed.add(name)

    return note


@contextmanager
def _linear_witness(module: nn.Module, note: Callable[[Tensor], None]) -> Iterator[None]:
    weight = module.weight
    assert isinstance(weight, Tensor)
    width_out, dtype = module.out_features if isinstance(module, nn.Linear) else weight.shape[1], row_dtype(weight)

    def forward(x: Tensor) -> Tensor:
        note(x)
        return x.new_zeros((*x.shape[:-1], width_out), dtype=dtype)

    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]


@contextmanager
def _embedding_witness(module: nn.Embedding, note: Callable[[Tensor], None]) -> Iterator[None]:
    class Witness(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            note(input)
            return input.new_zeros((*input.shape, self.embedding_dim), dtype=self.weight.dtype)

    kind = type(module)
    # After the subclass, before nn.Embedding: `super().forward(ids)` in the subclass reaches the witness.
    module.__class__ = Witness if kind is nn.Embedding else type("Witness", (kind, Witness), {})
    try:
        yield
    finally:
        module.__class__ = kind


class _ValueReads(TorchFunctionMode):
    """Notes which modules' weights go into a function that makes a tensor; `weight.dtype` reads no value."""

    def __init__(self, found: set[str], modules: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self._found = found
        self._owners: dict[int, list[str]] = {}
        for name, module in modules:
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(id(parameter), []).append(name)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for leaf in tree_leaves((args, kwargs)):
                self._found.update(self._owners.get(id(leaf), ()))
        return result
