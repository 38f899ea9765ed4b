"""A base in eight bits computes, bit for bit, what torchao computes with its weights, and says what it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from symbiosis_core.config import LendingConfig
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import Direction, DType, OpKind
from symbiosis_scheduler.layers import FrozenLayers
from symbiosis_scheduler.lending import Withheld, place_for
from symbiosis_scheduler.loading import load
from symbiosis_scheduler.packing import Packing
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.tiny_models import tiny

pytest.importorskip("torchao", reason="the extra int8 is not installed")

from symbiosis_scheduler.torchao_int8 import int8_config


def saved(folder: Path, architecture: str = "qwen2") -> str:
    """Qwen2 has biases on q, k and v, which are siblings."""
    tiny(architecture).save_pretrained(folder)
    return str(folder)


def local(path: str, dtype: DType = DType.FLOAT32) -> Any:
    """The same model as anybody would load it."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch_dtype(dtype), quantization_config=int8_config())


def held(path: str, dtype: DType = DType.FLOAT32) -> tuple[FrozenLayers, Any]:
    loaded = load(path, dtype, quantize="int8")
    place = place_for(loaded.model, LendingConfig(), torch.device("cpu"))
    return FrozenLayers(loaded, place), loaded.model


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16], ids=lambda dtype: dtype.name.lower())
def test_every_linear_gives_torchaos_bits_there_and_back(tmp_path: Path, dtype: DType) -> None:
    path = saved(tmp_path / "m")
    layers, _ = held(path, dtype)
    layers.pack_with(Packing(1 << 30))
    modules = dict(local(path, dtype).named_modules())
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


def test_the_base_takes_half_of_bfloat16_and_its_model_stays_usable(tmp_path: Path) -> None:
    path, ids = saved(tmp_path / "m"), torch.tensor([[1, 2, 3]])
    layers, model = held(path)
    assert layers.quantized == "int8"
    assert layers.spec.base_bytes < FrozenLayers(load(path, DType.BFLOAT16)).spec.base_bytes
    with torch.no_grad():
        assert torch.equal(model(ids).logits, local(path)(ids).logits)


def test_integers_are_there_once_and_siblings_are_views_of_them(tmp_path: Path) -> None:
    layers, model = held(saved(tmp_path / "m", "llama"))
    lent = [op for op in layers.spec.ops if op.kind is OpKind.LINEAR and op.members != ("lm_head",)]
    for op in lent:
        if len(op.members) == 1:
            model.get_submodule(op.members[0]).weight.qdata.zero_()
    for op in lent:
        assert not layers.apply(op, Direction.FORWARD, torch.ones(1, op.width_in)).any(), op.name


def test_a_client_sees_the_element_type_of_rows_and_nothing_of_the_bits(tmp_path: Path) -> None:
    layers, _ = held(saved(tmp_path / "m"), DType.BFLOAT16)
    assert layers.spec.dtype is DType.BFLOAT16
    assert {op.dtype for op in layers.spec.ops} == {DType.BFLOAT16}
    assert "quantization" not in layers.spec.config_json


def test_the_fingerprint_is_that_of_the_integers(tmp_path: Path) -> None:
    path = saved(tmp_path / "m")
    prints = [held(path)[0].spec.fingerprint for _ in range(2)]
    assert prints[0] == prints[1] != FrozenLayers(load(path, DType.FLOAT32)).spec.fingerprint


def test_a_checkpoint_that_was_saved_quantised_is_the_same_base(tmp_path: Path) -> None:
    path = saved(tmp_path / "m")
    local(path).save_pretrained(tmp_path / "q")
    again, fresh = FrozenLayers(load(str(tmp_path / "q"), DType.FLOAT32)), held(path)[0]
    assert again.quantized == "int8"
    assert again.spec.base_bytes == fresh.spec.base_bytes
    for op in (op for op in fresh.spec.ops if op.kind is OpKind.LINEAR):
        x_RD = torch.randn(3, op.width_in)
        assert torch.equal(again.apply(op, Direction.FORWARD, x_RD), fresh.apply(op, Direction.FORWARD, x_RD)), (
            op.name
        )


def test_its_weights_are_not_lent_and_the_reason_says_why(tmp_path: Path) -> None:
    layers, _ = held(saved(tmp_path / "m"))
    assert isinstance(layers.lent, Withheld)
    assert "eight bits" in layers.lent.reason and "quantize" in layers.lent.remedy


def test_it_stays_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="held on the CPU only"):
        held(saved(tmp_path / "m"))[0].move_to(torch.device("meta"))


def test_linears_with_a_forward_of_their_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantised and no ordinary linear"):
        held(saved(tmp_path / "m", "falcon"))


def test_quantisation_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    model = AutoModelForCausalLM.from_pretrained(saved(tmp_path / "m"), quantization_config=config)
    model.save_pretrained(tmp_path / "q")
    with pytest.raises(UsageError, match="is quantised in a way that is not lent"):
        load(str(tmp_path / "q"), DType.FLOAT32)
