"""The catalogue lends what computes as its type promises, leaves the rest local, and changes no model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType, OpKind
from symbiosis_scheduler.frozen.catalogue import Catalogue, catalogue_of
from symbiosis_scheduler.frozen.fingerprint import fingerprint
from tests.scheduler.tiny_models import ARCHITECTURES, tiny

QKV = ("q_proj", "k_proj", "v_proj")
GATED = ("gate_proj", "up_proj")
SIBLINGS: dict[str, list[tuple[str, ...]]] = {
    "bloom": [],
    "falcon": [],
    "gemma": [QKV, GATED],
    "gemma2": [QKV, GATED],
    "gpt2": [],
    "gpt_neox": [],
    "llama": [QKV, GATED],
    "opt": [QKV],
    "qwen2": [QKV, GATED],
}
EMBEDDINGS = {
    "bloom": "transformer.word_embeddings",
    "falcon": "transformer.word_embeddings",
    "gpt2": "transformer.wte",
    "gpt_neox": "gpt_neox.embed_in",
    "opt": "model.decoder.embed_tokens",
}


def singles(catalogue: Catalogue) -> set[str]:
    return {op.members[0] for op in catalogue.ops if len(op.members) == 1}


def siblings(catalogue: Catalogue) -> list[tuple[str, ...]]:
    return [op.members for op in catalogue.ops if len(op.members) > 1]


def local(catalogue: Catalogue) -> set[str]:
    return {tensor.name for tensor in catalogue.tensors}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_offers_its_siblings_in_call_order(architecture: str) -> None:
    found = siblings(catalogue_of(tiny(architecture)))
    per_layer = SIBLINGS[architecture]
    assert [tuple(member.rpartition(".")[2] for member in group) for group in found] == per_layer * 2
    for group in found:
        assert len({member.rpartition(".")[0] for member in group}) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_tables_and_all_linears_are_lent(architecture: str) -> None:
    model = tiny(architecture)
    catalogue = catalogue_of(model)
    modules = dict(model.named_modules())
    tables = [op.members[0] for op in catalogue.ops if op.kind is OpKind.EMBEDDING]
    assert tables == [EMBEDDINGS.get(architecture, "model.embed_tokens")]
    # By the shape of the parameters, so that the test does not repeat the rule that it tests.
    matrices = {
        name.removesuffix(".weight")
        for name, weight in model.named_parameters(remove_duplicate=False)
        if weight.ndim == 2
    }
    positions = {"transformer.wpe", "model.decoder.embed_positions"}
    assert singles(catalogue) == matrices - positions
    for op in catalogue.ops:
        shapes = [tuple(modules[member].weight.shape) for member in op.members]
        if op.kind is OpKind.EMBEDDING:
            assert (op.width_in, op.width_out) == (1, shapes[0][1])
        else:
            assert all(
                (op.width_in, width_out) in (shape, shape[::-1])
                for shape, width_out in zip(shapes, op.widths_out, strict=True)
            )


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mamba", "bart"])
def test_every_tensor_is_either_lent_or_local(architecture: str) -> None:
    model = tiny(architecture)
    catalogue = catalogue_of(model)
    lent = {f"{member}.{part}" for member in singles(catalogue) for part in ("weight", "bias")}
    assert not lent & local(catalogue)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert set(named) <= lent | local(catalogue) <= set(named) | lent | tied
    for spec in catalogue.tensors:
        assert spec.shape == named[spec.name].shape


def test_conv1d_speaks_rows_like_any_linear() -> None:
    catalogue = catalogue_of(tiny("gpt2"))
    op = next(op for op in catalogue.ops if op.name.endswith("0.mlp.c_fc"))
    assert (op.kind, op.width_in, op.widths_out) == (OpKind.LINEAR, 32, (128,))


@pytest.mark.parametrize(
    ("architecture", "table"), [("gpt2", "transformer.wpe"), ("opt", "model.decoder.embed_positions")]
)
def test_a_position_table_is_lent_only_where_it_is_large(
    architecture: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(architecture)
    assert f"{table}.weight" in local(catalogue_of(model))
    monkeypatch.setattr("symbiosis_scheduler.frozen.catalogue.LOCAL_TABLE_BYTES", 0)
    assert table in singles(catalogue_of(model))


class DoublingLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class ChattyLinear(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        return super().forward(input), 0


class SpelledOutLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.T


class BypassingEmbedding(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.embedding(input, self.weight)


class ScaledEmbedding(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.reshape(-1)).reshape(*input.shape, -1) * 3


def test_a_linear_that_computes_something_else_stays_local_with_its_weight() -> None:
    model = tiny("llama")
    name = "model.layers.0.mlp.up_proj"
    model.get_submodule(name).__class__ = DoublingLinear
    catalogue = catalogue_of(model)
    assert name not in singles(catalogue)
    assert f"{name}.weight" in local(catalogue)
    assert ("model.layers.0.mlp.gate_proj", name) not in siblings(catalogue)


def test_a_linear_that_returns_no_rows_stays_local() -> None:
    model = tiny("phimoe")
    catalogue = catalogue_of(model)
    routers = {
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "router" in name
    }
    assert routers
    assert not routers & singles(catalogue)
    assert {f"{router}.weight" for router in routers} <= local(catalogue)
    assert len(siblings(catalogue)) == 2


def test_a_linear_that_computes_the_same_in_its_own_words_is_lent_but_no_sibling() -> None:
    model = tiny("llama")
    name = "model.layers.0.self_attn.v_proj"
    model.get_submodule(name).__class__ = SpelledOutLinear
    catalogue = catalogue_of(model)
    assert name in singles(catalogue)
    assert siblings(catalogue)[0] == ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj")


@pytest.mark.parametrize(
    ("kind", "lent"), [(ScaledEmbedding, True), (BypassingEmbedding, False)], ids=lambda value: str(value)
)
def test_an_embedding_with_its_own_forward_is_lent_if_that_reaches_the_lookup(
    kind: type[nn.Embedding], lent: bool
) -> None:
    model = tiny("llama", tie_word_embeddings=False)
    model.model.embed_tokens.__class__ = kind
    catalogue = catalogue_of(model)
    assert ("model.embed_tokens" in singles(catalogue)) is lent
    assert ("model.embed_tokens.weight" in local(catalogue)) is not lent


def test_an_embedding_whose_lookup_changes_its_weight_stays_local() -> None:
    model = tiny("llama", tie_word_embeddings=False)
    model.model.embed_tokens.max_norm = 1.0
    assert "model.embed_tokens.weight" in local(catalogue_of(model))


def test_a_weight_that_other_code_reads_stays_local() -> None:
    catalogue = catalogue_of(tiny("mamba"))
    assert "backbone.layers.0.mixer.dt_proj.weight" in local(catalogue)
    assert "backbone.layers.0.mixer.dt_proj.bias" in local(catalogue)
    assert "backbone.layers.0.mixer.in_proj" in singles(catalogue)


def test_a_weight_that_other_code_reads_is_local_for_all_who_share_it() -> None:
    model = tiny("llama", tie_word_embeddings=True)
    model.model.embed_tokens.__class__ = BypassingEmbedding
    catalogue = catalogue_of(model)
    assert not {"lm_head", "model.embed_tokens"} & singles(catalogue)
    assert {name for name in local(catalogue) if "lm_head" in name or "embed" in name} == {
        "model.embed_tokens.weight"
    }


def test_a_local_table_that_a_lent_linear_shares_is_listed() -> None:
    model = tiny("llama", tie_word_embeddings=True)
    model.model.embed_tokens.max_norm = 1.0
    catalogue = catalogue_of(model)
    assert "lm_head" in singles(catalogue)
    assert "model.embed_tokens.weight" in local(catalogue)
    assert "lm_head.weight" not in local(catalogue)


def test_linears_that_share_a_weight_are_no_siblings() -> None:
    model = tiny("llama", num_key_value_heads=4)
    attention = model.model.layers[0].self_attn
    attention.k_proj.weight = attention.q_proj.weight
    found = siblings(catalogue_of(model))
    assert not any("layers.0.self_attn" in member for group in found for member in group)
    assert len(found) == 3


def test_a_module_that_is_called_in_two_places_is_no_sibling() -> None:
    model = tiny("llama")
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj = first.q_proj
    catalogue = catalogue_of(model)
    names = [[member.rpartition("self_attn.")[2] for member in group] for group in siblings(catalogue)]
    assert names.count(["k_proj", "v_proj"]) == 2
    assert not {name for name in local(catalogue) if "q_proj" in name}  # its second name is no other tensor


@pytest.mark.parametrize("architecture", ["bart", "mamba", "llama4_text"])
def test_architectures_that_a_meta_device_refuses_are_probed_all_the_same(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "symbiosis"):
        catalogue_of(tiny(architecture))
    assert not [record for record in caplog.records if record.name.startswith("symbiosis")]


def test_a_forward_that_fails_costs_the_siblings_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("llama")
    whole = catalogue_of(model)

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("no forward today")

    vars(model.model.norm)["forward"] = fail
    with caplog.at_level(logging.WARNING, "symbiosis"):
        catalogue = catalogue_of(model)
    assert siblings(catalogue) == []
    assert catalogue.ops == tuple(op for op in whole.ops if len(op.members) == 1)
    assert re.search(r"siblings off .*ZeroDivisionError: no forward today", caplog.text)


def _nothing(model: Any) -> None: ...


def _broken_layer(model: Any) -> None:
    vars(model.model.decoder.layers[1])["forward"] = _nothing


@pytest.mark.parametrize("prepare", [_nothing, _broken_layer])
def test_the_model_is_unchanged_whether_or_not_the_forward_succeeds(prepare: Callable[[Any], None]) -> None:
    model = tiny("opt")
    prepare(model)
    before = {name: (type(module), sorted(vars(module))) for name, module in model.named_modules()}
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    catalogue_of(model)
    assert {name: (type(module), sorted(vars(module))) for name, module in model.named_modules()} == before
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())


def test_the_users_random_numbers_are_left_alone() -> None:
    model = tiny("falcon")
    state = torch.get_rng_state()
    catalogue_of(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tensor_that_cannot_be_fetched_is_an_error_that_names_it() -> None:
    model = tiny("llama")
    model.register_buffer("spectrum", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UsageError, match=r"spectrum holds torch\.complex64"):
        catalogue_of(model)


def test_ops_carry_the_dtype_of_their_weights() -> None:
    assert {op.dtype for op in catalogue_of(tiny("llama", DType.BFLOAT16)).ops} == {DType.BFLOAT16}


def test_equal_models_have_equal_fingerprints_wherever_they_came_from() -> None:
    first, second = tiny("llama"), tiny("llama")
    second.config._name_or_path = second.name_or_path = "/somewhere/else"
    second.config.transformers_version = "5.0.0"
    assert fingerprint(first) == fingerprint(second)
    catalogue_of(second)
    assert fingerprint(first) == fingerprint(second)


def _one_weight(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.weight[-1, -1] += 1e-3


def _one_buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq[0] *= 2


def _one_setting(model: Any) -> None:
    model.config.rms_norm_eps = 1e-4


@pytest.mark.parametrize("change", [_one_weight, _one_buffer, _one_setting])
def test_a_fingerprint_tells_models_apart(change: Callable[[Any], None]) -> None:
    first, second = tiny("llama"), tiny("llama")
    change(second)
    assert fingerprint(first) != fingerprint(second)


def test_a_fingerprint_tells_dtypes_apart() -> None:
    assert fingerprint(tiny("llama")) != fingerprint(tiny("llama", DType.BFLOAT16))
