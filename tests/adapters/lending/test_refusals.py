"""What is not lent is refused with the reason, and a loan is checked before it is believed."""

from __future__ import annotations

import os

import pytest
import torch

from symbiosis_adapters.cut import Cut
from symbiosis_adapters.lending import BorrowedWeights
from symbiosis_core.errors import RefusedError, RemoteProtocolError, UsageError
from symbiosis_core.specs import DType, LentTensor
from symbiosis_core.wire import Loan
from symbiosis_scheduler.lending import Lent
from tests.adapters.lending.methods import CHANGING, READING
from tests.adapters.local import Pair
from tests.adapters.training import QUIET, adapt, logits

pytestmark = QUIET


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_dtype_is_refused_even_where_weights_are_lent(dtype: torch.dtype, pair: Pair) -> None:
    ours = pair.remote()
    before = logits(ours)
    with pytest.raises(UsageError, match=r"converting it to .*Use torch\.autocast"):
        ours.to(dtype)
    assert torch.equal(logits(ours), before)


def test_what_nobody_lends_is_refused_and_says_who_needs_it_why_and_what_to_set() -> None:
    pair = Pair("llama", allow="nobody")
    for name in ("dora", "pissa", "olora", "saved head"):
        with pytest.raises(UsageError, match=r"weight: .* is not possible") as caught:
            adapt(pair.remote(), {**READING, **CHANGING}[name][1])
        assert 'set lending.allow = "same_user"' in str(caught.value), name
    with pytest.raises(UsageError, match=r"q_proj\.weight: .* which peft\.tuners\.lora\.dora\..* needs"):
        adapt(pair.remote(), READING["dora"][1])
    with pytest.raises(RefusedError, match=r"lends its weights to nobody"):
        pair.remote(Cut.LENT)


def test_a_loan_is_checked_before_it_is_believed(pair: Pair) -> None:
    lent = pair.rows.layers.lent
    assert isinstance(lent, Lent)
    size = lent.memory.nbytes
    beyond = LentTensor("x", DType.FLOAT32, (4,), size - 12)
    askew = LentTensor("x", DType.FLOAT32, (1,), 2)
    for tensor in (beyond, askew):
        with pytest.raises(RemoteProtocolError, match="does not lie within"):
            BorrowedWeights(os.dup(lent.memory.fd), Loan("", "", size, (tensor,)))
    with pytest.raises(RemoteProtocolError, match="bytes, announced were"):
        BorrowedWeights(os.dup(lent.memory.fd), Loan("", "", size + 1, ()))
    unsealed = os.memfd_create("mine", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, 64)
    with pytest.raises(RemoteProtocolError, match="not sealed"):
        BorrowedWeights(unsealed, Loan("", "", 64, ()))
    good = BorrowedWeights(os.dup(lent.memory.fd), Loan("", "", size, lent.tensors))
    with pytest.raises(RemoteProtocolError, match=r"does not contain model\.nothing"):
        good.frozen("model.nothing")
