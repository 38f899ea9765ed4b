"""The demo's tenants differ in data, method and size, and the question of the demo is in nobody's examples."""

from __future__ import annotations

from symbiosis_bench.demo.tenants import CHAT, TENANTS, Ia3, Lora, training_tenant


def test_there_are_three_that_train_and_one_that_chats() -> None:
    assert [tenant.lane for tenant in TENANTS] == ["training"] * 3
    assert CHAT.lane == "inference"
    names = [tenant.name for tenant in TENANTS] + [CHAT.name]
    assert len(set(names)) == 4


def test_methods_targets_and_ranks_differ() -> None:
    methods = [tenant.method for tenant in TENANTS]
    assert {type(method) for method in methods} == {Lora, Ia3}
    assert len({method.targets for method in methods}) == 3
    assert len({method.rank for method in methods if isinstance(method, Lora)}) == 2


def test_the_feedforward_of_ia3_is_among_its_targets() -> None:
    """PEFT demands it."""
    for tenant in TENANTS:
        if isinstance(tenant.method, Ia3):
            assert set(tenant.method.feedforward) <= set(tenant.method.targets)


def test_methods_are_named_as_people_name_them() -> None:
    assert [str(tenant.method) for tenant in TENANTS] == [
        "LoRA r=8 q, v",
        "LoRA r=16 q, k, v, o, gate, up, down",
        "IA3 k, v, down",
    ]


def test_one_question_is_asked_and_no_example_gives_it_away() -> None:
    (asked,) = [tenant for tenant in TENANTS if tenant.question]
    assert all(asked.question != example.prompt for tenant in TENANTS for example in tenant.examples())


def test_a_tenant_is_found_by_its_name() -> None:
    assert [training_tenant(tenant.name) for tenant in TENANTS] == list(TENANTS)
