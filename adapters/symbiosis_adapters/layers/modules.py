"""Remote layers: what PEFT takes for nn.Linear, Conv1D and nn.Embedding, without their weights.

In a state dict a remote layer appears with placeholders, except under a tuner layer: PEFT saves the base of a
targeted embedding beside the adapter, so there stand the lent values; where nothing is lent, the adapter goes
without. Loading compares what it is given with what the daemon answers, and reports a difference as an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from symbiosis_adapters.captured.operation import OPERATION
from symbiosis_adapters.deferred.tensor import value_of
from symbiosis_adapters.layers.trained import Body
from symbiosis_adapters.trips.narrowing import computed_narrow
from symbiosis_adapters.trips.remote import FrozenLinear, FrozenTable
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.probing import PROBES, agree, probe_rows
from symbiosis_adapters.weights.refusals import TIE
from symbiosis_adapters.weights.takes import Takes
from symbiosis_adapters.weights.taking import lent_copy, take
from symbiosis_core.specs import OpKind

__all__ = ["RemoteConv1D", "RemoteEmbedding", "RemoteLayer", "RemoteLinear", "form"]

_COPIES: Final = (".modules_to_save.", ".ln_tuning_layers.")
"""Where in a path PEFT keeps copies of the base's layers that it has made to be changed."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _eagerly(layer: RemoteLayer, x: torch.Tensor) -> torch.Tensor:
    layer.begin()
    return value_of(RemoteLayer.forward(layer, x))  # what torch has compiled goes around __torch_function__


class RemoteLayer(nn.Module):
    """What the remote layers have in common. `remote` computes the frozen op."""

    remote: Callable[[torch.Tensor], torch.Tensor]
    remote_path: str
    """The module path in the base model."""
    labels: dict[str, str]
    """Of its placeholders, by the parameter's name here: which of the daemon's weights the op computes with."""
    weight: torch.Tensor
    body: Body | None = None
    """All layers of its model, where ops may be deferred."""
    captured: tuple[int, int, torch.dtype] | None = None
    """The number of the layer in captured graphs, and the width and type of what comes out; see `capture`."""

    @property
    def taken(self) -> bool:
        """Whether somebody has taken a weight of the layer: it may hold anything now, so it is computed here."""
        if "parametrizations" in self._modules:  # PEFT's target_parameters: the weight is a function of the base's
            return True
        for parameter in self._parameters.values():
            if type(parameter) is not FrozenWeight and parameter is not None:
                return True
        return False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Makes the trip, unless the weight was taken. torch.compile breaks the graph here, or captures a node."""
        if torch.compiler.is_dynamo_compiling():  # asking is much cheaper than `disable` around every call
            captured = self.captured
            output: torch.Tensor = OPERATION(input, *captured) if captured is not None else _eagerly(self, input)
            return output
        if self.taken:
            here: torch.Tensor = super().forward(input)
            return here
        held, remote = self.held, self.remote
        if self.body is not None and self.body.is_trained:
            input, remote = value_of(input), self._alone
        return remote(input) if held is None else computed_narrow(remote, input, held)

    @property
    def held(self) -> torch.dtype | None:
        """The daemon's type, where the client asked for a wider one; else None."""
        return getattr(self._parameters["weight"], "held", None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has not typed it
        if self.body is not None:
            self.body.join(self)

    def begin(self) -> None:
        """Notes that the layer is about to be called."""

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Registers a parameter. Another layer's placeholder is taken first, for no op of the daemon has it here.

        So a head can be tied to a table that the daemon has not tied it to; both are computed here then.

        Raises:
            UsageError: the daemon does not lend.
        """
        if isinstance(param, FrozenWeight) and param.label != self.labels.get(name):
            take(param, f"tying {self.remote_path} to it", TIE)
        super().register_parameter(name, param)

    def extra_repr(self) -> str:
        return ", ".join(part for part in (super().extra_repr(), f"remote={self.remote_path}") if part)

    def probe(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what the daemon computes on a few rows, and what `weight` would, both without the bias."""
        x_TD = probe_rows(weight.shape[1], self._dtype, weight.device)
        y_TO = self._alone(x_TD)
        if self._parameters.get("bias") is not None:
            y_TO = y_TO - self._bias().to(y_TO.device)
        return y_TO, x_TD.to(weight.dtype) @ weight.T

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if keep_vars or not prefix.endswith("base_layer."):
            return
        for leaf, parameter in self._parameters.items():
            if type(parameter) is FrozenWeight:
                if (values := lent_copy(parameter)) is not None:
                    destination[prefix + leaf] = values
                else:
                    destination.pop(prefix + leaf, None)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if any(part in f".{prefix}" for part in _COPIES):
            for leaf, mine in self._parameters.items():
                given = state_dict.get(prefix + leaf)
                if type(mine) is FrozenWeight and given is not None and not isinstance(given, FrozenWeight):
                    take(mine, "loading values of its own")
        elif (bias := self._parameters.get("bias")) is not None and self._trained_elsewhere(prefix, state_dict):
            take(cast("FrozenWeight", bias), "loading a bias that an adapter has trained")
        frozen = {leaf: mine for leaf, mine in self._parameters.items() if type(mine) is FrozenWeight}
        own = {prefix + leaf for leaf in frozen}
        rest = {key: value for key, value in state_dict.items() if key not in own}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing_keys[:] = [key for key in missing_keys if key not in own]
        for leaf, mine in frozen.items():
            given = state_dict.get(prefix + leaf)
            if given is None or isinstance(given, FrozenWeight):
                continue
            if given.shape != mine.shape or not self._holds(leaf, given):
                error_msgs.append(f"{prefix}{leaf} differs from the daemon's, which cannot be changed from here")

    def _trained_elsewhere(self, prefix: str, state_dict: dict[str, Any]) -> bool:
        """Whether a bias comes without its weight, as in an adapter with `bias="all"`, and is another one."""
        given, mine = state_dict.get(f"{prefix}bias"), self._parameters.get("bias")
        if given is None or f"{prefix}weight" in state_dict or type(mine) is not FrozenWeight:
            return False
        if isinstance(given, FrozenWeight) or given.shape != mine.shape:
            return False
        return not self._holds("bias", given)

    def _holds(self, leaf: str, given: torch.Tensor) -> bool:
        """Whether the daemon computes with these values, within the rounding of its dtype."""
        with torch.no_grad():
            here, there = self.probe(given) if leaf == "weight" else (self._bias(), given)
        return agree(here, there)

    def _bias(self) -> torch.Tensor:
        """The bias of a linear: what it makes of a row of zeros."""
        width_in = (form(self) or (None, 0, 0))[1]
        return self._alone(self.weight.new_zeros(1, width_in, dtype=self._dtype))[0]

    @property
    def _dtype(self) -> torch.dtype:
        return self.held or self.weight.dtype

    @property
    def _alone(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The op at once: without its siblings, who would take a probe for a forward, and not as a segment."""
        alone: Callable[[torch.Tensor], torch.Tensor] = getattr(self.remote, "single", self.remote)
        return type(alone)(alone.rows, alone.spec) if isinstance(alone, FrozenLinear | FrozenTable) else alone


class RemoteLinear(RemoteLayer, nn.Linear):
    """An nn.Linear whose weight and bias are in the daemon."""


class RemoteConv1D(RemoteLayer, Conv1D):  # type: ignore[misc]  # Conv1D calls its weight an nn.Parameter
    """A transformers Conv1D (GPT-2) whose weight, width in x width out, and bias are in the daemon."""

    def probe(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().probe(weight.T)


class RemoteEmbedding(RemoteLayer, nn.Embedding):
    """An nn.Embedding whose table is in the daemon. Token ids cross the border, and a forward begins."""

    trips_before: dict[str, int] | None = None
    """How often each trip of the graph cut had been made when the latest forward began; for `explain`."""
    takes: Takes | None = None
    """What was taken of the model; said where a forward begins."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_dynamo_compiling():  # else `begin` is called where the graph breaks
            self.begin()
        return super().forward(input)

    def begin(self) -> None:
        if self.takes is not None:
            self.takes.tell()
        deferral = getattr(self.remote, "deferral", None)
        if deferral is not None:
            self.trips_before = dict(deferral.trips.made)

    def probe(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.linspace(0, weight.shape[0] - 1, PROBES, device=weight.device).long()
        return self._alone(ids), weight[ids]


def form(layer: nn.Module) -> tuple[OpKind, int, int] | None:
    """Returns the kind and the row widths, in and out, of the op that a layer can become; else None."""
    if isinstance(layer, nn.Linear):
        return OpKind.LINEAR, layer.in_features, layer.out_features
    if isinstance(layer, Conv1D):
        return OpKind.LINEAR, layer.nx, layer.nf
    if isinstance(layer, nn.Embedding):
        return OpKind.EMBEDDING, 1, layer.embedding_dim
    return None
