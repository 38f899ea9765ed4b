"""The configuration of a model: the daemon's or the user's own, as far as it fits the daemon's weights."""

from __future__ import annotations

import contextlib
import json
import reprlib
from collections.abc import Iterator
from typing import Any, Final

import transformers
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from symbiosis_adapters.model.arguments import refuse_unknown
from symbiosis_adapters.model.heads import Head
from symbiosis_core.errors import RemoteProtocolError, UsageError
from symbiosis_core.specs import ModelSpec

__all__ = ["blaming_fields", "configure"]

_BESIDE: Final = frozenset(
    ["_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type", "transformers_version"]
)
"""Fields on which no weight of a base depends."""
_NO_JSON: Final = ("Infinity", "-Infinity", "NaN")


def configure(spec: ModelSpec, head: Head) -> PretrainedConfig:
    """Returns the configuration of the daemon's, or the user's own, with the fields that he gave beside.

    Raises:
        UsageError: this transformers does not know such models, or what the user gave is no field, or is not his
            to choose.
    """
    fields = _fields(spec)
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UsageError(
            f"{spec.name} has model type {model_type!r}, which transformers {transformers.__version__} does not "
            "know; install the release that the daemon uses"
        )
    if head.config is not None:
        if head.config.model_type != model_type:
            raise UsageError(f"config= is of model type {head.config.model_type!r}, the base of {model_type!r}")
        fields = {**head.config.to_dict(), "model_type": model_type}
        fields.pop("quantization_config", None)
    turned = [key for key in head.fields if key.startswith("rope_")]
    config, unknown = _configured(fields, head.fields)
    if head.config is not None and not turned and _positions(config) != _positions(_configured(_fields(spec))[0]):
        turned = ["rope_parameters of config="]
    if turned:
        raise UsageError(
            f"{', '.join(turned)}: the tables of positions are the daemon's; change the config.json of its base"
        )
    refuse_unknown(unknown)
    config._name_or_path = spec.name_or_path
    return config


@contextlib.contextmanager
def blaming_fields(spec: ModelSpec, config: PretrainedConfig) -> Iterator[None]:
    """Makes of a catalogue that does not fit a UsageError, where the configuration is not the daemon's."""
    try:
        yield
    except RemoteProtocolError as error:
        if not (differing := list(_differing(config, _configured(_fields(spec))[0]))):
            raise
        raise UsageError(
            f"{', '.join(differing)}: the weights are the daemon's, and a model of that configuration has others; "
            f"leave such fields as the base has them ({error})"
        ) from error


def _fields(spec: ModelSpec) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(spec.config_json, object_hook=_number)
    fields.pop("auto_map", None)  # names code to download; the daemon's config is data
    fields.pop("quantization_config", None)  # what the daemon serves is no longer quantized
    return fields


def _number(found: dict[str, Any]) -> Any:
    """Returns the number that transformers writes like this, for JSON has no infinity: Mamba's time steps."""
    return float(found["__float__"]) if found.get("__float__") in _NO_JSON and len(found) == 1 else found


def _configured(
    fields: dict[str, Any], given: dict[str, Any] | None = None
) -> tuple[PretrainedConfig, dict[str, Any]]:
    """Returns a configuration, and what of the given is no field of it."""
    made: Any = CONFIG_MAPPING[fields["model_type"]].from_dict(fields, return_unused_kwargs=True, **(given or {}))
    config, unknown = made
    return config, unknown


def _positions(config: PretrainedConfig) -> Any:
    return getattr(config.get_text_config(), "rope_parameters", None)


def _differing(config: PretrainedConfig, base: PretrainedConfig) -> Iterator[str]:
    found, has = config.to_dict(), base.to_dict()
    for key in sorted(found.keys() - _BESIDE):
        if found[key] != has.get(key):
            yield f"{key}={reprlib.repr(found[key])} (the base has {reprlib.repr(has.get(key))})"
