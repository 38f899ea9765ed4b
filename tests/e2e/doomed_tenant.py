"""Tenants of a real daemon that are killed or stopped at any point of coming in, one forward, and leaving.

    python -m tests.e2e.doomed_tenant ADDRESS SIGKILL|SIGSTOP STEP

They are hit before a line of the transports, STEP lines later each time: see `tests.transports.doom`.
"""

from __future__ import annotations

import signal
import sys
from functools import partial

import torch

from symbiosis_adapters import AutoModelForCausalLM
from tests.transports.doom import Doom, one_after_the_other

IDS = torch.arange(3, 15)[None]


def one_forward(address: str, doom: Doom) -> None:
    """A tenant's life."""
    sys.settrace(doom.trace)
    model = AutoModelForCausalLM.from_pretrained(address, name="doomed")
    model(IDS).logits.sum().item()
    model.symbiosis.close()
    sys.settrace(None)


def main() -> None:
    """See above. Nothing is computed or opened before it forks."""
    torch.set_num_threads(1)
    address, how, step = sys.argv[1:]
    one_after_the_other(signal.Signals[how], int(step), partial(one_forward, address))


if __name__ == "__main__":
    main()
