"""Frozen vectors, such as a norm's weight: both sides have their values, so they are named and never sent.

A client may do to its copy what it likes. So before a vector is named, it is asked whether it is still what the
daemon has, which costs no look at the values as long as nothing was done to it. A copy of a vector, as in a copied
model, is named as well.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

from symbiosis_adapters.trips.widening import widens
from symbiosis_core.specs import Plane, TensorSpec

__all__ = ["FrozenVector", "Known", "Vectors"]


class FrozenVector(nn.Parameter):
    """A small parameter that was fetched, so that the daemon has its values, too.

    It notices when its `data` is taken: no version counts what is done to that.
    """

    lent = False
    vectors: weakref.ref[Vectors] | None = None
    """Of which it is one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenVector:
        if id(self) in memo:
            found: FrozenVector = memo[id(self)]
            return found
        lent = self.lent
        copied: FrozenVector = super().__deepcopy__(memo)  # type: ignore[no-untyped-call]  # torch has not typed it
        self.lent = lent  # its `data` was taken, and only to be copied
        vectors = self.vectors() if self.vectors is not None else None
        if vectors is not None:
            vectors.add_copy(self, copied)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As an ordinary parameter: whoever loads it may have no daemon."""
        return nn.Parameter(self.detach(), self.requires_grad).__reduce_ex__(protocol)

    @property
    def data(self) -> Tensor:
        """The values, as any tensor has them."""
        self.lent = True
        values: Tensor = _DATA.__get__(self)
        return values

    @data.setter
    def data(self, value: Tensor) -> None:
        _DATA.__set__(self, value)


_DATA: Final[Any] = Tensor.data


class Known:
    """What the daemon has under the name of a `FrozenVector`."""

    __slots__ = ("_address", "_values", "_vector", "_version", "name", "plane")

    def __init__(self, vector: Callable[[], FrozenVector | None], name: str, plane: Plane, values: Tensor) -> None:
        """`vector` returns the parameter, as long as it is there; `values` are the daemon's."""
        self._vector = vector
        self.name = name
        self.plane = plane
        self._values = values
        self._version, self._address = -1, 0  # never compared

    @property
    def vector(self) -> FrozenVector | None:
        """The parameter, as long as it is there."""
        return self._vector()

    def still(self) -> bool:
        """Whether the vector is what the daemon has, or that in a wider type, exactly.

        Compares values only where something was done to it.
        """
        vector = self._vector()
        if vector is None:
            return False
        if vector._version == self._version and vector.data_ptr() == self._address and not vector.lent:
            return True
        values = self._values
        if vector.dtype is not values.dtype:
            if not widens(values.dtype, vector.dtype):
                return False
            values = values.to(vector.dtype)
        if not torch.equal(vector.detach(), values.to(vector.device)):
            return False
        self._version, self._address = vector._version, vector.data_ptr()
        return True

    def of(self, copied: FrozenVector) -> Known:
        """Returns the same of a copy, which may hold other values."""
        return Known(weakref.ref(copied), self.name, self.plane, self._values)


class Vectors:
    """The frozen vectors of one model, and those of its copies for as long as they are there.

    torch swaps no parameter that a weak reference is held to, so the model's own are held.
    """

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}
        """By the ids of the parameters."""

    def add(self, parameter: Tensor, spec: TensorSpec) -> None:
        """Makes a parameter that was just fetched a frozen vector, if it can be one."""
        if len(spec.shape) != 1 or not spec.dtype.is_floating or type(parameter) is not nn.Parameter:
            return
        parameter.__class__ = FrozenVector  # in place, for modules hold it already
        assert isinstance(parameter, FrozenVector)
        plane = Plane(spec.shape[0], spec.dtype)
        self._keep(parameter, Known(lambda: parameter, spec.name, plane, parameter.detach().clone()))

    def add_copy(self, vector: FrozenVector, copied: FrozenVector) -> None:
        """Knows a copy of a vector by the vector's name."""
        if (known := self._known.get(id(vector))) is not None:
            self._keep(copied, known.of(copied))
            weakref.finalize(copied, self._known.pop, id(copied), None).atexit = False

    def of(self, parameter: Any) -> Known | None:
        """Returns what the daemon has under the name of a parameter; None if it is none of these vectors."""
        return self._known.get(id(parameter)) if type(parameter) is FrozenVector else None

    def named(self, names: Iterable[str], among: Iterable[Any]) -> list[Known]:
        """Returns what has these names: of each what is `among` these objects, or where nothing is all."""
        given = {id(each) for each in among}
        found = []
        for name in set(names):
            every = [(key, known) for key, known in list(self._known.items()) if known.name == name]
            found += [known for key, known in every if key in given] or [known for _, known in every]
        return found

    def _keep(self, vector: FrozenVector, known: Known) -> None:
        vector.vectors = weakref.ref(self)
        self._known[id(vector)] = known
