"""`prepare_model_for_kbit_training`, which begins every QLoRA script, on a base of half precision.

It casts all parameters to float32. In the daemon the base stays what it is, so the model to compare with is a
plain one, prepared by the same call, whose frozen linears compute in the type that they had: as quantised ones do,
which have a type to compute in.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peft import prepare_model_for_kbit_training
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from symbiosis_adapters.layers.experts import FrozenExperts
from symbiosis_adapters.layers.modules import RemoteLayer
from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.values import withheld
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from tests.adapters.local import LAYERS, Pair
from tests.adapters.training import QV, Run, adapt, adapted, lora

STAYS = "The base stays in torch.bfloat16 in the daemon"
quietly = pytest.mark.filterwarnings(f"ignore:{STAYS}", "ignore:fan_in_fan_out is set to False")
IDS = torch.randint(3, 96, (2, 10), generator=torch.Generator().manual_seed(1))


def narrow(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What a frozen linear makes of rows in bfloat16, in the type in which they came."""
    weight, bias = layer.weight.bfloat16(), None if layer.bias is None else layer.bias.bfloat16()
    weight = weight.T if isinstance(layer, Conv1D) else weight
    return F.linear(x.bfloat16(), weight, bias).to(x.dtype)


def prepared_plain(pair: Pair) -> Any:
    model = prepare_model_for_kbit_training(pair.plain())
    for layer in model.modules():
        if isinstance(layer, nn.Linear | Conv1D):
            vars(layer)["forward"] = partial(narrow, layer)
    return model


@quietly
@pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS, Cut.LINEAR])
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "opt"])
def test_a_training_equals_that_of_a_plain_base_with_layers_of_that_type(architecture: str, cut: Cut) -> None:
    pair = Pair(architecture, DType.BFLOAT16)
    targets = r".*\.(q_proj|v_proj|c_attn)"
    remote = prepare_model_for_kbit_training(pair.remote(cut))
    assert {parameter.dtype for parameter in remote.parameters()} == {torch.float32}
    runs = [Run(adapt(base, lora(targets)), steps=3) for base in (remote, prepared_plain(pair))]
    runs[0].check_roughly(runs[1])
    assert not any(layer.taken for layer in remote.modules() if isinstance(layer, RemoteLayer))


@quietly
def test_the_layers_make_the_trips_that_they_made() -> None:
    """Also where a norm was passed before, with its weight in the other type."""
    pair = Pair("llama", DType.BFLOAT16)
    model = pair.remote()
    for prepared in (False, True):
        if prepared:
            prepare_model_for_kbit_training(model)
        for _ in range(2):
            pair.rows.trips.clear()
            logits = model(input_ids=IDS).logits.clone()
            assert len(pair.rows.forward) == LAYERS + 1
            assert logits.dtype == (torch.float32 if prepared else torch.bfloat16)
    torch.testing.assert_close(logits, prepared_plain(pair)(input_ids=IDS).logits, rtol=2e-2, atol=2e-2)


@quietly
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_siblings_share_their_trip_in_every_mode(mode: type[torch.no_grad]) -> None:
    pair = Pair("llama", DType.BFLOAT16)
    model = pair.remote(Cut.SIBLINGS)
    trips = []
    for prepared in (False, True):
        if prepared:
            prepare_model_for_kbit_training(model)
        for _ in range(3):
            pair.rows.trips.clear()
            with mode():
                model(input_ids=IDS)
            trips.append(list(pair.rows.forward))
    assert any("{" in name for name in trips[0])
    assert trips == [trips[0]] * 6


@quietly
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_rows_that_were_changed_in_between_are_rounded_anew(mode: type[torch.no_grad]) -> None:
    attention = Pair("llama", DType.BFLOAT16).remote(Cut.SIBLINGS).float().model.layers[0].self_attn
    with mode():
        x = torch.randn(3, 32)
        attention.q_proj(x)
        x.add_(1)
        torch.testing.assert_close(attention.k_proj(x), attention.k_proj(x.clone()), rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_it_is_said_once_that_the_base_stays_as_it_is(architecture: str, recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    prepare_model_for_kbit_training(Pair(architecture, DType.BFLOAT16).remote()).bfloat16().float()
    assert [str(warning.message).partition(",")[0] for warning in recwarn] == [STAYS]
    recwarn.clear()
    prepare_model_for_kbit_training(Pair("llama").remote())
    assert not recwarn.list, "a base in float32 is not cast"


@quietly
def test_a_linear_in_float32_rounds_what_goes_in_and_widens_what_comes_out() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    layers = [model.float().model.layers[0].mlp.up_proj for model in (pair.remote(), pair.remote(Cut.LINEAR))]
    x = torch.randn(3, 32, requires_grad=True)
    weight = pair.plain().model.layers[0].mlp.up_proj.weight
    expected = F.linear(x.bfloat16(), weight).float()
    [of_expected] = torch.autograd.grad(expected.sum(), x)
    for layer in layers:
        answer = layer(x).clone()
        torch.testing.assert_close(answer, expected, rtol=1e-2, atol=1e-2)
        [gradient] = torch.autograd.grad(answer.sum(), x)
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, of_expected, rtol=1e-2, atol=1e-2)
        with torch.autocast("cpu", dtype=torch.float16):
            assert layer(x).dtype == torch.float16


@quietly
def test_where_somebody_wants_the_values_they_are_the_bases_in_float32() -> None:
    """DoRA reads them in every forward, and a merge makes them this process's own: then all is plain PEFT."""
    pair = Pair("llama", DType.BFLOAT16)
    remote, plain = (
        adapted(prepare_model_for_kbit_training(base), QV, use_dora=True) for base in (pair.remote(), pair.plain())
    )
    for found, expected in zip(remote.parameters(), plain.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(found, expected)
    merged, expected = remote.merge_and_unload(), plain.merge_and_unload()
    layers = [model.model.layers[1].self_attn for model in (merged, expected)]
    torch.testing.assert_close(layers[0].v_proj.weight, layers[1].v_proj.weight)
    assert type(layers[0].v_proj.weight) is nn.Parameter
    assert isinstance(layers[0].k_proj.weight, FrozenWeight)
    torch.testing.assert_close(layers[0].k_proj.weight * 1, layers[1].k_proj.weight * 1)


@quietly
def test_experts_are_cast_with_the_rest() -> None:
    pair = Pair("mixtral", DType.BFLOAT16)
    remote = prepare_model_for_kbit_training(pair.remote())
    experts = [each for each in remote.parameters() if isinstance(each, FrozenExperts)]
    assert {each.dtype for each in experts} == {matrix.dtype for each in experts for matrix in each.matrices}
    logits = remote(input_ids=IDS).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits * 1, pair.plain().float()(input_ids=IDS).logits, rtol=5e-2, atol=5e-2)


@quietly
def test_a_cast_is_undone_and_lets_the_bases_weights_be_loaded() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    model, plain = pair.remote().float(), pair.plain().float()
    model.load_state_dict(plain.state_dict())
    expected = plain.bfloat16()(input_ids=IDS).logits  # which rounds the buffers, too
    torch.testing.assert_close(model.bfloat16()(input_ids=IDS).logits * 1, expected, rtol=2e-2, atol=2e-2)


@quietly
def test_a_view_keeps_the_type_that_it_had() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    weight = pair.remote().model.layers[0].self_attn.q_proj.weight
    view = weight.data
    weight.data = weight.data.float()
    assert (weight.dtype, view.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(view * 1, (weight * 1).bfloat16())


def test_other_casts_and_other_orders_are_refused() -> None:
    weight = Pair("llama", DType.BFLOAT16).remote().model.layers[0].self_attn.q_proj.weight
    for value in (weight.T.float(), torch.zeros(32, 32), weight.data.double()):
        with pytest.raises(UsageError, match="converting it to"):
            weight.data = value
    with pytest.raises(UsageError, match="converting it to"):
        Pair("llama").remote().half()


@quietly
@pytest.mark.parametrize("cast", [prepare_model_for_kbit_training, nn.Module.float, nn.Module.bfloat16])
def test_every_weight_lies_at_an_address_of_its_own_and_stays_there(cast: Any) -> None:
    """Who saves a model tells by the addresses which weights are one and the same, and reads what lies there."""
    model = cast(Pair("llama", DType.BFLOAT16).remote())
    state = {**model.state_dict(), **dict(model.named_parameters())}
    told = {name: (weight.data_ptr(), weight.untyped_storage().data_ptr()) for name, weight in state.items()}
    assert len(set(told.values())) == len(state) - 1
    assert told["lm_head.weight"] == told["model.embed_tokens.weight"], "they are tied"
    for name, weight in state.items():
        lies = (ctypes.c_ubyte * (weight.numel() * weight.element_size())).from_address(told[name][0])
        assert bytes(lies) == bytes((weight * 1).contiguous().view(torch.uint8).numpy())
        assert told[name] == (weight.data_ptr(), weight.untyped_storage().data_ptr())
        assert told[name][0] == weight.data.data_ptr() == weight.detach()[...].data_ptr()
    part = state["lm_head.weight"][2:]
    assert part.data_ptr() == told["lm_head.weight"][0] + 2 * 32 * part.element_size()


@quietly
def test_what_was_cast_after_it_was_shown_is_shown_anew() -> None:
    weight = Pair("llama", DType.BFLOAT16).remote().model.layers[0].self_attn.q_proj.weight
    narrow, before = weight.data_ptr(), weight.data
    weight.data = weight.data.float()
    assert weight.data_ptr() != narrow == before.data_ptr()
    weight.add_(1)
    assert type(weight) is nn.Parameter
    assert torch.equal(weight, (before * 1).float() + 1)


@quietly
def test_a_base_that_nobody_lends_is_cast_without_being_written_out() -> None:
    """Not even as NaN: what multiplies by a weight, and so each linear that is prepared, asks for a cast of it."""
    model = Pair("llama", DType.BFLOAT16, allow="nobody").remote()
    for prepared in (False, True):
        if prepared:
            prepare_model_for_kbit_training(model)
        weight = model.model.layers[0].self_attn.q_proj.weight
        forms = (
            weight,
            weight.float(),
            weight.T.double(),
            weight.double().clone(),
            weight.data.bfloat16(),
            weight.to("meta", torch.float64),
        )
        for form in forms:
            assert isinstance(form, FrozenWeight)
            with torch._C.DisableTorchFunctionSubclass():
                assert form.untyped_storage().nbytes() == form.element_size()


def casts(action: Callable[[], Any]) -> list[int]:
    """How many elements were cast at a time."""

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default:
                noted.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    noted: list[int] = []
    with Noting():  # type: ignore[no-untyped-call]  # torch leaves modes untyped
        action()
    return noted


@quietly
def test_only_what_is_read_of_a_weight_is_cast() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    weight, plain = pair.remote().float().lm_head.weight, pair.plain().lm_head.weight
    assert casts(lambda: withheld(weight)) == []
    assert casts(lambda: weight[2:4] * 1) == [2 * 32]
    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda w: w[2:4],
        lambda w: w.view(torch.int32)[2:4],
        lambda w: w.T[3:].bfloat16(),
    ]
    for form in forms:
        assert torch.equal(form(weight) + 1, form(plain.float()) + 1)
