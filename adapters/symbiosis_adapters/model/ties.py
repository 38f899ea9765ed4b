"""Takes apart what a model's class ties and the daemon's model does not.

A class ties its output layer to its table because the config says so. But where a checkpoint has values of its own
for each, transformers ties nothing, and leaves the config as it is. Who has loaded the checkpoint knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

__all__ = ["share_vectors", "untie"]


def untie(
    model: nn.Module, names: Iterable[str], ties: Sequence[Sequence[str]], here: Callable[[str], str | None]
) -> None:
    """Gives every parameter that is shared in `model`, and not in the daemon, an object for each of the daemon's.

    `names` are the daemon's, of parameters; `ties` those of one and the same; `here` tells the name in `model`.
    """
    first_name = {name: group[0] for group in ties for name in group}
    mine = dict(model.named_parameters(remove_duplicate=False))
    owner_of: dict[int, str] = {}
    apart: dict[str, nn.Parameter] = {}
    for name in names:
        path = here(name)
        shared = None if path is None else mine.get(path)
        if path is None or shared is None:
            continue
        owner = first_name.get(name, name)
        if owner_of.setdefault(id(shared), owner) == owner:
            continue
        if owner not in apart:
            apart[owner] = nn.Parameter(torch.empty_like(shared), requires_grad=shared.requires_grad)
        module, _, leaf = path.rpartition(".")
        model.get_submodule(module)._parameters[leaf] = apart[owner]
        getattr(model, "all_tied_weights_keys", {}).pop(path, None)  # as transformers does after such a checkpoint


def share_vectors(model: nn.Module, placed: Mapping[int, torch.Tensor]) -> None:
    """Gives a vector that is tied to a layer's bias what stands for that now, by the ids of former parameters.

    BERT's head keeps its bias so. A table that is tied to a layer is read where it is, so it stays apart.
    """
    for module in model.modules():
        for leaf, old in module._parameters.items():
            if old is not None and old.ndim == 1 and id(old) in placed:
                module._parameters[leaf] = placed[id(old)]  # type: ignore[assignment]  # it passes for a parameter
