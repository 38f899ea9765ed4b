"""A quantised base computes, bit for bit, what torchao or bitsandbytes do with it, and says what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from symbiosis_core.config import LendingConfig
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import Direction, DType, OpKind
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.lending import Withheld, place_for
from symbiosis_scheduler.frozen.loading import load
from symbiosis_scheduler.frozen.packing import Packing
from symbiosis_scheduler.frozen.quantised import BITS, pieces
from symbiosis_transports.tensors import torch_dtype
from tests.quantisers import config_of, local_model, quantize
from tests.scheduler.tiny_models import tiny

__all__ = ["quantize"]  # a fixture


def saved(folder: Path, architecture: str = "qwen2", **changes: Any) -> str:
    """Qwen2 has biases on q, k and v, which are siblings."""
    tiny(architecture, **changes).save_pretrained(folder)
    return str(folder)


def local(path: str, quantize: str, dtype: DType = DType.FLOAT32) -> Any:
    return local_model(path, quantize, torch_dtype(dtype))


def held(path: str, quantize: str, dtype: DType = DType.FLOAT32) -> tuple[FrozenLayers, Any]:
    loaded = load(path, dtype, quantize=quantize)
    place = place_for(loaded.model, LendingConfig(), torch.device("cpu"))
    return FrozenLayers(loaded, place), loaded.model


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16], ids=lambda dtype: dtype.name.lower())
def test_every_linear_gives_the_librarys_bits_there_and_back(tmp_path: Path, quantize: str, dtype: DType) -> None:
    path = saved(tmp_path / "m")
    layers, _ = held(path, quantize, dtype)
    layers.pack_with(Packing(1 << 30))
    modules = dict(local(path, quantize, dtype).named_modules())
    linears = [op for op in layers.spec.ops if op.kind is OpKind.LINEAR]
    assert any(len(op.members) == 3 for op in linears) and any(len(op.members) == 2 for op in linears)
    for op in linears:
        x_RD = torch.randn(5, op.width_in).to(torch_dtype(dtype)).requires_grad_()
        expected = torch.cat([modules[member](x_RD) for member in op.members], dim=1)
        assert torch.equal(layers.apply(op, Direction.FORWARD, x_RD), expected), op.name
        dy_RO = torch.randn(5, op.width_out).to(torch_dtype(dtype))
        [dx_RD] = torch.autograd.grad(expected, x_RD, dy_RO)
        got = layers.apply(op, Direction.BACKWARD, dy_RO)
        torch.testing.assert_close(got, dx_RD, rtol=0.02 if dtype is DType.BFLOAT16 else 1e-5, atol=1e-2)
        if len(op.members) == 1:
            assert torch.equal(got, dx_RD), op.name


def test_the_base_takes_less_than_bfloat16_and_its_model_stays_usable(tmp_path: Path, quantize: str) -> None:
    path, ids = saved(tmp_path / "m", hidden_size=128, intermediate_size=256), torch.tensor([[1, 2, 3]])
    layers, model = held(path, quantize)
    assert layers.quantized == quantize
    assert layers.spec.base_bytes < FrozenLayers(load(path, DType.BFLOAT16)).spec.base_bytes
    with torch.no_grad():
        assert torch.equal(model(ids).logits, local(path, quantize)(ids).logits)


def test_nothing_that_is_computed_with_stays_in_the_checkpoint(tmp_path: Path, quantize: str) -> None:
    """A file that is written over while the daemon lives would change answers, and one cut short end it."""
    _, model = held(saved(tmp_path / "m"), quantize)
    spans = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(tmp_path) in line
    ]
    parts = [part for tensor in model.parameters() for part in pieces(tensor)]
    assert not [part.shape for part in parts for start, stop in spans if start <= part.data_ptr() < stop]


def test_what_a_weight_is_made_of_is_there_once_and_siblings_share_it(tmp_path: Path, quantize: str) -> None:
    layers, model = held(saved(tmp_path / "m", "llama"), quantize)
    lent = [op for op in layers.spec.ops if op.kind is OpKind.LINEAR and op.members != ("lm_head",)]
    for op in lent:
        if len(op.members) == 1:
            for piece in pieces(model.get_submodule(op.members[0]).weight):
                piece.zero_()
    for op in lent:
        assert not layers.apply(op, Direction.FORWARD, torch.ones(1, op.width_in)).any(), op.name


def test_a_client_sees_the_element_type_of_rows_and_nothing_of_the_bits(tmp_path: Path, quantize: str) -> None:
    layers, _ = held(saved(tmp_path / "m"), quantize, DType.BFLOAT16)
    assert layers.spec.dtype is DType.BFLOAT16
    assert {op.dtype for op in layers.spec.ops} == {DType.BFLOAT16}
    assert "quantization" not in layers.spec.config_json


def test_the_fingerprint_is_that_of_the_bits(tmp_path: Path, quantize: str) -> None:
    path = saved(tmp_path / "m")
    prints = [held(path, quantize)[0].spec.fingerprint for _ in range(2)]
    assert prints[0] == prints[1] != FrozenLayers(load(path, DType.FLOAT32)).spec.fingerprint


def test_a_checkpoint_that_was_saved_quantised_is_the_same_base(tmp_path: Path, quantize: str) -> None:
    path = saved(tmp_path / "m")
    local(path, quantize).save_pretrained(tmp_path / "q")
    again, fresh = FrozenLayers(load(str(tmp_path / "q"), DType.FLOAT32)), held(path, quantize)[0]
    assert again.quantized == quantize
    assert again.spec.base_bytes == fresh.spec.base_bytes
    for op in (op for op in fresh.spec.ops if op.kind is OpKind.LINEAR):
        x_RD = torch.randn(3, op.width_in)
        assert torch.equal(again.apply(op, Direction.FORWARD, x_RD), fresh.apply(op, Direction.FORWARD, x_RD)), (
            op.name
        )


def test_its_weights_are_not_lent_and_the_reason_says_why(tmp_path: Path, quantize: str) -> None:
    layers, _ = held(saved(tmp_path / "m"), quantize)
    assert isinstance(layers.lent, Withheld)
    assert BITS[quantize] in layers.lent.reason and "quantize" in layers.lent.remedy


@pytest.mark.parametrize("quantize", ["int8"], indirect=True)
def test_eight_bits_stay_on_the_cpu(tmp_path: Path, quantize: str) -> None:
    with pytest.raises(UsageError, match="held on the CPU only"):
        held(saved(tmp_path / "m"), quantize)[0].move_to(torch.device("meta"))


@pytest.mark.parametrize("quantize", ["int8"], indirect=True)
def test_linears_with_a_forward_of_their_own_are_refused(tmp_path: Path, quantize: str) -> None:
    with pytest.raises(UsageError, match="quantised and no ordinary linear"):
        held(saved(tmp_path / "m", "falcon"), quantize)


@pytest.mark.parametrize("quantize", ["int8"], indirect=True)
def test_quantisation_of_another_kind_is_refused_by_name(tmp_path: Path, quantize: str) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    model = AutoModelForCausalLM.from_pretrained(saved(tmp_path / "m"), quantization_config=config)
    model.save_pretrained(tmp_path / "q")
    with pytest.raises(UsageError, match="is quantised in a way that is not lent"):
        load(str(tmp_path / "q"), DType.FLOAT32)


@pytest.mark.parametrize("quantize", ["nf4"], indirect=True)
def test_four_bits_take_less_than_eight_and_scales_are_quantised_too(tmp_path: Path, quantize: str) -> None:
    _, model = held(saved(tmp_path / "m"), quantize)
    linear = model.model.layers[0].mlp.up_proj
    packed, scales, *doubly = pieces(linear.weight)
    assert packed.nbytes * 2 == linear.in_features * linear.out_features
    assert scales.dtype is torch.uint8 and len(doubly) == 3


@pytest.mark.parametrize("quantize", ["nf4"], indirect=True)
def test_a_move_takes_all_that_four_bits_are_made_of_along(tmp_path: Path, quantize: str) -> None:
    """To the CPU again: every tensor is copied there, and what is left behind is spoilt."""
    layers, model = held(saved(tmp_path / "m"), quantize)
    linears = [op for op in layers.spec.ops if op.kind is OpKind.LINEAR]
    rows = [torch.randn(3, op.width_in) for op in linears]
    before = [layers.apply(op, Direction.FORWARD, x_RD) for op, x_RD in zip(linears, rows, strict=True)]
    left = [piece.detach() for parameter in model.parameters() for piece in pieces(parameter)]
    layers.move_to(torch.device("cpu"))
    for piece in left:
        piece.zero_()
    after = [layers.apply(op, Direction.FORWARD, x_RD) for op, x_RD in zip(linears, rows, strict=True)]
    assert all(torch.equal(x, y) and x.any() for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("quantize", ["nf4"], indirect=True)
def test_other_formats_and_element_types_are_refused_by_name(tmp_path: Path, quantize: str) -> None:
    from transformers import BitsAndBytesConfig

    path = saved(tmp_path / "m")
    configs = {"fp4": BitsAndBytesConfig(load_in_4bit=True), "nf4": config_of(quantize, torch.float32)}
    for folder, config in configs.items():
        AutoModelForCausalLM.from_pretrained(path, quantization_config=config).save_pretrained(tmp_path / folder)
    with pytest.raises(UsageError, match="is a Linear4bit, and no linear in nf4"):
        load(str(tmp_path / "fp4"), DType.FLOAT32)
    with pytest.raises(UsageError, match="with dtype float32 it can be lent"):
        load(str(tmp_path / "nf4"), DType.BFLOAT16)
