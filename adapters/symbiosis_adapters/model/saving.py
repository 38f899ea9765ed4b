"""What `save_pretrained`, and so a checkpoint of Trainer, leaves out: a base that is not lent.

A model with a head of the client's own is saved whole by transformers, the base included. Where the daemon lends,
that works. Where it does not, what is left is what this process owns: the head, and small tensors such as norms. A
checkpoint of these can be resumed from, on the same base, as one of an adapter can. A model of which nothing is
trained has nothing to save without its base, and saving it is refused.

Transformers asks a model for names that are not to be saved; which they are is known only when it asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any

from torch import nn

from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.values import withheld
from symbiosis_core.logs import event, get_logger

__all__ = ["Unsaved", "save_own_only"]

log = get_logger(__name__)


def save_own_only(model: nn.Module) -> None:
    """Has `save_pretrained` leave out weights that cannot be had, where the model trains others."""
    names: Any = getattr(model, "_keys_to_ignore_on_save", None) or ()
    vars(model)["_keys_to_ignore_on_save"] = Unsaved(model, names)


class Unsaved(Set[str]):
    """The names of a model that are not to be saved at this moment.

    Not a `set`: `set(unsaved)` would copy a set's own table, and never ask.
    """

    def __init__(self, model: nn.Module, always: Iterable[str]) -> None:
        self._model = model
        self._always = frozenset(always)
        self._told = False

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        """What `|`, `&` and `-` give: the names of that moment, which belong to no model."""
        return set(it)

    def __deepcopy__(self, memo: dict[int, Any]) -> Unsaved:
        return Unsaved(memo.get(id(self._model), self._model), self._always)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[str]:
        names = self._names()
        if not self._told and len(names) > len(self._always):
            self._told = True
            log.warning(
                event(
                    "the base is not lent, so what is saved is this process's own: load it on the same base "
                    "(Trainer resumes from it), or with strict=False into the base from elsewhere",
                    left_out=len(names),
                )
            )
        return iter(names)

    def _names(self) -> set[str]:
        names = set(self._always)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        if any(parameter.requires_grad for parameter in parameters.values()):
            frozen = {name: each for name, each in parameters.items() if isinstance(each, FrozenWeight)}
            names.update(name for name, each in frozen.items() if withheld(each))
        return names
