"""The graph cut makes one trip per block, and an unmodified model on it computes what the plain one computes."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from symbiosis_adapters.cut import Cut
from symbiosis_adapters.deferred import Deferred, pending, value_of
from symbiosis_adapters.vectors import FrozenVector
from symbiosis_core.errors import UsageError
from symbiosis_core.specs import DType
from tests.adapters.local import CONFIGS, LAYERS, Pair

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys"),  # of PEFT's own doing, for Mixtral
]

IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[0, :4] = 0
LABELS = IDS.masked_fill(MASK == 0, -100)
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
QV = ["q_proj", "v_proj"]


def adapt(base: Any, targets: Any = "all-linear", **more: Any) -> Any:
    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM", **more)
    return get_peft_model(base, config).eval()


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair("llama")


@pytest.fixture
def remote(pair: Pair) -> Any:
    return adapt(pair.remote(Cut.GRAPH))


@pytest.fixture
def plain(pair: Pair) -> Any:
    return adapt(pair.plain())


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(mine: Any, theirs: Any) -> None:
    found, expected = gradients(mine), gradients(theirs)
    assert found.keys() == expected.keys()
    assert found
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()), msg=name)


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(value_of(found), expected, rtol=1e-4, atol=1e-5)


# -- trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "trips"), [(None, LAYERS + 1), (QV, LAYERS + 1), ("all-linear", 2 * LAYERS + 1)]
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_forward_makes_one_trip_per_block_and_one_to_begin_with(
    architecture: str, targets: Any, trips: int, mode: Any
) -> None:
    pair = Pair(architecture)
    model = pair.remote(Cut.GRAPH)
    if targets:
        model = adapt(model, targets)
    for rows in (IDS, IDS[:1, :1]):
        pair.rows.trips.clear()
        with mode():
            model(input_ids=rows).logits.sum()
        assert len(pair.rows.forward) == trips
        assert pair.rows.backward == []


@pytest.mark.parametrize(("targets", "trips"), [(QV, LAYERS + 1), ("all-linear", 2 * LAYERS + 1)])
def test_a_backward_makes_no_more_trips_than_the_forward(pair: Pair, targets: Any, trips: int) -> None:
    """The first needs none, for nothing below it is trained."""
    model = adapt(pair.remote(Cut.GRAPH), targets)
    for _ in range(2):
        pair.rows.trips.clear()
        model(**BATCH).loss.backward()
        assert (len(pair.rows.forward), len(pair.rows.backward)) == (trips, trips - 1)


def test_a_decode_step_makes_the_segments_of_a_training_step(pair: Pair) -> None:
    model = adapt(pair.remote(Cut.GRAPH), QV)
    model(input_ids=IDS).logits.sum()
    known = len(pair.rows.segments)
    with torch.no_grad():
        model(input_ids=IDS[:1, :1]).logits.sum()
    assert len(pair.rows.segments) == known


def test_every_trip_is_counted_by_name(pair: Pair) -> None:
    model = pair.remote(Cut.GRAPH)
    pair.rows.trips.clear()
    for _ in range(2):
        model(input_ids=IDS).logits.sum()
    forced = model.symbiosis_deferral.trips.made
    assert forced.total() == len(pair.rows.forward) == 2 * (LAYERS + 1)
    assert set(forced) == set(pair.rows.forward)


# -- equality ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_computes_what_plain_peft_computes(architecture: str) -> None:
    pair = Pair(architecture)
    more = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
    models = [adapt(base, **more) for base in (pair.plain(), pair.remote(Cut.GRAPH))]
    outputs = [model.train()(**BATCH) for model in models]
    for output in outputs:
        output.loss.backward()
    close(outputs[1].loss, outputs[0].loss)
    close(outputs[1].logits, outputs[0].logits)
    check_gradients(models[1], models[0])
    arguments = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    tokens = [model.eval().generate(input_ids=IDS, attention_mask=MASK, **arguments) for model in models]
    assert torch.equal(tokens[1], tokens[0])


def test_bfloat16_logits_are_the_plain_models() -> None:
    pair = Pair("llama", DType.BFLOAT16)
    with torch.no_grad():
        found, expected = (model(input_ids=IDS).logits for model in (pair.remote(Cut.GRAPH), pair.plain()))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(value_of(found), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_every_mode_gives_the_logits(remote: Any, plain: Any, mode: Any) -> None:
    with mode():
        found, expected = (model(input_ids=IDS, attention_mask=MASK).logits for model in (remote, plain))
        assert found.requires_grad == expected.requires_grad
    close(found, expected)


def test_autocast_is_the_siblings_cut(pair: Pair) -> None:
    models = [adapt(pair.remote(cut)) for cut in (Cut.SIBLINGS, Cut.GRAPH)]
    trips, outputs = [], []
    for model in models:
        pair.rows.trips.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(**BATCH)
        output.loss.backward()
        outputs.append((output.loss, output.logits))
        trips.append(pair.rows.trips.copy())
    assert trips[0] == trips[1]
    assert all(type(each) is Tensor for each in outputs[1])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=0)
    for name, grad in gradients(models[0]).items():
        assert torch.equal(gradients(models[1])[name], grad)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_autocast_that_begins_half_way_keeps_the_gradient(architecture: str) -> None:
    pair = Pair(architecture)

    def halves(model: Any) -> tuple[Tensor, Any]:
        x = torch.ones(2, 3, 32, requires_grad=True)
        block = (model.model.layers if architecture == "llama" else model.transformer.h)[0]
        attention = block.self_attn if architecture == "llama" else block.attn
        h = attention.o_proj(x * 1) if architecture == "llama" else attention.c_proj(x * 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ys = [attention.q_proj(h), attention.k_proj(h)] if architecture == "llama" else [attention.c_attn(h)]
        sum(y.float().square().sum() for y in ys).backward()
        return value_of(ys[0]).float(), x.grad

    found = halves(pair.remote(Cut.GRAPH))
    expected = halves(pair.plain().requires_grad_(False))
    torch.testing.assert_close(found, expected, rtol=5e-2, atol=5e-2)


def test_training_and_then_evaluation(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        model.train()(**BATCH).loss.backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
        model.eval()
    with torch.no_grad():
        close(remote(input_ids=IDS).logits, plain(input_ids=IDS).logits)


def test_outputs_of_two_forwards_may_be_kept(remote: Any, plain: Any) -> None:
    def run(model: Any) -> Iterator[Any]:
        first, second = model(input_ids=IDS), model(input_ids=IDS + 0)
        third = model(input_ids=IDS.flip(1))
        (first.logits.square().sum() - (second.logits * third.logits).sum()).backward()
        yield from (first.logits, second.logits, third.logits)

    for found, expected in zip(run(remote), run(plain), strict=True):
        close(found, expected)
    check_gradients(remote, plain)


def test_hidden_states_are_the_plain_models_and_keep_the_loss(remote: Any, plain: Any) -> None:
    outputs = [model(**BATCH, output_hidden_states=True) for model in (remote, plain)]
    assert len(outputs[0].hidden_states) == LAYERS + 1
    for found, expected in zip(outputs[0].hidden_states, outputs[1].hidden_states, strict=True):
        close(found, expected)
    for output in outputs:
        (output.loss + sum(h.square().mean() for h in output.hidden_states)).backward()
    check_gradients(remote, plain)


def test_hidden_states_kept_refuse_half_a_gradient(remote: Any) -> None:
    output = remote(**BATCH, output_hidden_states=True)
    for hidden in output.hidden_states[1:]:
        with pytest.raises(UsageError, match="after frozen layers had used the tensor"):
            hidden.retain_grad()


@pytest.mark.parametrize("loss_first", [True, False])
def test_the_loss_and_the_logits_are_both_right_in_any_order(remote: Any, plain: Any, loss_first: bool) -> None:
    for model in (remote, plain):
        output = model(**BATCH)
        parts = [lambda: output.loss, lambda: output.logits.square().mean()]  # noqa: B023
        total = sum(part() for part in (parts if loss_first else reversed(parts)))
        total.backward()
    check_gradients(remote, plain)


def test_the_logits_may_be_looked_at_after_the_backward(remote: Any, plain: Any) -> None:
    outputs = [model(**BATCH) for model in (remote, plain)]
    for output in outputs:
        output.loss.backward()
    assert pending(outputs[0].logits)
    with torch.no_grad():
        close(outputs[0].logits, outputs[1].logits)


def test_who_looks_at_the_logits_without_gradient_takes_none_away(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        logits = model(input_ids=IDS).logits
        flat = logits.view(-1, logits.shape[-1])
        with torch.inference_mode():
            assert flat.argmax(-1).shape == (IDS.numel(),)
        nn.functional.cross_entropy(flat, IDS.view(-1)).backward()
    check_gradients(remote, plain)


def test_adapters_are_switched_mixed_and_disabled(pair: Pair) -> None:
    models = [adapt(base, QV) for base in (pair.remote(Cut.GRAPH), pair.plain())]
    for model in models:
        torch.manual_seed(9)
        model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        model.eval()

    def run(model: Any) -> Iterator[Any]:
        for name in ("default", "second"):
            model.set_adapter(name)
            yield model(input_ids=IDS).logits
        with model.disable_adapter():
            yield model(input_ids=IDS).logits
        yield model(input_ids=IDS, adapter_names=["default", "__base__"]).logits

    for found, expected in zip(run(models[0]), run(models[1]), strict=True):
        close(found, expected)


# -- what users do to a model --------------------------------------------------------------------------------


def test_hooks_see_and_change_what_they_would_in_the_plain_model(remote: Any, plain: Any) -> None:
    def run(model: Any) -> Iterator[Tensor]:
        seen: list[Tensor] = []

        def watch(module: Any, args: Any, output: Tensor) -> None:
            output.retain_grad()
            seen.append(output)

        layers = model.base_model.model.model.layers
        hooks: list[Callable[..., Any]] = [
            lambda module, args, output: seen.append(output.detach().clone()),
            lambda module, args, output: output * 1.5,
            watch,
        ]
        handles = [layers[index].register_forward_hook(hook) for index, hook in enumerate(hooks)]
        handles.append(layers[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:])))
        handles.append(layers[0].mlp.register_forward_hook(lambda module, args, output: output.mul_(2)))
        loss = model(**BATCH).loss
        loss.backward()
        for handle in handles:
            handle.remove()
        yield from (loss, seen[0], value_of(seen[1]))
        assert seen[1].grad is not None
        yield seen[1].grad

    for found, expected in zip(run(remote), run(plain), strict=True):
        close(found, expected)
    check_gradients(remote, plain)


def test_the_inputs_may_be_made_to_require_a_gradient(remote: Any, plain: Any) -> None:
    inputs = []
    for model in (remote, plain):
        model.enable_input_require_grads()
        embedded: list[Any] = []
        handle = model.get_input_embeddings().register_forward_hook(
            lambda module, args, output, embedded=embedded: embedded.append(output)
        )
        model(**BATCH).loss.backward()
        handle.remove()
        inputs.append(embedded[0].grad)
    close(inputs[0], inputs[1])
    check_gradients(remote, plain)


def test_embeddings_may_be_given_instead_of_ids(remote: Any, plain: Any) -> None:
    grads = []
    for model in (remote, plain):
        embedded = model.get_input_embeddings()(IDS)
        leaf = embedded.detach().clone().requires_grad_()
        model(inputs_embeds=leaf, labels=IDS).loss.backward()
        close(model(inputs_embeds=embedded).logits, model(input_ids=IDS).logits.detach())
        grads.append(leaf.grad)
    close(grads[0], grads[1])


def test_a_graph_that_is_retained_may_be_gone_through_twice(remote: Any, plain: Any) -> None:
    for model in (remote, plain):
        loss = model(**BATCH).loss
        loss.backward(retain_graph=True)
        loss.backward()
    check_gradients(remote, plain)


def test_a_second_derivative_is_refused(remote: Any) -> None:
    remote.base_model.model.set_attn_implementation("eager")  # the other has no second derivative of its own
    loss = remote(**BATCH).loss
    weights = [p for p in remote.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    with pytest.raises(UsageError, match="do not support double backward"):
        sum(grad.square().sum() for grad in grads).backward()  # type: ignore[union-attr]


def test_no_rows_need_no_trip(pair: Pair) -> None:
    model = pair.remote(Cut.GRAPH)
    pair.rows.trips.clear()
    for lead in ((0,), (2, 0)):
        assert model.get_input_embeddings()(torch.empty(*lead, dtype=torch.int64)).shape == (*lead, 32)
        assert model.lm_head(torch.empty(*lead, 32)).shape == (*lead, 96)
        assert model.model.layers[0].self_attn.q_proj(torch.empty(*lead, 32)).shape == (*lead, 32)
    assert pair.rows.trips == []


def test_a_wrong_dtype_or_width_is_the_error_of_the_layer(pair: Pair) -> None:
    layer = pair.remote(Cut.GRAPH).model.layers[0].self_attn.o_proj
    for x in (torch.ones(2, 32, dtype=torch.float64), torch.ones(2, 33)):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            layer(x)
    h = layer(torch.ones(2, 32))
    with pytest.raises(RuntimeError, match="mat1 and mat2 must have the same dtype"):
        layer(h.to(torch.float64))


def test_threads_share_a_model(remote: Any, plain: Any) -> None:
    batches = [IDS.roll(index, 1) for index in range(4)]
    found: list[Any] = [None] * len(batches)

    def run(index: int) -> None:
        for _ in range(3):
            loss = remote(input_ids=batches[index], labels=batches[index]).loss
            found[index] = torch.autograd.grad(loss, remote.get_parameter(WEIGHT))[0]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ids, grad in zip(batches, found, strict=True):
        loss = plain(input_ids=ids, labels=ids).loss
        close(grad, torch.autograd.grad(loss, plain.get_parameter(WEIGHT))[0])


WEIGHT = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"


def test_a_copied_model_is_equal_and_apart(remote: Any) -> None:
    expected = remote(input_ids=IDS).logits.clone()
    copied = copy.deepcopy(remote)
    with torch.no_grad():
        copied.get_parameter(WEIGHT).mul_(3)
        copied.base_model.model.model.norm.weight.mul_(2)
    assert torch.equal(remote(input_ids=IDS).logits.clone(), expected)
    assert not torch.allclose(copied(input_ids=IDS).logits.clone(), expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_users_own_checkpoint_is_right_or_an_error(pair: Pair, reentrant: bool) -> None:
    def run(mlp: Any) -> Any:
        x = torch.ones(2, 32, requires_grad=True)
        checkpoint(mlp, x.exp(), use_reentrant=reentrant).square().sum().backward()
        return x.grad

    expected = run(pair.plain().requires_grad_(False).model.layers[0].mlp)
    mlp = pair.remote(Cut.GRAPH).model.layers[0].mlp
    if reentrant:
        with pytest.raises(UsageError, match="returned a deferred tensor"):
            run(mlp)
    else:
        close(run(mlp), expected)


@pytest.mark.parametrize("labels", [True, False])
def test_nothing_of_a_forward_stays_alive(remote: Any, labels: bool) -> None:
    seen: list[weakref.ref[Any]] = []

    def note(module: Any, args: Any, output: Any) -> None:
        for each in (*args, output):
            if isinstance(each, Tensor):
                seen.append(weakref.ref(each))

    handles = [module.register_forward_hook(note) for module in remote.modules()]
    gc.collect()
    gc.disable()
    try:
        output = remote(input_ids=IDS.clone(), labels=IDS.clone() if labels else None, use_cache=False)
        (output.loss if labels else output.logits.square().mean()).backward()
        seen.append(weakref.ref(output.logits))
        del output
        left = [ref() for ref in seen if ref() is not None and not isinstance(ref(), nn.Parameter)]
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()
    assert len(seen) > 20
    assert left == []


# -- frozen vectors ------------------------------------------------------------------------------------------

NORM = "model.layers.1.input_layernorm"


def replaced(model: Any) -> None:
    norm = model.get_submodule(NORM)
    norm.weight = nn.Parameter(norm.weight * 2, requires_grad=False)


def assigned(model: Any) -> None:
    model.get_submodule(NORM).weight.data = torch.full((32,), 1.5)


def modified(model: Any) -> None:
    with torch.no_grad():
        model.get_submodule(NORM).weight.mul_(2)


def modified_past_versions(model: Any) -> None:
    model.get_submodule(NORM).weight.data.mul_(2)


def modified_later(model: Any) -> None:
    """The alias is taken before the first forward, and used after it."""
    data = model.get_submodule(NORM).weight.data
    model(input_ids=IDS).logits.sum()
    data.mul_(2)


def trained(model: Any) -> None:
    weight = model.get_submodule(NORM).weight
    weight.requires_grad_()
    model(**BATCH).loss.backward()
    assert weight.grad is not None
    torch.optim.SGD([weight], lr=1.0).step()


def loaded(model: Any) -> None:
    weights = model.state_dict()
    model.load_state_dict({**weights, f"{NORM}.weight": weights[f"{NORM}.weight"] * 3}, strict=False)


CHANGES = [replaced, assigned, modified, modified_past_versions, modified_later, trained, loaded]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_norm_counts_from_then_on(pair: Pair, change: Callable[[Any], None]) -> None:
    remote, plain = pair.remote(Cut.GRAPH), pair.plain().requires_grad_(False)
    before = remote(input_ids=IDS).logits.clone()
    for model in (remote, plain):
        change(model)
    with torch.no_grad():
        found, expected = (model(input_ids=IDS).logits.clone() for model in (remote, plain))
    close(found, expected)
    assert not torch.allclose(found, before)


def test_a_norm_that_changes_between_two_layers_of_one_recording_counts(pair: Pair) -> None:
    def run(model: Any) -> Tensor:
        x = torch.ones(2, 32)
        norm = model.model.norm
        first = model.model.layers[0].self_attn.o_proj(norm(x) + 0 * model.model.layers[0].self_attn.o_proj(x))
        norm.weight.data.mul_(2)
        return (first + norm(first)).clone()  # type: ignore[no-any-return]

    close(run(pair.remote(Cut.GRAPH)), run(pair.plain().requires_grad_(False)))


def test_a_norm_of_another_type_is_not_the_daemons() -> None:
    """As `prepare_model_for_kbit_training` has it."""
    pair = Pair("llama", DType.BFLOAT16)
    found = []
    for model in (pair.remote(Cut.GRAPH), pair.plain().requires_grad_(False)):
        norm = model.model.norm
        norm.weight.data = norm.weight.data.to(torch.float32)
        found.append(norm(model.model.layers[0].self_attn.o_proj(torch.ones(2, 32, dtype=torch.bfloat16))))
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(value_of(found[0]), found[1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "touch",
    [
        lambda model: model.load_state_dict(model.state_dict()),
        lambda model: [p.data for p in model.parameters() if isinstance(p, FrozenVector)],
        lambda model: model.to("cpu").float(),
        lambda model: [model.get_submodule(NORM).weight.data.mul_(by) for by in (2, 0.5)],
        copy.deepcopy,
    ],
)
def test_a_norm_with_the_daemons_values_costs_no_trip(pair: Pair, touch: Any) -> None:
    model = pair.remote(Cut.GRAPH)
    touch(model)
    pair.rows.trips.clear()
    model(input_ids=IDS).logits.sum()
    assert len(pair.rows.forward) == LAYERS + 1


@pytest.mark.parametrize("kind", ["ln tuning", "modules to save"])
def test_trained_norms_are_the_clients(pair: Pair, kind: str) -> None:
    def make(base: Any) -> Any:
        if kind == "modules to save":
            return adapt(base, QV, modules_to_save=["input_layernorm", "norm"])
        torch.manual_seed(3)
        return get_peft_model(base, LNTuningConfig(task_type="CAUSAL_LM"))

    models = [make(base) for base in (pair.remote(Cut.GRAPH), pair.plain())]
    for model in models:
        for _ in range(2):
            model(**BATCH).loss.backward()
            torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    check_gradients(models[0], models[1])
    assert any("norm" in name for name in gradients(models[0]))
    with torch.no_grad():
        close(models[0](input_ids=IDS).logits, models[1](input_ids=IDS).logits)


def test_the_outputs_are_deferred_tensors_at_all(remote: Any) -> None:
    assert type(remote(input_ids=IDS).logits) is Deferred
