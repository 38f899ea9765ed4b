"""Unmodified PEFT on a remote base gives what it gives on a plain one: losses, gradients, tokens, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    GloraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_base_model_state_dict,
    get_peft_model,
)
from safetensors.torch import load_file

from symbiosis_adapters.cut import Cut
from symbiosis_adapters.placeholder import FrozenWeight
from symbiosis_core.specs import DType
from tests.adapters.local import LAYERS, Pair

pytestmark = [
    # PEFT asks the hub for the base's config when it saves; "someone/tiny" is not there.
    pytest.mark.filterwarnings("ignore:Could not find a config file in someone/tiny"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm"),
]

STEPS = 10
QV = ["q_proj", "v_proj"]


def lora(targets: str | list[str], **more: Any) -> Callable[[], PeftConfig]:
    return lambda: LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", **more)


def config(cls: type[PeftConfig], **fields: Any) -> Callable[[], PeftConfig]:
    return lambda: cls(task_type="CAUSAL_LM", **fields)


CASES: dict[str, tuple[str, Callable[[], PeftConfig]]] = {
    "lora q,v": ("llama", lora(QV)),
    "lora k": ("llama", lora(["k_proj"])),
    "lora all": ("llama", lora("all-linear")),
    "lora random": ("llama", lora("all-linear", init_lora_weights=False)),
    "lora dropout": ("llama", lora("all-linear", lora_dropout=0.2, use_rslora=True)),
    "lora embedding": ("llama", lora([*QV, "embed_tokens"])),
    "lora tied": ("llama", lora([*QV, "embed_tokens"], ensure_weight_tying=True)),
    "lora head": ("llama", lora([*QV, "lm_head"])),
    "lora norms": ("llama", lora(QV, modules_to_save=["norm"])),
    "lora last layer": ("llama", lora(QV, layers_to_transform=[LAYERS - 1])),
    "lora qwen2": ("qwen2", lora("all-linear")),
    "lora gemma": ("gemma", lora("all-linear")),
    "lora gemma3": ("gemma3_text", lora([*QV, "embed_tokens"])),
    "lora falcon": ("falcon", lora("all-linear")),
    "lora opt": ("opt", lora("all-linear")),
    "lora gpt2": ("gpt2", lora(["c_attn", "c_proj", "c_fc", "wte"], fan_in_fan_out=True)),
    "ia3": (
        "llama",
        config(IA3Config, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "ia3 up": ("llama", config(IA3Config, target_modules=["up_proj"], feedforward_modules=["up_proj"])),
    "ia3 gpt2": (
        "gpt2",
        config(
            IA3Config,
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
        ),
    ),
    "prefix": ("llama", config(PrefixTuningConfig, num_virtual_tokens=4)),
    "prefix gpt2": ("gpt2", config(PrefixTuningConfig, num_virtual_tokens=4)),
    "prompt": ("llama", config(PromptTuningConfig, num_virtual_tokens=4)),
    "p-tuning": ("opt", config(PromptEncoderConfig, num_virtual_tokens=4, encoder_hidden_size=16)),
    "adalora": ("llama", config(AdaLoraConfig, init_r=6, target_r=4, total_step=STEPS, target_modules=QV)),
    "loha": ("llama", config(LoHaConfig, r=4, target_modules=QV)),
    "lokr": ("llama", config(LoKrConfig, r=4, target_modules=QV)),
    "oft": ("llama", config(OFTConfig, r=0, oft_block_size=4, target_modules=QV)),
    "vera": ("llama", config(VeraConfig, r=4, target_modules=QV)),
    "glora": ("llama", config(GloraConfig, r=4, target_modules=QV)),
    "ln": ("llama", config(LNTuningConfig)),
}
CUTS = [Cut.GRAPH, Cut.SIBLINGS]
APART = ["lora all", "lora opt", "ia3", "adalora"]
"""Cases for the linear cut, too; it is the one that siblings fall back to."""
MOVED = ["lora q,v", "lora embedding", "lora head", "ia3", "prefix", "lora gpt2", "lora norms"]


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    """Batches of two rows, the first padded on the left."""
    draw = torch.Generator().manual_seed(7)
    made = []
    for _ in range(count):
        ids = torch.randint(3, 96, (2, 12), generator=draw)
        mask = torch.ones_like(ids)
        mask[0, :4] = 0
        made.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return made


def adapt(model: Any, make: Callable[[], PeftConfig]) -> Any:
    torch.manual_seed(3)
    return get_peft_model(model, make())


class Run:
    """What a training of a few steps leaves behind."""

    def __init__(self, model: Any, steps: int = STEPS, autocast: bool = False) -> None:
        self.model = model.train()
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=5e-3)
        torch.manual_seed(5)
        for step, batch in enumerate(batches(steps)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = model(**batch).loss
            loss.backward()
            named = model.named_parameters()
            self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
            self.losses.append(loss.item())
            optimizer.step()
            if hasattr(model.base_model, "update_and_allocate"):
                model.base_model.update_and_allocate(step)
        model.eval()

    def check(self, other: Run) -> None:
        """In float32 every step agrees."""
        assert self.losses == pytest.approx(other.losses, rel=1e-5)
        for mine, theirs in zip(self.gradients, other.gradients, strict=True):
            assert mine.keys() == theirs.keys()
            assert mine
            for name, expected in theirs.items():
                scale = max(expected.abs().max().item(), 1e-6)
                torch.testing.assert_close(mine[name], expected, rtol=0, atol=1e-4 * scale, msg=name)

    def check_roughly(self, other: Run) -> None:
        """In bfloat16 the first gradients agree; later ones are Adam's choice among roundings.

        Measured: either differs from the float32 gradient by up to 6 % of its norm, and by 4 % from the other.
        """
        assert self.losses == pytest.approx(other.losses, rel=1e-2)
        assert self.gradients[0].keys() == other.gradients[0].keys()
        for name, expected in other.gradients[0].items():
            assert (self.gradients[0][name] - expected).norm() <= 0.1 * expected.norm(), name


def tokens(model: Any) -> torch.Tensor:
    """Generates 32 tokens greedily from a left-padded batch."""
    batch = batches(1)[0]
    generated: torch.Tensor = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=32,
        do_sample=False,
        eos_token_id=None,
    )
    return generated


def logits(model: Any) -> torch.Tensor:
    batch = batches(1)[0]
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found


@pytest.mark.parametrize(
    ("name", "cut"), [*((name, cut) for name in CASES for cut in CUTS), *((name, Cut.LINEAR) for name in APART)]
)
def test_training_and_generation_equal_plain_peft(name: str, cut: Cut) -> None:
    arch, make = CASES[name]
    pair = Pair(arch)
    plain, remote = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    remote.check(plain)
    torch.testing.assert_close(logits(remote.model), logits(plain.model), rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens(remote.model), tokens(plain.model))


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_result(reentrant: bool, cut: Cut) -> None:
    pair = Pair("llama")
    runs = []
    for model in (pair.plain(), pair.remote(cut)):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        runs.append(Run(adapt(model, lora("all-linear", lora_dropout=0.1))))
    runs[1].check(runs[0])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["lora random", "ia3", "prefix"])
def test_a_bfloat16_base_agrees_within_its_precision(name: str, cut: Cut) -> None:
    pair = Pair("llama", DType.BFLOAT16)
    make = CASES[name][1]
    plain, remote = Run(adapt(pair.plain(), make)), Run(adapt(pair.remote(cut), make))
    remote.check_roughly(plain)
    assert all(p.dtype == torch.bfloat16 for n, p in remote.model.named_parameters() if "base_layer" in n)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("base", [DType.FLOAT32, DType.BFLOAT16])
def test_autocast_agrees_within_its_precision(base: DType, cut: Cut) -> None:
    pair = Pair("llama", base)
    make = lora("all-linear", init_lora_weights=False)
    plain = Run(adapt(pair.plain(), make), autocast=True)
    Run(adapt(pair.remote(cut), make), autocast=True).check_roughly(plain)


def trips(cut: Cut, **more: Any) -> tuple[int, int]:
    pair = Pair("llama")
    model = adapt(pair.remote(cut), lora(QV, **more)).train()
    pair.rows.trips.clear()
    model(**batches(1)[0]).loss.backward()
    return len(pair.rows.forward), len(pair.rows.backward)


def test_the_number_of_trips_is_what_the_cut_promises() -> None:
    """Backward, the lowest adapted layer needs no gradient of its own input."""
    assert trips(Cut.GRAPH) == (LAYERS + 1, LAYERS)
    assert trips(Cut.SIBLINGS) == (4 * LAYERS + 2, 4 * LAYERS + 1 - 1)
    assert trips(Cut.LINEAR) == (7 * LAYERS + 2, 7 * LAYERS + 1 - 3)


def test_below_the_lowest_adapter_nothing_goes_backward() -> None:
    assert trips(Cut.GRAPH, layers_to_transform=[LAYERS - 1]) == (LAYERS + 1, 1)
    assert trips(Cut.SIBLINGS, layers_to_transform=[LAYERS - 1]) == (4 * LAYERS + 2, 1 + 3)
    assert trips(Cut.LINEAR, layers_to_transform=[LAYERS - 1]) == (7 * LAYERS + 2, 1 + 4)


@pytest.mark.parametrize(("cut", "each"), [(Cut.GRAPH, LAYERS + 1), (Cut.SIBLINGS, 4 * LAYERS + 2)])
def test_a_decode_step_is_one_row_per_trip_and_sequence(cut: Cut, each: int) -> None:
    """The graph cut makes one trip more in the prefill, whose last row alone goes through the head."""
    pair = Pair("llama")
    model = adapt(pair.remote(cut), lora(QV))
    pair.rows.trips.clear()
    model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert len(pair.rows.forward) == 4 * each + (cut is Cut.GRAPH)
    assert {trip.rows for trip in pair.rows.trips} == {3, 1}
    assert pair.rows.backward == []


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("trained_here", [True, False])
def test_an_adapter_moves_between_remote_and_plain(name: str, trained_here: bool, tmp_path: Path) -> None:
    arch, make = CASES[name]
    pair = Pair(arch)
    bases = (pair.remote, pair.plain) if trained_here else (pair.plain, pair.remote)
    trained = Run(adapt(bases[0](), make), steps=3).model
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(bases[1](), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)
    assert PeftConfig.from_pretrained(str(tmp_path)).base_model_name_or_path == "someone/tiny"
    if trained_here:
        saved = load_file(tmp_path / "adapter_model.safetensors")
        adapt(pair.plain(), make).save_pretrained(tmp_path / "plain")
        assert saved.keys() == load_file(tmp_path / "plain" / "adapter_model.safetensors").keys()


def test_where_nothing_is_lent_an_adapter_is_saved_without_the_base_of_its_embedding(tmp_path: Path) -> None:
    """PEFT would save that beside it. Plain PEFT loads the adapter all the same."""
    pair = Pair("llama", allow="nobody")
    trained = Run(adapt(pair.remote(), CASES["lora embedding"][1]), steps=1).model
    trained.save_pretrained(tmp_path)
    assert not any("base_layer" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(pair.plain(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", [QV, [*QV, "embed_tokens", "lm_head"]])
def test_the_state_of_the_base_is_found_under_an_adapter(targets: list[str]) -> None:
    """With the names and values of a plain one. Writing to it changes nothing here, and the base stays remote."""
    pair = Pair("llama")
    plain, remote = (adapt(base, lora(targets)) for base in (pair.plain(), pair.remote()))
    before = logits(remote)
    expected, found = get_base_model_state_dict(plain), get_base_model_state_dict(remote)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    found["model.layers.0.self_attn.q_proj.weight"].zero_()
    assert torch.equal(logits(remote), before)
    assert isinstance(remote.model.model.layers[0].self_attn.q_proj.base_layer.weight, FrozenWeight)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    plain = Pair("llama").plain()
    plain.model.embed_tokens.weight.data.mul_(2)
    adapt(plain, CASES["lora embedding"][1]).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"embed_tokens\.base_layer\.weight differs from the daemon's"):
        PeftModel.from_pretrained(Pair("llama").remote(), tmp_path)


def test_adapters_are_switched_and_disabled_on_one_base() -> None:
    pair = Pair("llama")
    plain, remote = (adapt(base, lora(QV, init_lora_weights=False)) for base in (pair.plain(), pair.remote()))
    for model in (plain, remote):
        torch.manual_seed(9)
        model.add_adapter("second", lora(["o_proj"], init_lora_weights=False)())
    for name in ("default", "second"):
        plain.set_adapter(name)
        remote.set_adapter(name)
        torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    with plain.disable_adapter(), remote.disable_adapter():
        torch.testing.assert_close(logits(remote), logits(plain), rtol=1e-5, atol=1e-6)
    assert remote.get_nb_trainable_parameters() == plain.get_nb_trainable_parameters()


def test_adapters_are_mixed_within_one_batch() -> None:
    pair = Pair("llama")
    plain, remote = (
        adapt(base, lora(QV, init_lora_weights=False)).eval() for base in (pair.plain(), pair.remote())
    )
    for model in (plain, remote):
        torch.manual_seed(9)
        model.add_adapter("second", lora("all-linear", init_lora_weights=False)())
    mixed = {"input_ids": batches(1)[0]["input_ids"], "adapter_names": ["second", "__base__"]}
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            torch.testing.assert_close(remote(**mixed).logits, plain(**mixed).logits, rtol=1e-5, atol=1e-6)


def test_an_adapter_loads_without_a_detour_through_memory(tmp_path: Path) -> None:
    pair = Pair("llama")
    trained = adapt(pair.remote(), lora("all-linear", init_lora_weights=False)).eval()
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(pair.remote(), tmp_path, low_cpu_mem_usage=True).eval()
    torch.testing.assert_close(logits(loaded), logits(trained))


def test_an_unloaded_adapter_leaves_the_base_as_it_was() -> None:
    pair = Pair("llama")
    base = pair.remote()
    before = logits(base)
    unloaded = adapt(base, lora("all-linear", init_lora_weights=False)).unload()
    assert torch.equal(logits(unloaded), before)
