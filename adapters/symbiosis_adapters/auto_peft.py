"""`AutoPeftModelForCausalLM`: a saved adapter on a shared base.

PEFT's class of that name loads the base that the adapter's configuration names, a copy of one's own. An address is
nothing that it could name, so here the base is said, and everything else is as in PEFT: an adapter of another task
is an error, and where a tokenizer with more tokens was saved beside it, the base's tables are made as long.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from peft import PeftConfig, PeftModel, TaskType
from peft.utils.other import check_file_exists_on_hf_hub
from transformers import AutoTokenizer

from symbiosis_adapters.auto import AutoModelForCausalLM
from symbiosis_core.errors import UsageError

__all__ = ["AutoPeftModelForCausalLM"]

_OF_THE_ADAPTER: Final = ("revision", "subfolder", "token", "cache_dir", "local_files_only")
_OF_ITS_TOKENIZER: Final = ("revision", "token", "cache_dir", "local_files_only")
_TOKENIZER: Final = "tokenizer_config.json"


class AutoPeftModelForCausalLM:
    """Opens a saved adapter on a shared base. Not for instances: use `from_pretrained`."""

    @classmethod
    def from_pretrained(
        cls,
        adapter: str,
        *,
        base: str,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        **arguments: Any,
    ) -> Any:
        """Returns the PEFT model of a saved adapter, whose base is lent by the daemon at the address `base`.

        `revision`, `subfolder` and `token` say where the adapter is found; what else there is goes to
        `AutoModelForCausalLM.from_pretrained`, and raises as that does.

        Raises:
            UsageError: the adapter is for another task; or it has more tokens than the base, which is not lent.
        """
        where = {key: arguments.pop(key) for key in _OF_THE_ADAPTER if key in arguments}
        if arguments.pop("output_loading_info", False):
            raise UsageError("output_loading_info=True: a PEFT model has none; ask AutoModelForCausalLM for it")
        _check_task(adapter, PeftConfig.from_pretrained(adapter, **where).task_type)
        trusted = bool(arguments.get("trust_remote_code", False))
        model = AutoModelForCausalLM.from_pretrained(base, **arguments)
        try:
            _make_room(model, adapter, {key: where[key] for key in _OF_ITS_TOKENIZER if key in where}, trusted)
            return PeftModel.from_pretrained(model, adapter, adapter_name, is_trainable, config, **where)
        except BaseException:
            model.symbiosis.close()
            raise


def _check_task(adapter: str, task: Any) -> None:
    if task is not None and task != TaskType.CAUSAL_LM:
        raise UsageError(
            f"{adapter} is an adapter for {TaskType(task).value}; open the base with the class of "
            "symbiosis_adapters for that, and give it to PeftModel.from_pretrained"
        )


def _make_room(model: Any, adapter: str, where: dict[str, Any], trusted: bool) -> None:
    """Makes the tables of a base as long as the vocabulary that was saved with an adapter."""
    if Path(adapter).is_dir():
        saved = (Path(adapter) / _TOKENIZER).exists()
    else:
        asked = {key: where[key] for key in ("revision", "token") if key in where}
        saved = bool(check_file_exists_on_hf_hub(adapter, _TOKENIZER, **asked))
    if saved:
        tokens = len(AutoTokenizer.from_pretrained(adapter, trust_remote_code=trusted, **where))
        if tokens > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(tokens)
