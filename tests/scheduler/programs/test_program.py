"""A program computes what the model's own code would, and its gradients are those of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import OpId
from symbiosis_core.segments import Fn, Node, Segment, SegmentSpec, check
from symbiosis_core.specs import DType, OpKind, OpSpec, Plane, TensorKind, TensorSpec
from symbiosis_scheduler.programs import program as program_module
from symbiosis_scheduler.programs.program import Program

D, M, V = 16, 24, 40
ROWS = 5


class FakeLinear:
    def __init__(self, weight_OD: Tensor) -> None:
        self.weight_OD = weight_OD

    def forward(self, x: Tensor, out: Tensor | None) -> Tensor:
        return torch.mm(x, self.weight_OD.t())

    def backward(self, dy: Tensor, out: Tensor | None) -> Tensor:
        return torch.mm(dy, self.weight_OD)

    def columns(self, start: int, width: int) -> FakeLinear:
        return type(self)(self.weight_OD[start : start + width])

    def look_up(self, ids: Tensor, out: Tensor | None) -> Tensor:
        return self.weight_OD[ids.reshape(-1)]


class FakeWeights:
    """Weights in one element type, reproducible."""

    def __init__(self, dtype: DType = DType.FLOAT32) -> None:
        self.dtype = dtype
        kind = {DType.FLOAT32: torch.float32, DType.FLOAT64: torch.float64, DType.BFLOAT16: torch.bfloat16}[dtype]
        generator = torch.Generator().manual_seed(7)
        shapes = [(D, D), (2 * M, D), (D, M), (V, D), (V, D)]
        self.matrices = [torch.randn(shape, generator=generator).div(4).to(kind) for shape in shapes]
        self.vectors = {
            name: torch.rand(D, generator=generator).add(0.5).to(kind) for name in ("norm", "weight", "bias")
        }
        kinds = [OpKind.LINEAR] * 4 + [OpKind.EMBEDDING]
        self.ops = tuple(
            OpSpec(OpId(index), kind, (f"op{index}",), 1 if kind is OpKind.EMBEDDING else width, (out,), dtype)
            for index, (kind, width, out) in enumerate(
                zip(kinds, [D, D, M, D, 1], [D, 2 * M, D, V, D], strict=True)
            )
        )
        self.tensors = {name: TensorSpec(name, TensorKind.PARAMETER, dtype, (D,)) for name in self.vectors}

    def layer(self, op: int) -> FakeLinear:
        return FakeLinear(self.matrices[op])

    def vector(self, name: str) -> Tensor:
        return self.vectors[name]

    def program(self, segment: Segment) -> Program:
        return Program(SegmentSpec(OpId(99), segment, check(segment, self.ops, self.tensors), "test"), self)


def norm(x: int, cast_from: int, weight: int, dtype: DType) -> list[Node]:
    """The steps of a Llama norm over value `x`; the first of them makes value `cast_from`."""
    at = cast_from
    return [
        Node(Fn.CAST, (x,), dtype=DType.FLOAT32),
        Node(Fn.POW, (at,), number=2),
        Node(Fn.MEAN, (at + 1,)),
        Node(Fn.ADD, (at + 2,), number=1e-6),
        Node(Fn.RSQRT, (at + 3,)),
        Node(Fn.MUL, (at, at + 4)),
        Node(Fn.CAST, (at + 5,), dtype=dtype),
        Node(Fn.MUL, (weight, at + 6)),
    ]


def block(dtype: DType) -> Segment:
    """What stands between two attentions of a Llama: inputs attention 0 and residual 1, norm weight 2."""
    nodes = [Node(Fn.LINEAR, (0,), op=0), Node(Fn.ADD, (1, 3)), *norm(4, 5, 2, dtype)]
    nodes += [
        Node(Fn.LINEAR, (12,), op=1),
        Node(Fn.TAKE, (13,), start=0, width=M),
        Node(Fn.TAKE, (13,), start=M, width=M),
        Node(Fn.SILU, (14,)),
        Node(Fn.MUL, (16, 15)),
        Node(Fn.LINEAR, (17,), op=2),
        Node(Fn.ADD, (4, 18)),
    ]
    return Segment((Plane(D, dtype), Plane(D, dtype)), ("norm",), tuple(nodes), (19, 12))


def block_in_torch(weights: FakeWeights, attention: Tensor, residual: Tensor) -> list[Tensor]:
    o, gate_up, down = weights.matrices[:3]
    h = residual + attention @ o.t()
    x = h.to(torch.float32)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    x = weights.vectors["norm"] * x.to(h.dtype)
    gate, up = (x @ gate_up.t()).split(M, -1)
    return [h + (F.silu(gate) * up) @ down.t(), x]


def rows(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_a_block_has_the_bits_of_the_model(dtype: DType) -> None:
    weights = FakeWeights(dtype)
    kind = weights.matrices[0].dtype
    attention, residual = rows(ROWS, D, dtype=kind), rows(ROWS, D, dtype=kind, seed=2)
    found = weights.program(block(dtype)).forward([attention, residual])
    for mine, expected in zip(found, block_in_torch(weights, attention, residual), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("remembered", [False, True])
def test_the_gradients_of_a_block_are_those_of_autograd(remembered: bool) -> None:
    """With a memo and without: the same bits."""
    weights = FakeWeights()
    program = weights.program(block(DType.FLOAT32))
    inputs = [rows(ROWS, D).requires_grad_(), rows(ROWS, D, seed=2).requires_grad_()]
    outputs = block_in_torch(weights, *inputs)
    dys = [rows(ROWS, D, seed=3), rows(ROWS, D, seed=4)]
    expected = torch.autograd.grad(outputs, inputs, dys)
    plain = [x.detach() for x in inputs]
    keep = {value: torch.empty(ROWS, program.spec.values[value].width) for value in program.saved}
    program.forward(plain, keep)
    found = program.backward(plain, dys, keep if remembered else None)
    torch.testing.assert_close(found, list(expected), rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, found, program.backward(plain, dys)))


def test_a_memo_keeps_the_products_that_the_backward_needs_and_no_others() -> None:
    """o for the norm, gate and up for the activation. The last product only goes into a sum."""
    assert FakeWeights().program(block(DType.FLOAT32)).saved == (3, 13)


def test_a_memo_saves_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    class Counting(FakeLinear):
        def forward(self, x: Tensor, out: Tensor | None) -> Tensor:
            counted.append(1)
            return super().forward(x, out)

    monkeypatch.setattr(FakeWeights, "layer", lambda self, op: Counting(self.matrices[op]))
    program = FakeWeights().program(block(DType.FLOAT32))
    plain, dys = [rows(ROWS, D), rows(ROWS, D)], [rows(ROWS, D), rows(ROWS, D)]
    keep = {value: torch.empty(ROWS, program.spec.values[value].width) for value in program.saved}
    program.forward(plain, keep)
    counted.clear()
    program.backward(plain, dys, keep)
    assert not counted
    program.backward(plain, dys)
    assert len(counted) == 2


def test_many_rows_are_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that not all values of a long text are alive at once. (For logits see `test_slopes`.)"""
    weights = FakeWeights()
    whole = weights.program(block(DType.FLOAT32))
    monkeypatch.setattr(program_module, "_PIECE_BYTES", 1)
    pieces = weights.program(block(DType.FLOAT32))
    count = 2 * pieces.piece_rows + 3
    assert pieces.piece_rows < count < whole.piece_rows
    inputs, dys = [rows(count, D), rows(count, D)], [rows(count, D), rows(count, D)]
    keep = {value: torch.empty(count, whole.spec.values[value].width) for value in whole.saved}
    torch.testing.assert_close(pieces.forward(inputs, keep), whole.forward(inputs))
    torch.testing.assert_close(pieces.backward(inputs, dys, keep), whole.backward(inputs, dys))


UNARY: dict[Fn, Callable[[Tensor], Tensor]] = {
    Fn.NEG: torch.neg,
    Fn.SILU: F.silu,
    Fn.GELU: F.gelu,
    Fn.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Fn.RELU: torch.relu,
    Fn.SIGMOID: torch.sigmoid,
    Fn.TANH: torch.tanh,
    Fn.MEAN: lambda x: x.mean(-1, keepdim=True),
}


@pytest.mark.parametrize("fn", UNARY)
def test_a_function_and_its_gradient(fn: Fn) -> None:
    compare((Node(fn, (0,)),), lambda x: UNARY[fn](x), 1)


@pytest.mark.parametrize("number", [2, 3.0, -0.5])
def test_a_power_and_its_gradient(number: float) -> None:
    nodes = (Node(Fn.SIGMOID, (0,)), Node(Fn.POW, (1,), number=number))
    compare(nodes, lambda x: torch.sigmoid(x).pow(number), 1)


def test_a_reciprocal_root_and_its_gradient() -> None:
    compare((Node(Fn.SIGMOID, (0,)), Node(Fn.RSQRT, (1,))), lambda x: torch.sigmoid(x).rsqrt(), 1)


BINARY: dict[Fn, Callable[..., Tensor]] = {
    Fn.ADD: torch.add,
    Fn.SUB: torch.sub,
    Fn.MUL: torch.mul,
    Fn.DIV: torch.div,
}


@pytest.mark.parametrize("fn", BINARY)
def test_two_values_and_a_value_with_a_number(fn: Fn) -> None:
    function = BINARY[fn]
    compare((Node(fn, (0, 1)),), lambda x, y: function(x, y), 2)
    compare((Node(fn, (0,), number=1.75),), lambda x: function(x, 1.75), 1)
    if fn is not Fn.DIV:  # whose gradient there is the rounding of a zero
        compare((Node(fn, (0, 0)),), lambda x: function(x, x), 1)


@pytest.mark.parametrize("fn", BINARY)
def test_one_column_meets_all_and_gets_the_sum_of_their_gradients(fn: Fn) -> None:
    function = BINARY[fn]
    mean = Node(Fn.MEAN, (1,))
    compare((mean, Node(fn, (0, 2))), lambda x, y: function(x, y.mean(-1, keepdim=True)), 2)
    compare((mean, Node(fn, (2, 0))), lambda x, y: function(y.mean(-1, keepdim=True), x), 2)


def test_columns_and_their_gradients() -> None:
    """Taken twice, overlapping, and once read whole."""
    nodes = (
        Node(Fn.TAKE, (0,), start=0, width=9),
        Node(Fn.TAKE, (0,), start=7, width=9),
        Node(Fn.MUL, (1, 2)),
        Node(Fn.MEAN, (3,)),
        Node(Fn.MUL, (0, 4)),
    )
    compare(nodes, lambda x: x * (x[:, :9] * x[:, 7:]).mean(-1, keepdim=True), 1)


@pytest.mark.parametrize("starts", [(0, 6, 11), (11, 0, 6)])
def test_columns_that_make_up_the_whole_and_their_gradients(starts: tuple[int, ...]) -> None:
    """Taken in any order."""
    widths = {0: 6, 6: 5, 11: 5}
    taken = [Node(Fn.TAKE, (0,), start=start, width=widths[start]) for start in starts]
    nodes = (*taken, Node(Fn.MEAN, (1,)), Node(Fn.MUL, (2, 4)), Node(Fn.MEAN, (5,)), Node(Fn.MUL, (3, 6)))

    def function(x: Tensor) -> Tensor:
        a, b, c = [x[:, start : start + widths[start]] for start in starts]
        return c * (b * a.mean(-1, keepdim=True)).mean(-1, keepdim=True)

    compare(nodes, function, 1)


def test_columns_that_leave_some_out_give_these_no_gradient() -> None:
    compare((Node(Fn.TAKE, (0,), start=3, width=4), Node(Fn.TANH, (1,))), lambda x: x[:, 3:7].tanh(), 1)


@pytest.mark.parametrize("vectors", [(), ("weight",), ("weight", "bias")])
def test_a_layer_norm_and_its_gradient(vectors: tuple[str, ...]) -> None:
    weights = FakeWeights()
    nodes = (Node(Fn.LAYER_NORM, (0, 1, 2)[: 1 + len(vectors)], number=1e-5),)

    def expected(x: Tensor) -> Tensor:
        weight, bias = [weights.vectors[name] if name in vectors else None for name in ("weight", "bias")]
        return F.layer_norm(x, (D,), weight, bias, eps=1e-5)

    compare(nodes, expected, 1, tensors=vectors)


def test_a_vector_made_of_a_frozen_one_meets_rows() -> None:
    """As in norms that write `1 + weight`."""
    weights = FakeWeights()
    nodes = (Node(Fn.ADD, (1,), number=1.0), Node(Fn.SIGMOID, (2,)), Node(Fn.MUL, (0, 3)), Node(Fn.MUL, (4, 3)))
    factor = (weights.vectors["norm"] + 1).sigmoid()
    compare(nodes, lambda x: x * factor * factor, 1, tensors=("norm",))


def test_casts_pass_gradients_back_in_the_type_they_came_from() -> None:
    weights = FakeWeights(DType.BFLOAT16)
    nodes = (Node(Fn.CAST, (0,), dtype=DType.FLOAT32), Node(Fn.POW, (1,), number=2))
    program = weights.program(Segment((Plane(D, DType.BFLOAT16),), (), nodes, (2,)))
    x = rows(ROWS, D, dtype=torch.bfloat16).requires_grad_()
    expected = torch.autograd.grad(x.float().pow(2), x, rows(ROWS, D, seed=3))
    (found,) = program.backward([x.detach()], [rows(ROWS, D, seed=3)])
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, expected[0])


def test_the_loss_of_every_row_and_its_gradient() -> None:
    """Rows whose target is ignored have no loss and no gradient."""
    weights = FakeWeights()
    nodes = (Node(Fn.LINEAR, (0,), op=3), Node(Fn.CROSS_ENTROPY, (2, 1), start=-100))
    segment = Segment((Plane(D, DType.FLOAT32), Plane(1, DType.INT64)), (), nodes, (3,))
    program = weights.program(segment)
    x, targets = rows(ROWS, D).requires_grad_(), torch.tensor([3, -100, 0, V - 1, 7])
    losses = F.cross_entropy(x @ weights.matrices[3].t(), targets, reduction="none")
    (found,) = program.forward([x.detach(), targets[:, None]])
    torch.testing.assert_close(found[:, 0], losses)
    dy = rows(ROWS, 1, seed=4)
    expected = torch.autograd.grad(losses, x, dy[:, 0])
    gradient = program.backward([x.detach(), targets[:, None]], [dy])
    torch.testing.assert_close(gradient, list(expected), rtol=1e-5, atol=1e-6)
    assert not gradient[0][1].any()


def test_ids_are_looked_up_and_have_no_gradient() -> None:
    weights = FakeWeights()
    nodes = (Node(Fn.LOOKUP, (1,), op=4), Node(Fn.MUL, (0, 2)))
    program = weights.program(Segment((Plane(D, DType.FLOAT32), Plane(1, DType.INT64)), (), nodes, (3,)))
    x, ids = rows(ROWS, D), torch.tensor([[3], [0], [3], [V - 1], [7]])
    table = weights.matrices[4]
    assert torch.equal(program.forward([x, ids])[0], x * table[ids[:, 0]])
    (gradient,) = program.backward([x, ids], [torch.ones(ROWS, D)])
    assert torch.equal(gradient, table[ids[:, 0]])


@pytest.mark.parametrize("bad", [-1, V])
def test_ids_outside_of_the_table_are_refused_before_they_are_looked_up(bad: int) -> None:
    nodes = (Node(Fn.LOOKUP, (0,), op=4),)
    program = FakeWeights().program(Segment((Plane(1, DType.INT64),), (), nodes, (1,)))
    program.check([torch.tensor([[0], [V - 1]])], {4: V})
    with pytest.raises(RefusedError) as refused:
        program.check([torch.tensor([[0], [bad]])], {4: V})
    assert refused.value.code is RefusalCode.BAD_INDEX


@pytest.mark.parametrize("bad", [-1, V, -101])
def test_targets_are_classes_or_ignored(bad: int) -> None:
    nodes = (Node(Fn.LINEAR, (0,), op=3), Node(Fn.CROSS_ENTROPY, (2, 1), start=-100))
    segment = Segment((Plane(D, DType.FLOAT32), Plane(1, DType.INT64)), (), nodes, (3,))
    program = FakeWeights().program(segment)
    program.check([rows(2, D), torch.tensor([[-100], [0]])], {})
    with pytest.raises(RefusedError) as refused:
        program.check([rows(2, D), torch.tensor([[0], [bad]])], {})
    assert refused.value.code is RefusalCode.BAD_INDEX


def test_what_no_output_depends_on_has_a_gradient_of_zeros() -> None:
    program = FakeWeights().program(
        Segment((Plane(D, DType.FLOAT32), Plane(D, DType.FLOAT32)), (), (Node(Fn.NEG, (0,)),), (2,))
    )
    first, second = program.backward([rows(ROWS, D), rows(ROWS, D)], [torch.ones(ROWS, D)])
    assert torch.equal(first, -torch.ones(ROWS, D))
    assert not second.any()


def test_the_gradient_that_was_given_is_not_written_to() -> None:
    """It is the client's memory."""
    nodes = (Node(Fn.ADD, (0, 0)), Node(Fn.TAKE, (1,), start=0, width=3))
    program = FakeWeights().program(Segment((Plane(D, DType.FLOAT32),), (), nodes, (1, 2)))
    dys = [torch.ones(ROWS, D), torch.ones(ROWS, 3)]
    (gradient,) = program.backward([rows(ROWS, D)], dys)
    assert torch.equal(dys[0], torch.ones(ROWS, D))
    assert torch.equal(gradient, torch.cat([torch.full((ROWS, 3), 4.0), torch.full((ROWS, D - 3), 2.0)], 1))


def compare(
    nodes: Sequence[Node], expected: Callable[..., Tensor], inputs: int, tensors: tuple[str, ...] = ()
) -> None:
    """Compares the last node, and the gradients of all inputs, with torch's own."""
    weights = FakeWeights()
    last = inputs + len(tensors) + len(nodes) - 1
    program = weights.program(Segment((Plane(D, DType.FLOAT32),) * inputs, tensors, tuple(nodes), (last,)))
    xs = [rows(ROWS, D, seed=index).requires_grad_() for index in range(inputs)]
    wanted = expected(*xs)
    plain = [x.detach() for x in xs]
    (found,) = program.forward(plain)
    assert torch.equal(found, wanted)
    dy = rows(*wanted.shape, seed=9)
    gradients = torch.autograd.grad(wanted, xs, dy)
    torch.testing.assert_close(program.backward(plain, [dy]), list(gradients), rtol=1e-5, atol=1e-6)
