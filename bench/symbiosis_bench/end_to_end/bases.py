"""Model folders, made by a process of its own: the benchmark itself never imports torch.

    python -m symbiosis_bench.end_to_end.bases find MODEL
    python -m symbiosis_bench.end_to_end.bases make FOLDER --shape JSON --dtype bfloat16

It tells the folder, and waits for the end of its standard input.
"""

from __future__ import annotations

import argparse
import threading

import msgspec

from symbiosis_bench.end_to_end.messages import Made
from symbiosis_bench.end_to_end.settings import Base
from symbiosis_bench.lifeline import listen
from symbiosis_bench.lines import Reporter

__all__ = ["main"]

_POSITIONS = 2048


def main() -> None:
    """Finds or makes a folder, and tells it."""
    reporter = Reporter()
    listen(lambda _: None)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("find", "make"))
    parser.add_argument("where")
    parser.add_argument("--shape", default="{}")
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    if given.what == "find":
        from symbiosis_scheduler.frozen.embedded import resolve

        folder = resolve(given.where)
    else:
        folder = _make(given.where, msgspec.json.decode(given.shape, type=Base), given.dtype)
    reporter.tell(Made(folder))
    threading.Event().wait()


def _make(folder: str, shape: Base, dtype: str) -> str:
    """Saves a randomly initialised Llama."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=_POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
