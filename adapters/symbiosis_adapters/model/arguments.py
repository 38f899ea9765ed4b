"""What a script tells transformers' `from_pretrained`, sorted for a base that is borrowed.

Some of it says how a checkpoint is found and read, which the daemon has done: it is passed over. Some says which
weights, in which form: it must be what the daemon has, or that is said. Whatever names a field of the model's
configuration is applied to the configuration here, as transformers does it.
"""

from __future__ import annotations

import reprlib
import warnings
from typing import Any, Final, NamedTuple

import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig

from symbiosis_adapters.names import names
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import ModelSpec
from symbiosis_transports.tensors import torch_dtype

__all__ = ["Asked", "check_form", "name_of", "refuse_unknown", "sort"]


_FINDING: Final = names(
    "_commit_hash _fast_init _from_auto _from_pipeline adapter_kwargs adapter_name allow_all_kernels cache_dir "
    "code_revision disable_mmap force_download from_flax from_tf ignore_mismatched_sizes key_mapping "
    "local_files_only low_cpu_mem_usage max_memory mirror offload_buffers offload_folder offload_state_dict "
    "proxies resume_download token tqdm_class trust_remote_code use_auth_token use_safetensors weights_only"
)
"""How a checkpoint is found, read and placed. Passed over in silence: no result depends on it."""
_WHICH: Final = names("experts_implementation fusion_config gguf_file revision subfolder variant")
"""Which weights, and how they are computed with: the daemon has decided. Passed over, which is said."""
_HARMLESS: Final = (None, False, "", "main", "eager")
_IMPOSSIBLE: Final = names("device_mesh distributed_config kernel_config state_dict tp_plan tp_size use_kernels")
"""Other weights, or other code to compute with them."""
_SPREADS: Final = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
_BITS: Final = {"": "not quantised", "int8": "held in int8 by torchao", "nf4": "held in nf4 by bitsandbytes"}
_OLD_WAYS: Final = names("load_in_4bit load_in_8bit")
_DOUBLE: Final = "bnb_4bit_use_double_quant"
_FITTING: Final = {
    "": "",
    "int8": ", TorchAoConfig(Int8WeightOnlyConfig())",
    "nf4": f', BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", {_DOUBLE}=True)',
}
"""What a script would write for it."""


class Asked(NamedTuple):
    """What is left to be done here."""

    dtype: str | None
    quantization: Any
    device: torch.device | None
    config: PretrainedConfig | None
    generation: GenerationConfig | None
    loading_info: bool
    overrides: dict[str, Any]
    """Fields of the configuration."""


def sort(dtype: torch.dtype | str | None, given: dict[str, Any]) -> Asked:
    """Takes the arguments apart, and warns once of those that somebody may rely on and that are passed over.

    Raises:
        UsageError: an argument cannot be honoured with a base that others use.
    """
    rest = {key: value for key, value in given.items() if key not in _FINDING}
    if impossible := [key for key in rest if key in _IMPOSSIBLE and rest[key]]:
        raise _refused({key: rest[key] for key in impossible})
    old_name = rest.pop("torch_dtype", None)
    device, split = _device(rest.pop("device_map", None))
    passed_over = {key: rest.pop(key) for key in _WHICH & rest.keys()} | split
    if named := {key: value for key, value in sorted(passed_over.items()) if value not in _HARMLESS}:
        warnings.warn(
            f"{_said(named)}: passed over, for the daemon has loaded the base and decides it", stacklevel=3
        )
    config = rest.pop("config", None)
    return Asked(
        dtype=name_of(dtype) or name_of(old_name),
        quantization=_quantization(rest),
        device=device,
        config=config if config is None or isinstance(config, PretrainedConfig) else _read_config(config),
        generation=rest.pop("generation_config", None),
        loading_info=bool(rest.pop("output_loading_info", False)),
        overrides={key: value for key, value in rest.items() if key not in _IMPOSSIBLE},
    )


def check_form(asked: Asked, spec: ModelSpec) -> None:
    """Raises UsageError if the daemon holds the base in another type, or otherwise quantised."""
    held = str(torch_dtype(spec.dtype)).removeprefix("torch.")
    if asked.dtype not in (None, held):
        raise UsageError(
            f"dtype={asked.dtype}: the daemon holds {spec.name} in {held}; leave dtype out, or start a "
            f"daemon with --dtype {asked.dtype}"
        )
    if asked.quantization is None:
        return
    fields = _fields(asked.quantization)
    wanted = _kind(fields)
    if wanted != spec.quantized:
        name, value = _argument(asked.quantization)
        remedy = "ask for what it has" + _FITTING[spec.quantized]
        if wanted:
            remedy = f"start a daemon with --quantize {wanted}"
        raise UsageError(
            f"{name}={value}: the base {spec.name} is {_BITS[spec.quantized]}; leave {name} out, or {remedy}"
        )
    if wanted == "nf4" and fields.get(_DOUBLE) is False:
        warnings.warn(
            f"{_DOUBLE}=False: passed over, for a daemon with --quantize nf4 quantises doubly; only a checkpoint "
            "that came in nf4 has it as it came",
            stacklevel=3,
        )


def name_of(dtype: torch.dtype | str | None) -> str | None:
    """Returns what a type is called in a command line; None for whatever the daemon has."""
    if dtype is None or dtype == "auto":
        return None
    return str(dtype).removeprefix("torch.")


def refuse_unknown(unknown: dict[str, Any]) -> None:
    """Raises UsageError for what is no field of the configuration, if there is any."""
    if unknown:
        raise _refused(unknown)


def _refused(arguments: dict[str, Any]) -> UsageError:
    return UsageError(
        f"{_said(arguments)}: the base is loaded by the daemon, and this process only borrows it; give such "
        "arguments to `symbiosis serve`, or leave them out"
    )


def _said(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{key}={reprlib.repr(value)}" for key, value in arguments.items())


def _device(device_map: Any) -> tuple[torch.device | None, dict[str, Any]]:
    """Returns where the client's part of the model goes, and what of the map is passed over."""
    if isinstance(device_map, dict) and set(device_map) == {""}:
        device_map = device_map[""]
    if isinstance(device_map, dict):
        return None, {"device_map": device_map}
    if device_map is None or device_map in _SPREADS:
        return None, {}
    return torch.device(device_map), {}


def _read_config(source: Any) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(source)
    return config


def _quantization(rest: dict[str, Any]) -> Any:
    """Takes what is said about quantisation out; the two old arguments are what bitsandbytes calls its fields."""
    old = {key: rest.pop(key) for key in sorted(_OLD_WAYS & rest.keys())}
    given = rest.pop("quantization_config", None)
    return given if given is not None or not any(old.values()) else old


def _argument(quantization: Any) -> tuple[str, str]:
    """Returns what the user called it, and what he gave."""
    if isinstance(quantization, dict) and quantization.keys() <= _OLD_WAYS and any(quantization.values()):
        return next(key for key, value in quantization.items() if value), "True"
    return "quantization_config", type(quantization).__name__


def _fields(quantization: Any) -> dict[str, Any]:
    fields: dict[str, Any] = quantization if isinstance(quantization, dict) else quantization.to_dict()
    return fields


def _kind(fields: dict[str, Any]) -> str | None:
    """Returns the daemon's word for a way to quantise; None: it has none. What is left unsaid is the daemon's."""
    if fields.get("load_in_4bit"):
        return "nf4" if fields.get("bnb_4bit_quant_type", "nf4") == "nf4" else None
    by_torchao = fields.get("quant_method") == "torchao"
    return "int8" if by_torchao and "int8weightonly" in str(fields.get("quant_type")).lower() else None
