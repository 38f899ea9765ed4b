"""Rows computed in this process: the real mathematics, the real catalogue, no daemon.

`Pair` holds a tiny plain model and makes remote models of its catalogue; equality between the two is what the
tests here are about. Every implementation of `Rows` here checks its callers and counts their trips.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import nn
from torch.nn.functional import embedding, linear
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from symbiosis_adapters.model.heads import CAUSAL_LM, Head
from symbiosis_adapters.model.surgery import build
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.lending import BorrowedWeights, Lender
from symbiosis_core.config import LendingConfig
from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import FIRST_BASE, OpId
from symbiosis_core.segments import Segment, SegmentSpec
from symbiosis_core.specs import Direction, DType, Op, OpKind, OpSpec, TensorSpec
from symbiosis_core.wire import Loan
from symbiosis_scheduler.bases import Bases
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.lending import Withheld, place_for
from symbiosis_scheduler.frozen.loading import LoadedModel
from symbiosis_scheduler.programs.program import Program
from symbiosis_scheduler.segments import Segments
from symbiosis_transports.tensors import torch_dtype

LAYERS = 3
VOCABULARY = 96
_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "qwen2": _LLAMA,
    "gemma": {**_LLAMA, "head_dim": 8},
    "gemma3_text": {**_LLAMA, "head_dim": 8, "sliding_window": 8},
    "gpt_oss": {**_LLAMA, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {**_LLAMA, "num_local_experts": 4},
    "gpt2": {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
    | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 32,
        "dropout": 0.0,
    },
    "falcon": {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
}
_SPREAD = 0.1
MIXTURES: dict[str, dict[str, Any]] = {"mixtral": {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}}
"""Their experts are no ops, so most of their weights are local."""


class Trip(NamedTuple):
    """One call of `run`."""

    name: str
    direction: Direction
    rows: int


class CountingRows:
    """Checks what comes, and notes it."""

    calls: ClassVar[int] = 0
    """Of all of them, since the process began."""

    def __init__(self) -> None:
        self.trips: list[Trip] = []

    def run(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        width, dtype = op.row_in(direction)
        assert x_TW.ndim == 2, x_TW.shape
        assert x_TW.shape[0] > 0
        assert x_TW.shape[1] == width
        assert x_TW.dtype is torch_dtype(dtype)
        self._note(Trip(op.name, direction, x_TW.shape[0]))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self.compute(op, direction, x_TW.detach())

    def learn(self, segment: Segment) -> SegmentSpec:
        raise NotImplementedError

    def call(
        self, op: Op, direction: Direction, planes: Sequence[torch.Tensor], memo: int = 0
    ) -> list[torch.Tensor]:
        expected = op.planes_in(direction)
        assert [(plane.shape[1], plane.dtype) for plane in planes] == [
            (width, torch_dtype(dtype)) for width, dtype in expected
        ]
        assert len({plane.shape[0] for plane in planes}) == 1
        self._note(Trip(op.name, direction, planes[0].shape[0]))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            answers = self.compute_segment(op, direction, [plane.detach().clone() for plane in planes])
        with torch.inference_mode(False):
            return [answer.clone() for answer in answers]

    def _note(self, trip: Trip) -> None:
        self.trips.append(trip)
        CountingRows.calls += 1

    def compute(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def compute_segment(self, op: Op, direction: Direction, planes: list[torch.Tensor]) -> list[torch.Tensor]:
        raise NotImplementedError

    @property
    def forward(self) -> list[str]:
        """Names of the ops that were run forward, in order."""
        return [trip.name for trip in self.trips if trip.direction is Direction.FORWARD]

    @property
    def backward(self) -> list[str]:
        """Names of the ops that were run backward, in order."""
        return [trip.name for trip in self.trips if trip.direction is Direction.BACKWARD]


class LocalRows(CountingRows):
    """Computes with the modules of a plain model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def compute(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        weights = [self._weight(member) for member in op.members]
        if op.kind is OpKind.EMBEDDING:
            return embedding(x_TW[:, 0], weights[0])
        if direction is Direction.BACKWARD:
            return x_TW @ torch.cat(weights)
        biases = [self.model.get_submodule(member).bias for member in op.members]
        y_TO = linear(x_TW, torch.cat(weights))
        return y_TO if biases[0] is None else y_TO + torch.cat([torch.as_tensor(bias) for bias in biases])

    def _weight(self, member: str) -> torch.Tensor:
        module = self.model.get_submodule(member)
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        return weight.T if isinstance(module, Conv1D) else weight


class LayerRows(CountingRows):
    """Computes with the daemon's own frozen layers."""

    def __init__(self, layers: FrozenLayers) -> None:
        super().__init__()
        self.layers = layers
        self.bases = Bases([layers])
        self.segments = Segments(self.bases, most=1000)
        self.programs: dict[OpId, Program] = {}
        self._learning = threading.Lock()

    def learn(self, segment: Segment) -> SegmentSpec:
        with self._learning:  # a daemon learns in one thread
            spec, program = self.segments.learn(self.bases[FIRST_BASE], segment)
            if program is not None:
                self.programs[spec.id] = program
        return spec

    def compute_segment(self, op: Op, direction: Direction, planes: list[torch.Tensor]) -> list[torch.Tensor]:
        program = self.programs[op.id]
        inputs = len(program.spec.segment.inputs)
        program.check(planes, self.layers.table_rows)
        if direction is Direction.FORWARD:
            return program.forward(planes)
        return program.backward(planes[:inputs], planes[inputs:])

    def compute(self, op: OpSpec, direction: Direction, x_TW: torch.Tensor) -> torch.Tensor:
        return self.layers.apply(op, direction, x_TW)


class LocalBase:
    """A plain model, and remote ones made of its catalogue, all in this process."""

    def __init__(
        self,
        base: PreTrainedModel,
        dtype: DType,
        name_or_path: str = "someone/tiny",
        allow: Literal["same_user", "nobody"] = "same_user",
    ) -> None:
        self._base = base.eval().requires_grad_(False)
        lent = copy.deepcopy(self._base)
        place = place_for(lent, LendingConfig(allow=allow), torch.device("cpu"))
        layers = FrozenLayers(LoadedModel("tiny", name_or_path, dtype, lent), place)
        self.rows = LayerRows(layers)
        self.spec = layers.spec

    def save(self, folder: Path) -> None:
        """Leaves the plain model in a folder."""
        self._base.save_pretrained(folder)

    def plain(self) -> Any:
        """Returns a plain model with the same weights, as from_pretrained would give it."""
        config = type(self._base.config).from_dict(self._base.config.to_dict())
        config._name_or_path = self.spec.name_or_path
        with torch.random.fork_rng(devices=[]):
            make: Any = type(self._base)._from_config
            model = make(config, dtype=self._base.dtype)
        model.load_state_dict(self._base.state_dict())
        return model.eval()

    def remote(self, cut: Cut = Cut.GRAPH, head: Head = CAUSAL_LM) -> Any:
        """Returns a model whose frozen layers run in `rows`."""
        return build(self.spec, self.rows, self.fetch, cut, Lender(self.borrow), head)

    def borrow(self) -> BorrowedWeights:
        """Returns the weights of `rows`, as another process would get them."""
        lent = self.rows.layers.lent
        if isinstance(lent, Withheld):
            raise RefusedError(RefusalCode.NOT_LENT, lent.reason, lent.remedy)
        loan = Loan("", self.spec.fingerprint, lent.memory.nbytes, lent.tensors)
        return BorrowedWeights(os.dup(lent.memory.fd), loan)

    def fetch(self, tensor: TensorSpec) -> torch.Tensor:
        """Returns a copy of one small tensor."""
        data = bytearray(self.rows.layers.tensor_bytes(tensor.name))
        return torch.frombuffer(data, dtype=torch_dtype(tensor.dtype)).view(tensor.shape)


def spread_vectors(model: nn.Module) -> None:
    """Adds random numbers to biases and norms, which begin as zeros and ones: an error in them is to be seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=_SPREAD)


class Pair(LocalBase):
    """A tiny random model of an architecture, and remote ones made of its catalogue."""

    def __init__(
        self,
        architecture: str,
        dtype: DType = DType.FLOAT32,
        allow: Literal["same_user", "nobody"] = "same_user",
        shape: Mapping[str, Any] | None = None,
    ) -> None:
        config = AutoConfig.for_model(
            architecture,
            **({**CONFIGS, **MIXTURES}[architecture] if shape is None else shape),
            vocab_size=VOCABULARY,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            base = AutoModelForCausalLM.from_config(config, dtype=torch_dtype(dtype))
            spread_vectors(base)
        super().__init__(base, dtype, allow=allow)
