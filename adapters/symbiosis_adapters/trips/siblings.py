"""The siblings cut: linears that read the same tensor (q, k, v) share one trip.

The first member that is called with a tensor makes the trip for all and keeps the others' outputs until they ask
with that very tensor: the same object, not modified since (`_version`), in the same mode (gradient recorded or
not, inference mode, autocast dtype). Anything else (an adapter that changes one member's input, a member called
twice) takes the member's own op, which is always right. In inference mode tensors have no version, so there the
values are compared with a copy.

Nothing is kept for longer than its tensor: the kept outputs hang on a weak reference to it and go when it goes, or
when the next tensor comes, or when the last member has taken its own. A leaf that requires a gradient shares
nothing, for there the outputs' graph would itself keep the tensor alive.

A group whose outputs go to waste `MAX_WASTED` times in a row is demoted to the linear cut for good, with a reason
for `explain()`. Used by several threads at once, a group stays right and shares less.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from symbiosis_adapters.deferred.tensor import Deferred, changes_of, unmodified, value_of
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenSiblings

__all__ = ["MAX_WASTED", "Sibling", "SiblingGroup"]

MAX_WASTED = 4
"""Trips in a row whose outputs nobody asked for. More than one, for a recomputation in gradient checkpointing may
stop early, and an exception may end a forward between two members; few, for each is paid with computing time."""

_Mode = tuple[bool, bool, torch.dtype | None]


class _Kept(weakref.ref[torch.Tensor]):
    """Outputs of one trip that wait for their members; the weak reference is to the trip's input."""

    __slots__ = ("copy", "mode", "outputs", "pending", "version")

    outputs: list[torch.Tensor | None]
    pending: set[int]
    """Members that have not asked. Outlives the outputs, to tell waste from use."""
    mode: _Mode
    version: int
    copy: torch.Tensor | None
    """In inference mode, the input's values."""

    def unchanged(self, x: torch.Tensor, mode: _Mode) -> bool:
        """Whether the outputs are what `x`, the trip's input, would give now."""
        if mode != self.mode:
            return False
        if type(x) is Deferred:
            return unmodified(x) and changes_of(x) == self.version
        if self.copy is not None:
            return torch.equal(x, self.copy)
        return not x.is_inference() and x._version == self.version

    def take(self, index: int) -> torch.Tensor | None:
        """Hands the output over; None if it was taken before."""
        output, self.outputs[index] = self.outputs[index], None
        self.pending.discard(index)
        return output


def _forget(kept: weakref.ref[torch.Tensor]) -> None:
    assert isinstance(kept, _Kept)
    kept.outputs, kept.copy = [], None


class SiblingGroup:
    """The members of one sibling op. Call `member(i)` to get what computes the i-th."""

    def __init__(self, fused: FrozenSiblings) -> None:
        self.fused = fused
        self.reason: str | None = None
        """Why the group was demoted to the linear cut; None while it shares trips."""
        self._kept: _Kept | None = None
        self._wasted = 0

    def member(self, index: int) -> Sibling:
        """Returns the callable that stands for one member."""
        return Sibling(self, index)

    def call(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """Returns the output of one member for `x`."""
        single = self.fused.singles[index]
        if self.reason is not None:
            return _tensor(single(x))
        kept, mode = self._kept, _mode(x)
        if mode[2] is not None:  # autocast: nothing is deferred
            x = value_of(x)
        if kept is not None and (alive := kept()) is not None:
            if alive is x:
                output = kept.take(index) if kept.unchanged(x, mode) else None
                if not kept.pending:
                    self._kept = None
                return _tensor(single(x)) if output is None else output
            if index in kept.pending:  # this member reads another tensor than its siblings
                return _tensor(single(x))
        self._settle(kept)
        if self.reason is not None or (mode[0] and type(x) is not Deferred and x.is_leaf):
            return _tensor(single(x))
        return self._share(index, x, mode)

    def _share(self, index: int, x: torch.Tensor, mode: _Mode) -> torch.Tensor:
        outputs = self.fused(x)
        kept = _Kept(x, _forget)
        kept.outputs, kept.pending, kept.mode = list(outputs), set(range(len(outputs))), mode
        if type(x) is Deferred:
            kept.version, kept.copy = changes_of(x), None
        else:
            kept.version, kept.copy = (-1, x.clone()) if x.is_inference() else (x._version, None)
        self._kept = kept
        return _tensor(kept.take(index))

    def _settle(self, kept: _Kept | None) -> None:
        """Draws the balance of the trip before."""
        self._kept = None
        if kept is None or not kept.pending:
            self._wasted = 0
            return
        self._wasted += 1
        if self._wasted >= MAX_WASTED:
            leaves = [self.fused.spec.members[index].rpartition(".")[2] for index in sorted(kept.pending)]
            self.reason = (
                f"{self.fused.spec.name}: {' and '.join(leaves)} did not read the same tensor as the others in "
                f"{self._wasted} trips in a row, so each member makes its own"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> SiblingGroup:
        copied = SiblingGroup(self.fused)
        copied.reason = self.reason
        return copied


class Sibling:
    """One member of a group, called like a `FrozenLinear`."""

    __slots__ = ("group", "index")

    def __init__(self, group: SiblingGroup, index: int) -> None:
        self.group = group
        self.index = index

    @property
    def single(self) -> FrozenLinear:
        """The member's own op."""
        return self.group.fused.singles[self.index]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.call(self.index, x)


def _mode(x: torch.Tensor) -> _Mode:
    if type(x) is Deferred:
        x = x if (value := x._value) is None else value
    device = "cpu" if x.is_cpu else x.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return torch.is_grad_enabled() and x.requires_grad, torch.is_inference_mode_enabled(), autocast


def _tensor(output: Any) -> torch.Tensor:
    assert isinstance(output, torch.Tensor)
    return output
