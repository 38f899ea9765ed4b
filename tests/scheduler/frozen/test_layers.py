"""The frozen layers answer bit for bit what the model's own modules compute, from one copy of the weights."""

from __future__ import annotations

import copy
import struct
from itertools import pairwise

import pytest
import torch

from symbiosis_core.config import ComputeConfig
from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.specs import Direction, DType, OpKind
from symbiosis_scheduler.frozen.layers import FrozenLayers
from symbiosis_scheduler.frozen.loading import load
from symbiosis_scheduler.frozen.packing import Packing
from symbiosis_transports.tensors import torch_dtype
from tests.scheduler.tiny_models import ARCHITECTURES, VOCABULARY, borrow, lend, tiny

FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
DTYPES = [DType.FLOAT32, DType.BFLOAT16]
BATCHES = [torch.arange(14).view(2, 7), torch.tensor([[5]])]


def assert_bit_equal(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert torch.equal(got, expected), f"differs by {(got - expected).abs().max()}"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name.lower())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_that_borrows_every_op_gives_the_very_same_logits(architecture: str, dtype: DType) -> None:
    plain = tiny(architecture, dtype)
    borrower = borrow(plain, lend(copy.deepcopy(plain), dtype))
    for ids in BATCHES:
        assert_bit_equal(borrower(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name.lower())
@pytest.mark.parametrize("architecture", ["llama", "opt", "qwen2"])
def test_a_model_that_borrows_siblings_together_gives_the_same_logits(architecture: str, dtype: DType) -> None:
    plain = tiny(architecture, dtype)
    borrower = borrow(plain, lend(copy.deepcopy(plain), dtype), siblings=True)
    tolerance = 1e-5 if dtype is DType.FLOAT32 else 2e-2
    for ids in BATCHES:
        torch.testing.assert_close(borrower(ids).logits, plain(ids).logits, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name.lower())
def test_a_bias_that_the_module_adds_after_rounding_is_added_so_here(dtype: DType) -> None:
    plain = tiny("falcon", dtype, bias=True, parallel_attn=False, multi_query=False, alibi=True)
    borrower = borrow(plain, lend(copy.deepcopy(plain), dtype))
    for ids in BATCHES:
        assert_bit_equal(borrower(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("architecture", ["opt", "gpt2"])
def test_a_lent_position_table_serves_the_subclass_that_shifts_positions(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symbiosis_scheduler.frozen.catalogue.LOCAL_TABLE_BYTES", 0)
    plain = tiny(architecture)
    layers = lend(copy.deepcopy(plain))
    assert sum(op.kind is OpKind.EMBEDDING for op in layers.spec.ops) == 2
    assert_bit_equal(borrow(plain, layers)(BATCHES[0]).logits, plain(BATCHES[0]).logits)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name.lower())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backward_is_what_autograd_computes(architecture: str, dtype: DType) -> None:
    model = tiny(architecture, dtype)
    layers = lend(model, dtype)
    modules = dict(model.named_modules())
    for op in layers.spec.ops:
        if op.kind is OpKind.EMBEDDING or len(op.members) > 1:
            continue
        x_RD = torch.randn(5, op.width_in).to(torch_dtype(dtype)).requires_grad_()
        y_RO = modules[op.members[0]](x_RD)
        dy_RO = torch.randn_like(y_RO)
        (expected_RD,) = torch.autograd.grad(y_RO, x_RD, dy_RO)
        assert_bit_equal(layers.apply(op, BACKWARD, dy_RO), expected_RD)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_backward_of_siblings_is_the_sum_of_theirs(architecture: str) -> None:
    layers = lend(tiny(architecture))
    singles = {op.members[0]: op for op in layers.spec.ops if len(op.members) == 1}
    groups = [op for op in layers.spec.ops if len(op.members) > 1]
    assert groups
    for op in groups:
        dy_RO = torch.randn(5, op.width_out)
        parts = dy_RO.split(list(op.widths_out), dim=1)
        summed = sum(
            layers.apply(singles[member], BACKWARD, part) for member, part in zip(op.members, parts, strict=True)
        )
        torch.testing.assert_close(layers.apply(op, BACKWARD, dy_RO), summed)


def test_siblings_answer_side_by_side_what_each_answers_alone() -> None:
    layers = lend(tiny("qwen2"))
    singles = {op.members[0]: op for op in layers.spec.ops if len(op.members) == 1}
    for op in layers.spec.ops:
        x_RD = torch.randn(5, op.width_in)
        if len(op.members) > 1:
            alone = [layers.apply(singles[member], FORWARD, x_RD) for member in op.members]
            torch.testing.assert_close(layers.apply(op, FORWARD, x_RD), torch.cat(alone, dim=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name.lower())
@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_answers_are_written_into_the_given_place_and_nowhere_else(architecture: str, dtype: DType) -> None:
    layers = lend(tiny(architecture, dtype), dtype)
    for op in layers.spec.ops:
        for direction in (FORWARD, BACKWARD) if op.kind is OpKind.LINEAR else (FORWARD,):
            x = rows_for(layers, op.id, direction, 3)
            width, _ = op.row_out(direction)
            # As in an arena: a plain buffer, rows at an odd place, other people's bytes before and behind.
            arena = torch.frombuffer(
                bytearray(b"\xa5" * (16 + 3 * width * dtype.itemsize + 16)), dtype=torch.uint8
            )
            out = arena[16:-16].view(torch_dtype(dtype)).view(3, width)
            answer = layers.apply(op, direction, x, out)
            assert answer.data_ptr() == out.data_ptr()
            assert_bit_equal(out, layers.apply(op, direction, x))
            assert bytes(arena[:16].tolist()) == bytes(arena[-16:].tolist()) == b"\xa5" * 16


def test_no_rows_are_answered_with_no_rows() -> None:
    layers = lend(tiny("qwen2"))
    for op in layers.spec.ops:
        x = rows_for(layers, op.id, FORWARD, 0)
        assert layers.apply(op, FORWARD, x).shape == (0, op.width_out)


def test_nothing_is_recorded_for_autograd_and_every_answer_may_be_saved_for_a_backward() -> None:
    layers = lend(tiny("llama"))
    op = next(op for op in layers.spec.ops if op.kind is OpKind.LINEAR)
    answer = layers.apply(op, FORWARD, torch.randn(2, op.width_in).requires_grad_())
    assert not answer.requires_grad
    assert not answer.is_inference()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("bad", [-1, VOCABULARY, 2**62])
def test_an_id_outside_the_table_is_refused_before_anything_is_written(bad: int) -> None:
    layers = lend(tiny("llama"))
    op = next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)
    ids_R1, out = torch.tensor([[1], [bad]]), torch.full((2, op.width_out), 7.0)
    with pytest.raises(RefusedError, match="outside") as refused:
        layers.apply(op, FORWARD, ids_R1, out)
    assert refused.value.code is RefusalCode.BAD_INDEX
    assert (out == 7.0).all()
    with pytest.raises(RefusedError, match="outside"):
        layers.check(op, FORWARD, ids_R1)
    layers.check(op, FORWARD, torch.tensor([[0], [VOCABULARY - 1]]))


def test_ids_have_no_gradient() -> None:
    layers = lend(tiny("llama"))
    op = next(op for op in layers.spec.ops if op.kind is OpKind.EMBEDDING)
    for call in (layers.apply, layers.check):
        with pytest.raises(RefusedError) as refused:
            call(op, BACKWARD, torch.randn(2, op.width_out))
        assert refused.value.code is RefusalCode.NO_BACKWARD


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "opt"])
def test_the_weights_of_siblings_are_views_of_one_tensor_and_cost_no_memory(architecture: str) -> None:
    model = tiny(architecture)
    plain = copy.deepcopy(model)
    before = sum(parameter.nbytes for parameter in model.parameters()) + sum(
        buffer.nbytes for buffer in model.buffers()
    )
    layers = lend(model)
    modules = dict(model.named_modules())
    for op in layers.spec.ops:
        members = [modules[member] for member in op.members]
        for tensors in (
            [m.weight for m in members],
            [m.bias for m in members if getattr(m, "bias", None) is not None],
        ):
            assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) <= 1
            for first, second in pairwise(tensors):
                assert first.data_ptr() + first.nbytes == second.data_ptr()
    assert layers.spec.base_bytes == before
    for (name, got), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(got, expected), name


def test_siblings_of_which_only_some_have_a_bias_are_fused_with_zeros() -> None:
    plain = tiny("qwen2")
    plain.model.layers[0].self_attn.k_proj.bias = None
    layers = lend(copy.deepcopy(plain))
    assert layers.spec.ops == lend(tiny("qwen2")).spec.ops
    borrower = borrow(plain, layers, siblings=True)
    torch.testing.assert_close(borrower(BATCHES[0]).logits, plain(BATCHES[0]).logits)


def test_tied_weights_are_held_once() -> None:
    tied, untied = (tiny("llama", tie_word_embeddings=tie) for tie in (True, False))
    table_bytes = tied.lm_head.weight.nbytes
    assert lend(untied).spec.base_bytes - lend(tied).spec.base_bytes == table_bytes
    assert tied.lm_head.weight.data_ptr() == tied.model.embed_tokens.weight.data_ptr()
    assert untied.lm_head.weight.data_ptr() != untied.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma", "mamba"])
def test_every_local_tensor_is_delivered_as_it_is(architecture: str) -> None:
    model = tiny(architecture)
    model.register_buffer("flags", torch.tensor([True, False]), persistent=False)
    model.register_buffer("turned", torch.arange(6).view(2, 3).t())
    model.register_buffer("scalar", torch.tensor(2.5, dtype=torch.bfloat16))
    model.register_buffer("empty", torch.zeros(0))
    layers = lend(model)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert {"flags", "turned", "scalar", "empty"} <= {spec.name for spec in layers.spec.tensors}
    for spec in layers.spec.tensors:
        data = layers.tensor_bytes(spec.name)
        assert data.readonly
        assert data.nbytes == spec.nbytes
        assert list(data) == named[spec.name].flatten().view(torch.uint8).tolist()
    assert bytes(layers.tensor_bytes("turned")) == struct.pack("<6q", 0, 3, 1, 4, 2, 5)
    assert bytes(layers.tensor_bytes("flags")) == b"\x01\x00"


def test_a_tensor_that_is_not_listed_is_refused() -> None:
    layers = lend(tiny("llama"))
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight", "nothing"):
        with pytest.raises(RefusedError, match="lends no tensor") as refused:
            layers.tensor_bytes(name)
        assert refused.value.code is RefusalCode.UNKNOWN_TENSOR


def test_the_spec_says_what_a_client_needs() -> None:
    layers = lend(tiny("llama", DType.BFLOAT16), DType.BFLOAT16)
    spec = layers.spec
    assert (spec.name, spec.name_or_path, spec.dtype) == ("tiny", "/models/tiny", DType.BFLOAT16)
    assert '"model_type": "llama"' in spec.config_json
    assert spec.generation_config_json.startswith("{")
    assert [op.id for op in spec.ops] == list(range(len(spec.ops)))
    assert repr(layers) == f"<FrozenLayers tiny bfloat16: {len(spec.ops)} ops, {spec.base_bytes} bytes on cpu>"


def test_smollm2_gives_the_very_same_logits_through_the_layers() -> None:
    loaded = load("smollm2", DType.BFLOAT16)
    plain = copy.deepcopy(loaded.model)
    layers = FrozenLayers(loaded)
    assert (len(layers.spec.ops), layers.spec.base_bytes) == (272, 269_030_272)
    packing = Packing(ComputeConfig().packed_bytes)
    layers.pack_with(packing)
    for ids in (torch.arange(100, 116).view(1, 16), torch.tensor([[7]])):
        expected = plain(ids).logits
        assert_bit_equal(borrow(plain, layers)(ids).logits, expected)
        torch.testing.assert_close(borrow(plain, layers, siblings=True)(ids).logits, expected, atol=0.5, rtol=2e-2)
    packs = Packing(1 << 20).pack(torch.eye(64).bfloat16(), None, lambda x: x.clone()) is not None
    assert (packing.packed_bytes > 0.99 * layers.spec.base_bytes) is packs, "the default budget is for this base"


def rows_for(layers: FrozenLayers, op_id: int, direction: Direction, rows: int) -> torch.Tensor:
    width, dtype = layers.spec.ops[op_id].row_in(direction)
    if dtype is DType.INT64:
        return torch.randint(0, VOCABULARY, (rows, width))
    return torch.randn(rows, width).to(torch_dtype(dtype))
