"""What is not lent is refused with the reason, and a loan is checked before it is believed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from symbiosis_adapters.trips.cut import Cut
from symbiosis_adapters.weights.lending import BorrowedWeights
from symbiosis_bench.compat.adapting import adapt as put_on
from symbiosis_bench.compat.methods import METHODS
from symbiosis_core.errors import RefusedError, RemoteProtocolError, UsageError
from symbiosis_core.specs import DType, LentTensor
from symbiosis_core.wire import Loan
from symbiosis_scheduler.frozen.lending import Lent
from tests.adapters.local import Pair
from tests.adapters.training import QUIET, Run, batches, logits

pytestmark = QUIET

_READS, _CHANGES = (
    r"reading its values in torch's \w+\(\), which ",
    r"changing or keeping its values in .*, which ",
)
_TRAINS = r"(training it|setting its requires_grad), which "
_PUT_ON, _FORWARD = r"needs for \S+\.get_peft_model", r"needs for \S+\.PeftModelForCausalLM\.forward"
WANTING: dict[str, tuple[str, str, str]] = {
    "dora": ("llama", "dora", rf"{_READS}\S+\.DoraLinearLayer\.\w+ {_PUT_ON}"),
    "pissa": ("llama", "pissa", rf"{_READS}\S+\.lora\.\S+\.pissa_init {_PUT_ON}"),
    "pissa gpt2": ("gpt2", "pissa", rf"making a parameter of a view of it, which \S+\.pissa_init {_PUT_ON}"),
    "olora": ("llama", "olora", rf"{_READS}\S+\.lora\.\S+\.olora_init {_PUT_ON}"),
    "mica": ("llama", "mica", rf"{_READS}\S+\.lora\.\S+\.mica_init {_PUT_ON}"),
    "kasa": ("llama", "kasa", rf"{_READS}\S+\.KasaLinearVariant\.\w+ {_PUT_ON}"),
    "lora-ga": ("llama", "lora-ga", rf"{_TRAINS}\S+\.preprocess_loraga needs"),
    "target_parameters": ("llama", "parameters", rf"{_READS}\S+\._LoraParameterProxy\.\w+ {_FORWARD}"),
    "token indices": ("llama", "lora tokens", rf"{_READS}\S+\.TrainableTokensLayer\.\w+ {_PUT_ON}"),
    "modules_to_save": ("llama", "saved head", rf"{_TRAINS}\S+\.ModulesToSaveWrapper\.\w+ {_PUT_ON}"),
    "bias": ("gpt2", "bias=all", rf"{_TRAINS}\S+\.LoraModel\.\w+ {_PUT_ON}"),
    **{
        name: ("llama", name, rf"{_READS}peft\.tuners\.{name}\.\S+ {_PUT_ON}")
        for name in ("osf", "delora", "psoft", "frod", "tinylora", "supertuning")
    },
    **{
        name: ("llama", name, rf"({_READS}|{_CHANGES})peft\.tuners\.{name}\.\S+ {_FORWARD}")
        for name in ("hra", "shira", "glora", "hira", "peanut")
    },
}
"""What reads, changes or trains the base: a family, a method, and what the refusal says of it."""
MERGING = ["lora", "adalora", "ia3", "loha", "lokr", "oft", "vera", "fourierft"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_dtype_is_refused_even_where_weights_are_lent(dtype: torch.dtype, pair: Pair) -> None:
    ours = pair.remote()
    before = logits(ours)
    with pytest.raises(UsageError, match=r"converting it to .*Use torch\.autocast"):
        ours.to(dtype)
    assert torch.equal(logits(ours), before)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of fan_in_fan_out, biases and sparse tensors
@pytest.mark.parametrize("name", WANTING)
def test_what_nobody_lends_is_refused_and_says_which_method_needs_it_why_and_what_to_set(
    name: str, tmp_path: Path
) -> None:
    architecture, method, code = WANTING[name]
    pair = Pair(architecture, allow="nobody")
    with pytest.raises(UsageError, match=rf"(weight|bias): {code}, is not possible") as caught:
        put_on(pair.remote(), METHODS[method], tmp_path)(**batches(1)[0])
    assert 'set lending.allow = "same_user"' in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # as above
def test_a_method_that_only_multiplies_rows_by_the_weights_needs_none_of_their_values(tmp_path: Path) -> None:
    pair = Pair("llama", allow="nobody")
    ours, plain = (put_on(base, METHODS["deft"], tmp_path) for base in (pair.remote(), pair.plain()))
    Run(ours, steps=3).check(Run(plain, steps=3))


@pytest.mark.parametrize("name", MERGING)
def test_a_merge_that_nobody_lends_weights_for_names_itself_and_the_method(name: str, tmp_path: Path) -> None:
    model: Any = put_on(Pair("llama", allow="nobody").remote(), METHODS[name], tmp_path)
    with pytest.raises(UsageError, match=rf"peft\.tuners\.{name}\.\S+ needs for \S+\.merge_and_unload, is not"):
        model.merge_and_unload()


def test_the_lent_cut_is_refused_where_nobody_lends() -> None:
    with pytest.raises(RefusedError, match=r"lends its weights to nobody"):
        Pair("llama", allow="nobody").remote(Cut.LENT)


def test_who_needs_a_value_is_named_without_peft_too() -> None:
    weight = Pair("llama", allow="nobody").remote().lm_head.weight
    with pytest.raises(
        UsageError, match=rf"reading its values in torch's add\(\), which {__name__}\.test_who\S+ needs"
    ):
        weight.data + 1


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
