"""Brings a frozen base model into memory: the embedded one, a local folder, or one of the Hugging Face hub.

All through transformers, so that the daemon holds exactly what plain PEFT would. Whatever would make the lent
model another than the user expects (weights that were missing and came out random, a quantised checkpoint, an
adapter instead of a base) is an error here and not a surprise in a loss curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from symbiosis_scheduler.frozen import embedded
from symbiosis_scheduler.frozen.bitsandbytes_nf4 import nf4_config, prepare_nf4
from symbiosis_scheduler.frozen.quiet import no_progress_bars
from symbiosis_scheduler.frozen.torchao_int8 import int8_config, unlendable_int8
from symbiosis_transports.tensors import torch_dtype

__all__ = ["LoadedModel", "load"]

_LOADABLE: Final = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in eval mode whose parameters require no gradient."""

    name: str
    """Its name in the daemon, used in `address#name`."""
    name_or_path: str
    """What plain PEFT would record as the base model."""
    dtype: DType
    model: PreTrainedModel


def load(model: str, dtype: DType, name: str = "", quantize: str = "none") -> LoadedModel:
    """Returns the model: `smollm2`, the path of a folder, or a hub id such as `owner/name`.

    Without a `name` it is called by what it was loaded from. `quantize` is `none`, `int8` or `nf4`: see
    `ModelConfig.quantize`.

    Raises:
        UsageError: there is no such model, or it is none that can be lent as a frozen base.
    """
    if dtype not in _LOADABLE:
        allowed = ", ".join(kind.name.lower() for kind in _LOADABLE)
        raise UsageError(f"a model cannot be loaded as {dtype.name.lower()}; choose one of {allowed}")
    found, name_or_path = _locate(model)
    network, info = _from_pretrained(model, name_or_path, dtype, _quantization(quantize, dtype))
    _check(model, network, info, dtype)
    network.eval()
    network.requires_grad_(False)
    return LoadedModel(name or found, name_or_path, dtype, network)


def _locate(model: str) -> tuple[str, str]:
    """Returns the model's name and what transformers is given for it."""
    if model == embedded.NAME:
        return model, embedded.resolve(model)
    path = Path(model).expanduser()
    if model and path.is_dir():
        # Clients run in other folders than the daemon, so a relative path would mean another model to them.
        return path.resolve().name, str(path.absolute())
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1 or not model:
        raise UsageError(
            f"there is no folder {path.absolute()}. Give a folder with a config.json and safetensors, a hub id "
            f"such as owner/name, or {embedded.NAME}"
        )
    return model, model


def _quantization(quantize: str, dtype: DType) -> dict[str, Any]:
    if quantize == "int8":
        return {"quantization_config": int8_config()}
    return {"quantization_config": nf4_config(torch_dtype(dtype))} if quantize == "nf4" else {}


def _unlendable(network: PreTrainedModel, dtype: DType) -> str:
    """Returns why a quantised model cannot be lent; empty: it can."""
    quantizer: Any = network.hf_quantizer
    method = getattr(quantizer.quantization_config, "quant_method", None)
    match name := getattr(method, "value", method):
        case "torchao":
            return unlendable_int8(network)
        case "bitsandbytes":
            return prepare_nf4(network, torch_dtype(dtype))
    return f"with {name}, and only torchao's int8 weights and bitsandbytes' nf4 weights are lent"


def _from_pretrained(
    model: str, name_or_path: str, dtype: DType, quantization: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    tried = f"the folder {name_or_path}" if Path(name_or_path).is_dir() else f"the hub id {name_or_path}"
    try:
        with no_progress_bars():
            # Typed as a model, but with output_loading_info it is a pair.
            # On the CPU, whatever devices there are: bitsandbytes would take a GPU by itself.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name_or_path,
                dtype=torch_dtype(dtype),
                output_loading_info=True,
                device_map={"": "cpu"},
                **quantization,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise UsageError(
            f"{model} cannot be loaded as a causal language model; tried {tried}. {error} "
            f"Check the name; without a network give a folder on this machine, or {embedded.NAME}"
        ) from error
    network, info = loaded
    return network, info


def _check(model: str, network: PreTrainedModel, info: dict[str, Any], dtype: DType) -> None:
    if getattr(network, "_hf_peft_config_loaded", False):
        raise UsageError(f"{model} is an adapter. Lend its base model; clients load the adapter themselves")
    if getattr(network, "hf_quantizer", None) is not None and (why := _unlendable(network, dtype)):
        raise UsageError(f"{model} is quantised {why}. Or lend the checkpoint in bfloat16 or float32")
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise UsageError(
            f"{model} lacks {len(lacking)} weights of {type(network).__name__}, among them {lacking[0]}; they "
            "would be random. Lend a checkpoint of a whole causal language model"
        )
