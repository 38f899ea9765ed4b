"""A client against the same model by itself, beside a daemon on the GPU: logits, LoRA gradients, and tokens.

The client is on the same GPU, and its rows stay there (`cuda_ipc`); or it is on the CPU or another GPU, and they
go through host memory. Its KV cache is where it is itself. The base is a small random Llama, so nothing has to be
fetched. float32 must agree closely; bfloat16 as its eight bits allow, since the daemon's sums are made in another
order.
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


def with_lora(base: torch.nn.Module, device: str) -> PeftModel:
    """Returns the model with LoRA of the same numbers everywhere."""
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.0)).to(device)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator) / 20
            parameter.data.copy_(values.to(parameter.dtype))
    return model


def one_step(model: PeftModel) -> list[torch.Tensor]:
    """Returns logits, and the gradients of the adapter."""
    ids = torch.arange(96, device=model.device).view(2, 48) % 512
    out = model(input_ids=ids, labels=ids)
    out.loss.backward()
    gradients = [p.grad for name, p in sorted(model.named_parameters()) if "lora_" in name and p.grad is not None]
    return [tensor.detach().float().cpu() for tensor in (out.logits, *gradients)]


def tokens(model: PeftModel) -> tuple[list[int], str]:
    """Returns tokens that the model generates, and the device of its KV cache."""
    prompt = torch.arange(8, device=model.device).view(1, 8)
    with torch.no_grad():
        out = model.generate(
            input_ids=prompt, max_new_tokens=8, do_sample=False, return_dict_in_generate=True, use_cache=True
        )
    return out.sequences[0].tolist(), out.past_key_values.layers[0].keys.device.type


def furthest(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Returns the largest difference, relative to the largest value of its tensor."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)


def wish(client: str, daemons: str) -> str:
    """Returns what a client on one device says to a daemon on another: 1 where they share one.

    This process sees every GPU, wherever its model will be, so it is the wish that makes the choice.
    """
    return "1" if client == daemons != "cpu" else "0"


def main() -> None:
    """Compares; fails where they differ, or where the rows did not travel as they should."""
    parser = options(__doc__)
    parser.add_argument("--dtype", choices=sorted(_TOLERANCE), default="float32")
    parser.add_argument("--client", default="cuda:0", help="the client's device")
    asked = parser.parse_args()
    daemons = "cpu" if asked.fake else "cuda:0"
    os.environ[WISH_VARIABLE] = wish(asked.client, daemons)
    if asked.client == "cuda:1" and torch.cuda.device_count() < 2:
        tell(skipped="there is no second GPU")
        return
    with tempfile.TemporaryDirectory() as name:
        base, address = make_base(Path(name)), f"ipc://{name}/d.sock"
        daemon = subprocess.Popen(
            serve_command(str(base), address, "--device", daemons, "--dtype", asked.dtype),
            stdout=subprocess.DEVNULL,
            env={**os.environ, WISH_VARIABLE: "1"},
        )
        try:
            deadline = time.monotonic() + _START_S
            while not answers(address):
                assert daemon.poll() is None, "the daemon ended"
                assert time.monotonic() < deadline, "the daemon did not start"
                time.sleep(0.2)
            split = with_lora(Lent.from_pretrained(address), asked.client)
            ours, written = one_step(split), tokens(split)
            (seat,) = fetch_status(address).clients
            wanted = "cuda_ipc" if os.environ[WISH_VARIABLE] == "1" else "posix_shm"
            assert seat.transport == wanted, f"rows travelled by {seat.transport}: {'; '.join(seat.reasons)}"
            own = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, asked.dtype))
            plain = with_lora(own, daemons)
            difference = furthest(ours, one_step(plain))
            expected, _ = tokens(plain)
        finally:
            daemon.kill()
            daemon.wait()
    assert difference <= _TOLERANCE[asked.dtype], f"they differ by {difference:.2g} of the largest value"
    assert written[1] == torch.device(asked.client).type, f"the KV cache is on {written[1]}"
    if asked.dtype == "float32":  # in bfloat16 two right answers may choose another token
        assert written[0] == expected, f"it wrote {written[0]} instead of {expected}"
    tell(dtype=asked.dtype, client=asked.client, largest_relative_difference=difference, tensors=len(ours))


if __name__ == "__main__":
    main()
