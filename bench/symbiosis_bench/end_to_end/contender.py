"""The model of a worker, opened as a user opens it. What differs between contenders is here, and nowhere else."""

from __future__ import annotations

from typing import Any, Final

import torch
import transformers

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_bench.end_to_end.adapter import digest, snapshot, with_adapter
from symbiosis_bench.end_to_end.messages import Ready
from symbiosis_bench.end_to_end.text import Text

__all__ = ["PROMPT_TOKENS", "Contender", "open_plain", "open_split", "own_copy"]

PROMPT_TOKENS: Final = 32


class Contender:
    """A base with its adapter, the text it works on, and the threads torch had when it was imported."""

    def __init__(self, base: Any, folder: str, client: int) -> None:
        self._handle = getattr(base, "symbiosis", None)
        self.default_threads = torch.get_num_threads()
        self.model = with_adapter(base, seed=client)
        self.model.generation_config.eos_token_id = None  # all contenders make as many tokens as they are told
        self.model.generation_config.pad_token_id = 0
        self.adapter = snapshot(self.model)
        self.text = Text(folder, self.model.config.vocab_size, client)
        self.device = self.model.device

    def __repr__(self) -> str:
        return f"<Contender on {self.device}: {self._handle or 'plain'}>"

    def ready(self) -> Ready:
        """Returns what is worth knowing of it."""
        return Ready(
            torch_threads=self.default_threads,
            attention=str(self.model.config._attn_implementation),
            dtype=str(self.model.dtype).removeprefix("torch."),
            adapter=digest(self.adapter),
            cut=str(self._handle.explain()).splitlines()[0] if self._handle else "",
        )

    def begin(self, threads: int) -> None:
        """Readies the process for an interval: gives torch so many threads, and forgets earlier peaks."""
        self.threads(threads)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def threads(self, wanted: int) -> None:
        """Gives torch so many threads; 0: those it had."""
        if torch.get_num_threads() != (threads := wanted or self.default_threads):
            torch.set_num_threads(threads)

    def synchronize(self) -> None:
        """Returns when what was launched is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def cuda_bytes(self) -> int | None:
        """Returns the most that torch has held on the GPU since `begin`; None without one."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def device_bytes(self) -> int | None:
        """Returns what all processes hold on the GPU now, its contexts included; None without one."""
        if self.device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free


def open_plain(folder: str, dtype: str, device: str) -> Any:
    """Returns transformers' own model, as anybody loads it."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.to(device)


def open_split(address: str, lane: str, name: str, cut: str, device: str, *, capture: bool = False) -> Any:
    """Returns the same on a shared base. No cut: the library's default."""
    chosen: dict[str, Any] = {"cut": cut} if cut else {}
    model = AutoModelForCausalLM.from_pretrained(address, lane=lane, name=name, **chosen)
    if capture:
        model.symbiosis.capture(at_once=True)
    return model if device == "cpu" else model.to(device)


def own_copy(base: Any) -> Any:
    """Gives the process weights of its own; transformers maps the file where it can, which shares pages."""
    with torch.no_grad():
        for parameter in base.parameters():  # tied ones come once
            parameter.data = parameter.data.clone()
    return base
