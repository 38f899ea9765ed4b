"""`AutoPeftModelForCausalLM`: a saved adapter on a shared base.

PEFT's class of that name loads the base that the adapter's configuration names, a copy of one's own. An address is
nothing that it could name, so here the base is said, and everything else is as in PEFT.
"""

from __future__ import annotations

from typing import Any

from peft import PeftConfig, PeftModel

from symbiosis_adapters.auto import AutoModelForCausalLM

__all__ = ["AutoPeftModelForCausalLM"]

_OF_THE_ADAPTER = ("revision", "subfolder", "token", "cache_dir", "local_files_only")


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
        """
        where = {key: arguments.pop(key) for key in _OF_THE_ADAPTER if key in arguments}
        model = AutoModelForCausalLM.from_pretrained(base, **arguments)
        try:
            return PeftModel.from_pretrained(model, adapter, adapter_name, is_trainable, config, **where)
        except BaseException:
            model.symbiosis.close()
            raise
