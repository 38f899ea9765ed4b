"""A client on the GPU against the same model on the GPU by itself: logits and LoRA gradients, over `cuda_ipc`.

The base is a small random Llama, so nothing has to be fetched. float32 must agree closely; bfloat16 as its eight
bits allow, since the daemon's sums are made in another order.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from symbiosis_adapters import AutoModelForCausalLM as Lent
from symbiosis_bench.daemon import answers, serve_command
from symbiosis_bench.gpu_check.parts.asked import options, tell
from symbiosis_scheduler.commands.status import fetch_status
from symbiosis_transports.cuda_ipc import WISH_VARIABLE

_START_S: Final = 100.0
_TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 5e-2}


def make_base(folder: Path) -> Path:
    """Writes the random base."""
    torch.manual_seed(7)
    shape = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
    )
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder / "base")
    return folder / "base"


def with_lora(base: torch.nn.Module) -> PeftModel:
    """Returns the model with LoRA of the same numbers everywhere."""
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.0)).cuda()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator) / 20
            parameter.data.copy_(values.to(parameter.dtype))
    return model


def one_step(model: PeftModel) -> list[torch.Tensor]:
    """Returns logits, and the gradients of the adapter."""
    ids = torch.arange(96, device="cuda").view(2, 48) % 512
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    gradients = [p.grad for name, p in sorted(model.named_parameters()) if "lora_" in name and p.grad is not None]
    return [tensor.detach().float().cpu() for tensor in (out.logits, *gradients)]


def furthest(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Returns the largest difference, relative to the largest value of its tensor."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)


def main() -> None:
    """Compares; fails where they differ, or where the rows did not travel on the device."""
    parser = options(__doc__)
    parser.add_argument("--dtype", choices=sorted(_TOLERANCE), default="float32")
    asked = parser.parse_args()
    os.environ[WISH_VARIABLE] = "1"
    with tempfile.TemporaryDirectory() as name:
        base, address = make_base(Path(name)), f"ipc://{name}/d.sock"
        daemon = subprocess.Popen(
            serve_command(str(base), address, "--device", "cuda", "--dtype", asked.dtype),
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + _START_S
            while not answers(address):
                assert daemon.poll() is None, "the daemon ended"
                assert time.monotonic() < deadline, "the daemon did not start"
                time.sleep(0.2)
            split = one_step(with_lora(Lent.from_pretrained(address)))
            (seat,) = fetch_status(address).clients
            assert seat.transport == "cuda_ipc", f"rows travelled otherwise: {'; '.join(seat.reasons)}"
            own = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, asked.dtype))
            difference = furthest(split, one_step(with_lora(own)))
        finally:
            daemon.kill()
            daemon.wait()
    assert difference <= _TOLERANCE[asked.dtype], f"they differ by {difference:.2g} of the largest value"
    tell(dtype=asked.dtype, largest_relative_difference=difference, tensors=len(split))


if __name__ == "__main__":
    main()
