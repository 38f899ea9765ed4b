"""A placeholder answers questions about itself, costs one element, and never passes for real values."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import embedding, linear

from symbiosis_adapters.weights.placeholder import FrozenWeight
from symbiosis_adapters.weights.takes import Takes
from symbiosis_core.errors import UsageError


def make(dtype: torch.dtype = torch.float32) -> FrozenWeight:
    return FrozenWeight.of((4, 6), dtype, "cpu", "model.q_proj.weight")


class Ones:
    """Lends a weight of ones."""

    withheld = False

    def __init__(self) -> None:
        self.takes = Takes()

    def frozen(self, name: str) -> torch.Tensor:
        return torch.ones(4, 6)

    private = frozen


def bytes_of(weight: FrozenWeight) -> int:
    with torch._C.DisableTorchFunctionSubclass():
        return weight.untyped_storage().nbytes()


def test_it_describes_itself_as_the_weight_would() -> None:
    weight = make(torch.bfloat16)
    assert weight.shape == (4, 6)
    assert weight.T.shape == weight.t().shape == weight.data.transpose(0, 1).shape == (6, 4)
    assert (weight.dtype, weight.device, weight.ndim, len(weight)) == (torch.bfloat16, torch.device("cpu"), 2, 4)
    assert (weight.numel(), weight.element_size(), weight.size(1), weight.dim()) == (24, 2, 6, 2)
    assert weight.is_floating_point()
    assert weight.is_leaf
    assert not weight.is_meta
    assert not weight.requires_grad
    assert weight.grad is None
    assert isinstance(weight, nn.Parameter)
    assert repr(weight) == "FrozenWeight(model.q_proj.weight, (4, 6), torch.bfloat16, device=cpu)"


def test_it_takes_one_element_of_memory_however_it_is_copied() -> None:
    weight = FrozenWeight.of((1 << 16, 1 << 16), torch.float32, "cpu", "huge")
    for form in (
        weight,
        copy.deepcopy(weight),
        weight.clone(),
        weight.to("cpu"),
        weight.data,
        weight.T,
        weight.cpu(),
    ):
        assert isinstance(form, FrozenWeight)
        assert bytes_of(form) == 4
        assert form.label == "huge"


def test_it_serves_as_a_pattern_for_other_tensors() -> None:
    weight = make(torch.bfloat16)
    assert torch.ones(2).to(weight).dtype == torch.bfloat16
    assert type(torch.ones(2).type_as(weight)) is torch.Tensor
    for fresh in (torch.zeros_like(weight), weight.new_zeros(4, 6)):
        assert type(fresh) is torch.Tensor
        assert fresh.count_nonzero() == 0


def test_moves_within_its_dtype_and_freezing_are_no_ops() -> None:
    weight = make()
    assert weight.to(torch.float32) is weight.float() is weight.to("cpu", torch.float32) is weight
    assert weight.requires_grad_(False) is weight
    weight.requires_grad = False
    weight.grad = None
    weight.data = weight.data
    assert isinstance(nn.Parameter(weight, requires_grad=False), FrozenWeight)


def test_parts_of_it_are_placeholders_without_memory() -> None:
    """As in torch, where basic indexing gives views; the forms stand for different elements."""
    weight, real = make(), torch.arange(24.0).view(4, 6)
    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x[1:3],
        lambda x: x[1],
        lambda x: x[..., None, 2:],
        lambda x: x[torch.tensor(2)],
        lambda x: x[:, torch.tensor(2, dtype=torch.int32)],
        lambda x: x[np.int64(2), None],
        lambda x: x[()],
        lambda x: x[np.array(2)],
        lambda x: x.narrow(0, 1, 2),
        lambda x: x.split(3)[1],
        lambda x: x.chunk(2, dim=1)[1].T,
        lambda x: x.unbind(0)[3],
        lambda x: x[1:3].contiguous(),
    ]
    for form in forms:
        part = form(weight)
        assert isinstance(part, FrozenWeight)
        assert (part.shape, part.stride()) == (form(real).shape, form(real).stride())
        assert bytes_of(part) == 4


def test_it_moves_with_its_module() -> None:
    layer = nn.Linear(6, 4)
    layer.weight = make()
    layer.to("cpu").to(torch.float32).requires_grad_(False)
    assert isinstance(layer.weight, FrozenWeight)
    meta = layer.weight.to("meta")
    assert isinstance(meta, FrozenWeight)
    assert meta.is_meta


def beside(weight: FrozenWeight) -> FrozenWeight:
    """Returns `weight` on a device to which torch can move a parameter in place, which it could not to meta.

    It is meta in the likeness of a GPU; there need not be one.
    """
    with torch._C.DisableTorchFunctionSubclass():
        blank = torch.empty(weight.shape, device="meta")
        keys: Any = {"device_for_backend_keys": torch.device("cuda")}  # torch's stub leaves it out
        likeness = torch.Tensor._make_subclass(torch.Tensor, blank, False, **keys)
        return weight._view(lambda values: values.to("meta"), likeness)


def test_it_moves_in_place_as_a_module_moves_its_parameters() -> None:
    """PEFT puts an adapter where the weight says that it is. Views of it stay where they were."""
    weight = FrozenWeight.of((4, 6), torch.float32, "cpu", "w", Ones())
    part = weight[1:3]
    weight.data = beside(weight)
    assert isinstance(weight, FrozenWeight)
    assert isinstance(weight, nn.Parameter)
    assert (weight.device.type, weight.shape, weight.dtype) == ("meta", (4, 6), torch.float32)
    assert (weight * 1).is_meta
    assert torch.equal(part * 1, torch.ones(2, 6))


def test_a_view_that_moves_in_place_leaves_its_whole_where_it_is() -> None:
    weight = FrozenWeight.of((4, 6), torch.float32, "cpu", "w", Ones())
    moved = nn.Parameter(weight.data, requires_grad=False)
    assert isinstance(moved, FrozenWeight)
    moved.data = beside(moved)
    assert (moved.device.type, weight.device.type) == ("meta", "cpu")
    assert (moved * 1).is_meta
    weight.add_(1)
    assert torch.equal(weight, torch.full((4, 6), 2.0))
    assert isinstance(moved, FrozenWeight)


def test_a_move_in_place_that_torch_does_not_have_is_torchs_error() -> None:
    for weight in (nn.Parameter(torch.ones(4, 6), requires_grad=False), make()):
        with pytest.raises(RuntimeError, match="incompatible tensor type"):
            weight.data = weight.to("meta")
        assert weight.device.type == "cpu"


ROWS = torch.ones(2, 6)
READS: dict[str, Callable[[FrozenWeight], Any]] = {
    "linear": lambda w: linear(ROWS, w),
    "embedding": lambda w: embedding(torch.tensor([1]), w),
    "matmul": lambda w: ROWS @ w.T,
    "add": lambda w: w + 1,
    "radd": lambda w: 1 + w,
    "svd": lambda w: torch.linalg.svd(w.data.to(torch.float32)),
    "qr": lambda w: torch.linalg.qr(w.data),
    "norm": lambda w: w.data.norm(p=2, dim=1),
    "index": lambda w: w[torch.tensor([0])],
    "mask": lambda w: w[torch.tensor(1, dtype=torch.uint8)],
    "truth as an index": lambda w: w[True],
    "part": lambda w: w[0].sum(),
    "write to a part": lambda w: w[1:3].zero_(),
    "set a part": lambda w: w.__setitem__(0, 1.0),
    "iterate": lambda w: [row.sum() for row in w],
    "finite": lambda w: torch.isfinite(w).all(),
    "equal": lambda w: torch.equal(w, w),
    "truth": bool,
    "cat": lambda w: torch.cat([ROWS, w]),
    "copy from": lambda w: torch.zeros(4, 6).copy_(w),
    "copy to": lambda w: w.copy_(torch.zeros(4, 6)),
    "merge": lambda w: w.data.clone().add_(1),
    "merge in place": lambda w: w.data.__iadd__(1),
    "data": lambda w: setattr(w, "data", torch.zeros(4, 6)),
    "grad": lambda w: setattr(w, "grad", torch.zeros(4, 6)),
    "contiguous": lambda w: w.T.contiguous(),
    "add in place": lambda w: torch.zeros(4, 6).add_(w),
    "product from the left": lambda w: w @ ROWS.T,
    "product into": lambda w: torch.mm(ROWS[:, :4], torch.ones(4, 6), out=w),
    "initialize": nn.init.kaiming_uniform_,
    "numpy": lambda w: w.numpy(),
    "asarray": np.asarray,
    "tolist": lambda w: w.tolist(),
    "storage": lambda w: w.untyped_storage(),
    "pointer": lambda w: w.data_ptr(),
    "dlpack": np.from_dlpack,
    "pickle": pickle.dumps,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_whatever_needs_values_is_refused_by_name(read: Callable[[FrozenWeight], Any]) -> None:
    with pytest.raises(UsageError, match=r"^model\.q_proj\.weight: .* is not possible"):
        read(make())


@pytest.mark.parametrize(
    "train",
    [
        lambda w: w.requires_grad_(),
        lambda w: w.requires_grad_(True),
        lambda w: setattr(w, "requires_grad", True),
        nn.Parameter,
    ],
)
def test_training_the_base_is_refused(train: Callable[[FrozenWeight], Any]) -> None:
    with pytest.raises(UsageError, match="frozen for all its clients"):
        train(make())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_dtype_is_refused(dtype: torch.dtype) -> None:
    retypes: list[Callable[[FrozenWeight], Any]] = [
        lambda w: w.to(dtype),
        lambda w: w.to("cpu", dtype),
        lambda w: w.type(dtype),
    ]
    for retype in retypes:
        with pytest.raises(UsageError, match=r"converting it to .*Use torch\.autocast"):
            retype(make())


def test_what_never_asks_python_finds_nan() -> None:
    with torch._C.DisableTorchFunctionSubclass():
        assert linear(ROWS, make()).isnan().all()


def test_what_is_derived_of_a_parameter_is_none() -> None:
    """As with torch's own, so that a module that keeps it does not register it."""
    weight = make()
    assert isinstance(weight, nn.Parameter)
    assert isinstance(copy.deepcopy(weight), nn.Parameter)
    assert isinstance(nn.Parameter(weight.data, requires_grad=False), nn.Parameter)
    for derived in (weight.data, weight.detach(), weight.clone(), weight.T, weight.data.clone().cpu()):
        assert isinstance(derived, FrozenWeight)
        assert not isinstance(derived, nn.Parameter)


def test_strides_are_those_of_the_values() -> None:
    """Code that asks for them before it takes the values would else read the first of them everywhere."""
    weight, real = make(), torch.empty(4, 6)
    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x,
        lambda x: x.T,
        lambda x: x.reshape(2, 12),
        lambda x: x.data.unsqueeze(0).to("cpu"),
        lambda x: x[2:, 1:],
        lambda x: x.unbind(dim=-1)[4],
    ]
    for form in forms:
        assert form(weight).stride() == form(real).stride()
        assert form(weight).is_contiguous() == form(real).is_contiguous()
        assert form(weight).storage_offset() == form(real).storage_offset()
    assert (weight.stride(0), weight.T.stride(-1), weight.to("meta").stride()) == (6, 6, (6, 1))


def test_one_that_is_made_in_inference_mode_can_be_taken_and_trained_outside() -> None:
    with torch.inference_mode():
        weight = FrozenWeight.of((4, 6), torch.float32, "cpu", "w", Ones()).clone()
        weight += 1
    weight.requires_grad_(True)
    torch.nn.functional.linear(torch.ones(2, 6), weight).sum().backward()
    assert torch.equal(weight, torch.full((4, 6), 2.0))
    assert weight.grad is not None


def test_so_many_rows_as_a_vocabulary_has_can_be_told_apart() -> None:
    """In a time that grows with their number, and not with its square."""
    rows = FrozenWeight.of((1 << 14, 2), torch.float32, "cpu", "w").unbind()
    assert [row.storage_offset() for row in rows] == list(range(0, 1 << 15, 2))
