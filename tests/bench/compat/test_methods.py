"""The table has every tuner of PEFT, and no field that PEFT has not."""

from __future__ import annotations

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoConfig

from symbiosis_bench.compat.families import FAMILIES, QUICK_FAMILIES, shape_of
from symbiosis_bench.compat.methods import METHODS, QUICK_METHODS


def test_no_tuner_of_peft_is_forgotten() -> None:
    assert {method.tuner for method in METHODS.values()} == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


def test_every_configuration_has_the_fields_that_are_set() -> None:
    for name, method in METHODS.items():
        fields = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(method.tuner)].__dataclass_fields__
        assert set(method.fields) <= set(fields), name


def test_the_quick_run_is_a_part_of_the_whole() -> None:
    assert set(QUICK_FAMILIES) <= set(FAMILIES)
    assert set(QUICK_METHODS) <= set(METHODS)


def test_a_family_that_is_not_in_the_table_has_a_small_shape_too() -> None:
    config = AutoConfig.for_model("helium", **shape_of("helium"))
    assert (config.hidden_size, config.num_hidden_layers, config.num_key_value_heads) == (32, 2, 4)
    assert shape_of("llama") is FAMILIES["llama"]
