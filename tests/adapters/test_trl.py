"""TRL's trainers on remote models in this process: cuts, heads, packed rows, and both ways to have a reference.

On a base that lends its weights and on one that does not: there the daemon multiplies by the head's parts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import datasets  # type: ignore[import-untyped]  # it has no types
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from symbiosis_adapters.model.heads import Head
from symbiosis_adapters.trips.cut import Cut
from symbiosis_core.errors import UsageError
from tests.adapters.local import VOCABULARY, Pair
from tests.words import tokenizer_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny"),
    # trl 1.16 asks transformers 5.23 by the old names; goes when it asks by those of activation checkpointing
    pytest.mark.filterwarnings(
        "ignore:`gradient_checkpointing(_enable|_disable)?` is deprecated:FutureWarning",
    ),
]

CUTS = pytest.mark.parametrize("cut", [Cut.GRAPH, Cut.SIBLINGS])
LENDING = pytest.mark.parametrize("allow", ["same_user", "nobody"])
Allow = Literal["same_user", "nobody"]
WORDS = [f"w{number}" for number in range(3, VOCABULARY)]
SEQUENCE = transformers.AutoModelForSequenceClassification
Log = list[dict[str, float]]


def texts(seed: int, *lengths: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) for length in lengths]


def pairs(shape: tuple[str, ...], rows: int = 8) -> datasets.Dataset:
    """Preferences, with or without a prompt."""
    return datasets.Dataset.from_list(
        [dict(zip(shape, texts(row, 4, 5 + row % 3, 6), strict=False)) for row in range(rows)]
    )


def lora(task_type: str = "CAUSAL_LM", r: int = 4) -> LoraConfig:
    return LoraConfig(r=r, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type=task_type)


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "learning_rate": 5e-3,
        "adam_epsilon": 1e-3,  # see `training`
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "seed": 0,
        "save_strategy": "no",
        **more,
    }


def logged(trainer: Any, *keys: str) -> Log:
    torch.manual_seed(3)
    trainer.train()
    log = [{key: entry[key] for key in keys} for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 3
    assert len({entry["loss"] for entry in log}) == 3
    return log


def check(found: Log, expected: Log) -> None:
    assert found == [
        {key: pytest.approx(value, rel=1e-5 if key == "loss" else 1e-4, abs=1e-6) for key, value in entry.items()}
        for entry in expected
    ]


def tokenizer() -> Any:
    return tokenizer_of(["<pad>", "<s>", "</s>", *WORDS], "<pad>", pad_token="<pad>", eos_token="</s>")


def both(cut: Cut, allow: Allow, train: Callable[[Any], Log]) -> tuple[Log, Log]:
    """Returns what `train` logs with a remote model and with a plain one."""
    pair = Pair("llama", allow=allow)
    found = []
    for model in (pair.remote(cut), pair.plain()):
        torch.manual_seed(3)
        found.append(train(model))
    return found[0], found[1]


@CUTS
@LENDING
@pytest.mark.parametrize("packed", [{}, {"packing": True, "max_length": 16}], ids=["padded", "packed"])
def test_sft_logs_what_it_logs_on_a_plain_base(
    packed: dict[str, Any], allow: Allow, cut: Cut, tmp_path: Path
) -> None:
    """Packed: several texts in one row, told apart by their positions and without a mask."""
    data = datasets.Dataset.from_list([{"text": text} for text in texts(1, *([5, 7, 9, 3] * 6))])

    def train(model: Any) -> Log:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments(tmp_path, **packed)),
            train_dataset=data,
            processing_class=tokenizer(),
            peft_config=lora(),
        )
        if packed:
            rows: Any = trainer.train_dataset
            assert len(rows) < len(data)
        return logged(trainer, "loss", "grad_norm", "entropy", "mean_token_accuracy")

    check(*both(cut, allow, train))


@CUTS
@LENDING
def test_dpo_logs_what_it_logs_on_a_plain_base(allow: Allow, cut: Cut, tmp_path: Path) -> None:
    def train(model: Any) -> Log:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(**arguments(tmp_path)),
            train_dataset=pairs(("prompt", "chosen", "rejected")),
            processing_class=tokenizer(),
            peft_config=lora(),
        )
        return logged(trainer, "loss", "grad_norm", "rewards/margins", "logps/chosen")

    check(*both(cut, allow, train))


@CUTS
@LENDING
def test_grpo_logs_what_it_logs_on_a_plain_base(allow: Allow, cut: Cut, tmp_path: Path) -> None:
    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return [sum(map(ord, completion)) % 11 / 3 for completion in completions]

    def train(model: Any) -> Log:
        trainer = GRPOTrainer(
            model=model,
            args=GRPOConfig(**arguments(tmp_path, num_generations=2, max_completion_length=6, beta=0.1)),
            train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in texts(1, *([4, 5] * 6))]),
            processing_class=tokenizer(),
            peft_config=lora(),
            reward_funcs=reward,
        )
        return logged(trainer, "loss", "grad_norm", "reward", "kl")

    check(*both(cut, allow, train))


@CUTS
@pytest.mark.parametrize(
    ("merged", "allow"),
    [(False, "same_user"), (True, "same_user"), (False, "nobody")],
    ids=["base", "merged", "base-nobody"],
)
def test_a_reference_of_its_own_is_a_second_client_of_the_same_base(
    merged: bool, allow: Allow, cut: Cut, tmp_path: Path
) -> None:
    """The bare base, or an adapter of before that was merged into what is then this client's own copy."""
    pair = Pair("llama", allow=allow)
    logs = []
    makers: list[Callable[[], Any]] = [lambda: pair.remote(cut), pair.plain]
    for make in makers:
        torch.manual_seed(3)
        policy, reference = get_peft_model(make(), lora()), make()
        if merged:
            earlier: Any = get_peft_model(reference, lora(r=2))
            reference = earlier.merge_and_unload()
        trainer = DPOTrainer(
            model=policy,
            ref_model=reference,
            args=DPOConfig(**arguments(tmp_path)),
            train_dataset=pairs(("prompt", "chosen", "rejected")),
            processing_class=tokenizer(),
        )
        logs.append(logged(trainer, "loss", "grad_norm", "rewards/margins", "logps/chosen"))
    check(*logs)


@CUTS
@LENDING
def test_an_adapter_that_is_trained_on_is_its_own_reference(allow: Allow, cut: Cut, tmp_path: Path) -> None:
    """TRL copies it into a second adapter, and switches between the two."""

    def train(model: Any) -> Log:
        policy = get_peft_model(model, lora())
        trainer = DPOTrainer(
            model=policy,
            args=DPOConfig(**arguments(tmp_path)),
            train_dataset=pairs(("prompt", "chosen", "rejected")),
            processing_class=tokenizer(),
        )
        assert set(policy.peft_config) == {"default", "ref"}
        return logged(trainer, "loss", "grad_norm", "rewards/margins", "logps/chosen")

    check(*both(cut, allow, train))


@CUTS
def test_reference_probabilities_are_computed_beforehand(cut: Cut, tmp_path: Path) -> None:
    """TRL names its cache by a hash of all weights: where they are lent, they are read for that."""

    def train(model: Any) -> Log:
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(**arguments(tmp_path, precompute_ref_log_probs=True)),
            train_dataset=pairs(("prompt", "chosen", "rejected")),
            processing_class=tokenizer(),
            peft_config=lora(),
        )
        data: Any = trainer.train_dataset
        assert "ref_chosen_logps" in data.column_names
        return logged(trainer, "loss", "grad_norm", "rewards/margins", "logps/chosen")

    check(*both(cut, "same_user", train))


@CUTS
def test_that_is_refused_where_nothing_is_lent(cut: Cut, tmp_path: Path) -> None:
    """What needs the weights is named, with the setting that lends them, and what does without."""
    with pytest.raises(UsageError, match=r"DPOTrainer.*lending.allow.*precompute_ref_log_probs"):
        DPOTrainer(
            model=Pair("llama", allow="nobody").remote(cut),
            args=DPOConfig(**arguments(tmp_path, precompute_ref_log_probs=True)),
            train_dataset=pairs(("prompt", "chosen", "rejected")),
            processing_class=tokenizer(),
            peft_config=lora(),
        )


@CUTS
@LENDING
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_reward_model_trains_as_on_a_plain_base(
    architecture: str, allow: Allow, cut: Cut, tmp_path: Path
) -> None:
    pair = Pair(architecture, allow=allow)
    pair.save(tmp_path / "base")
    fields: dict[str, Any] = {"num_labels": 1}
    makers: list[Callable[[], Any]] = [
        lambda: pair.remote(cut, Head(SEQUENCE, fields)),
        lambda: SEQUENCE.from_pretrained(tmp_path / "base", dtype=torch.float32, **fields),
    ]
    logs = []
    for make in makers:
        torch.manual_seed(2)
        model = make()
        torch.manual_seed(3)
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**arguments(tmp_path)),
            train_dataset=pairs(("chosen", "rejected")),
            processing_class=tokenizer(),
            peft_config=lora(task_type="SEQ_CLS"),
        )
        logs.append(logged(trainer, "loss", "grad_norm", "accuracy", "margin"))
    check(*logs)
