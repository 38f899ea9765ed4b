"""A client as its own process that computes with lent weights: one forward, then it waits to be told to end.

    python lent_tenant.py ADDRESS

Prints `ready` after the forward.
"""

from __future__ import annotations

import sys

import torch

from symbiosis_adapters import AutoModelForCausalLM

torch.set_num_threads(1)


def main() -> None:
    """Reads every weight once."""
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], cut="lent")
    with torch.no_grad():
        model(torch.arange(model.config.vocab_size)[None, :8]).logits.sum().item()
        for parameter in model.parameters():
            parameter.sum()  # the embedding's rows too
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
