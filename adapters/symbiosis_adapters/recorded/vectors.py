"""Frozen vectors, such as a norm's weight: both sides have their values, so they are named and never sent.

A client may do to its copy what it likes. So before a vector is named, it is asked whether it is still what the
daemon has, which costs no look at the values as long as nothing was done to it.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from symbiosis_adapters.trips.widening import widens
from symbiosis_core.specs import Plane, TensorSpec

__all__ = ["FrozenVector", "Known", "know"]


class FrozenVector(nn.Parameter):
    """A small parameter that was fetched, so that the daemon has its values, too.

    It notices when its `data` is taken: no version counts what is done to that.
    """

    lent = False

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

    __slots__ = ("_address", "_values", "_version", "name", "plane", "vector")

    def __init__(self, vector: FrozenVector, spec: TensorSpec) -> None:
        self.vector = vector
        self.name = spec.name
        self.plane = Plane(spec.shape[0], spec.dtype)
        self._values = vector.detach().clone()
        self._version, self._address = vector._version, vector.data_ptr()

    def still(self) -> bool:
        """Whether the vector is what the daemon has, or that in a wider type, exactly.

        Compares values only where something was done to it.
        """
        vector = self.vector
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


def know(parameter: Tensor, spec: TensorSpec) -> Known | None:
    """Makes a parameter that was just fetched a frozen vector; None if it is none."""
    if len(spec.shape) != 1 or not spec.dtype.is_floating or type(parameter) is not nn.Parameter:
        return None
    parameter.__class__ = FrozenVector  # in place, for modules hold it already
    assert isinstance(parameter, FrozenVector)
    return Known(parameter, spec)
