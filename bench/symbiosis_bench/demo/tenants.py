"""Who lives on the shared base in the demo: three fine-tuning tenants and one that chats.

Data only. Loading it costs the parent process nothing; what PEFT and transformers make of it is `training`'s
and `chatting`'s business.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from symbiosis_bench.demo.examples import Example, bookings, persona, pydocs

__all__ = ["CHAT", "TENANTS", "ChatTenant", "Ia3", "Lora", "TrainingTenant", "training_tenant"]


class Lora(msgspec.Struct, frozen=True):
    """LoRA adapters of one rank on some linear layers."""

    rank: int
    targets: tuple[str, ...]

    def __str__(self) -> str:
        return f"LoRA r={self.rank} {_short(self.targets)}"


class Ia3(msgspec.Struct, frozen=True):
    """IA3: one learned factor for every input of the feedforward targets and every output of the others."""

    targets: tuple[str, ...]
    feedforward: tuple[str, ...]

    def __str__(self) -> str:
        return f"IA3 {_short(self.targets)}"


class TrainingTenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that fine-tunes an adapter through transformers' Trainer."""

    name: str
    lane: str = "training"
    method: Lora | Ia3
    examples: Callable[[], list[Example]]
    longest: int
    """Tokens of one example at most; longer text is cut into examples."""
    batch: int = 2
    learning_rate: float
    question: str = ""
    """Asked before and after the training, to show that it did something. Not among the examples. May be empty."""


class ChatTenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that keeps generating on the bare base."""

    name: str
    lane: str = "inference"
    answer_tokens: int
    prompts: tuple[str, ...]


TENANTS = (
    TrainingTenant(
        name="persona",
        method=Lora(rank=8, targets=("q_proj", "v_proj")),
        examples=persona,
        longest=64,
        learning_rate=5e-3,
        question="What is your name?",
    ),
    TrainingTenant(
        name="pydocs",
        method=Lora(
            rank=16, targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        ),
        examples=pydocs,
        longest=48,
        learning_rate=2e-3,
    ),
    TrainingTenant(
        name="bookings",
        method=Ia3(targets=("k_proj", "v_proj", "down_proj"), feedforward=("down_proj",)),
        examples=bookings,
        longest=64,
        learning_rate=2e-2,
    ),
)

CHAT = ChatTenant(
    name="chat",
    answer_tokens=48,
    prompts=(
        "What is the capital of France?",
        "Give me three tips for a good night's sleep.",
        "Explain in one sentence why the sky is blue.",
        "Write two lines of a poem about the sea.",
        "What is the difference between a list and a tuple in Python?",
        "Name a fruit, and say what it tastes like.",
    ),
)


def training_tenant(name: str) -> TrainingTenant:
    """Returns the training tenant of that name."""
    return next(tenant for tenant in TENANTS if tenant.name == name)


def _short(targets: tuple[str, ...]) -> str:
    return ", ".join(target.removesuffix("_proj") for target in targets)
