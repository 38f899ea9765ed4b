"""The bases that a daemon holds, and which of them a name means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_core.ids import BaseId
from symbiosis_scheduler.frozen.layers import FrozenLayers

__all__ = ["Base", "Bases"]


class Base(NamedTuple):
    """One base, and its place among them."""

    id: BaseId
    layers: FrozenLayers

    @property
    def name(self) -> str:
        """What addresses call it."""
        return self.layers.spec.name


class Bases:
    """All bases of a daemon. Does not change, so any thread may ask."""

    def __init__(self, layers: Sequence[FrozenLayers], default: str = "") -> None:
        """`default` is the name of the base that is meant where nobody names one; empty: there is none such.

        Raises:
            UsageError: two have the same name.
        """
        self._bases: Final = [Base(BaseId(place), each) for place, each in enumerate(layers)]
        self._default = default if len(layers) > 1 else self._bases[0].name
        for base in self._bases:
            if self.names.count(base.name) > 1:
                raise UsageError(f"two models are called {base.name!r}; give each a name of its own in [[models]]")

    def __repr__(self) -> str:
        return f"<Bases {', '.join(self.names)}>"

    def __iter__(self) -> Iterator[Base]:
        return iter(self._bases)

    def __getitem__(self, id: BaseId) -> Base:
        return self._bases[id]

    @property
    def names(self) -> list[str]:
        """Their names, in the configuration's order."""
        return [base.name for base in self._bases]

    @property
    def default(self) -> str:
        """The name of the base that is meant where nobody names one; empty: there is none such."""
        return self._default

    def find(self, name: str) -> Base:
        """Returns the base of that name; without one the only base, or the one that is marked.

        Raises:
            RefusedError: there is no such base, or several that could be meant.
        """
        for base in self._bases:
            if base.name == (name or self._default):
                return base
        reason = f"there is no model {name!r} here" if name else "the daemon holds several models"
        raise RefusedError(
            RefusalCode.UNKNOWN_MODEL,
            reason,
            f"its models are: {', '.join(self.names)}; name one at the end of the address, as ...#{self.names[0]}",
        )
