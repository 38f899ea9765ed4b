"""What can never take effect is said, with its key; what does take effect is not."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_core.config import (
    BatchingConfig,
    ComputeConfig,
    DaemonConfig,
    LaneConfig,
    LimitsConfig,
    PolicyConfig,
    RuleConfig,
)
from symbiosis_scheduler.config_warnings import warnings
from symbiosis_scheduler.policies import policy_class


def warned(
    policy: str = "latency_first", lane: dict[str, Any] | None = None, priority: int = 1, **rest: Any
) -> list[str]:
    lanes = {"first": LaneConfig(priority=0, max_wait_us=0), "a": LaneConfig(priority=priority, **(lane or {}))}
    config = DaemonConfig(policy=PolicyConfig(name=policy), lanes=lanes, **rest)
    return warnings(config, policy_class(config))


def test_the_defaults_take_effect() -> None:
    config = DaemonConfig()
    assert warnings(config, policy_class(config)) == []


@pytest.mark.parametrize(
    ("policy", "lane", "key"),
    [
        ("latency_first", {"weight": 2.0}, "weight"),
        ("latency_first", {"token_us": 5}, "token_us"),
        ("weighted_fair", {"max_wait_us": 5}, "max_wait_us"),
        ("fifo", {"chunk_rows": 5}, "chunk_rows"),
        ("latency_first", {"chunk_rows": 1000}, "chunk_rows"),
        ("latency_first", {"max_clients": 64}, "max_clients"),
        ("latency_first", {"max_clients": 2, "max_clients_per_user": 3}, "max_clients_per_user"),
        ("latency_first", {"client_rows_per_s": 9, "user_rows_per_s": 9}, "client_rows_per_s"),
        ("latency_first", {"max_wait_us": 7}, "max_wait_us"),
        ("latency_first", {"max_wait_us": 7, "max_hold_us": 7}, "max_wait_us"),
        ("deadline", {"max_wait_us": 7, "token_us": 9}, "max_wait_us"),
        ("deadline", {"max_wait_us": 0}, "token_us"),
        ("weighted_fair", {}, "priority"),
        ("lockstep", {}, "priority"),
    ],
)
def test_each_key_of_a_lane_that_means_nothing(policy: str, lane: dict[str, Any], key: str) -> None:
    """All but the last two stand in lanes of one priority, of which no policy makes anything."""
    found = warned(policy, lane, priority=1 if policy == "latency_first" or not lane else 0)
    assert [line.partition(":")[0].partition(" ")[0] for line in found if ".a." in line] == [f"lanes.a.{key}"]


@pytest.mark.parametrize("reads", [["weight"], ("weight",), {"weight"}], ids=lambda reads: type(reads).__name__)
def test_what_somebody_elses_policy_reads_may_be_any_collection(reads: Any) -> None:
    class Theirs:
        pass

    Theirs.reads = reads  # type: ignore[attr-defined]  # as others may
    lanes = {"a": LaneConfig(priority=0, weight=2.0, token_us=5)}
    config = DaemonConfig(policy=PolicyConfig(name="theirs"), lanes=lanes)
    assert warnings(config, Theirs) == ["lanes.a.token_us: the policy theirs does not read it"]


@pytest.mark.parametrize(
    ("policy", "lane"),
    [
        ("weighted_fair", {"weight": 2.0}),
        ("deadline", {"token_us": 5}),
        ("deadline", {"max_wait_us": 5}),
        ("latency_first", {"max_wait_us": 7, "chunk_rows": 512, "max_hold_us": 5}),
        ("lockstep", {"chunk_rows": 5, "max_hold_us": 5}),
        ("fifo", {"client_rows_per_s": 9, "user_rows_per_s": 10, "max_clients": 3}),
    ],
)
def test_what_takes_effect_is_not_warned_of(policy: str, lane: dict[str, Any]) -> None:
    """Lanes of one priority, so that `fifo` has none to leave unread; or ones that are not computed beside."""
    strict = policy in ("latency_first", "deadline")
    compute = ComputeConfig(beside=policy != "latency_first")
    assert [line for line in warned(policy, lane, int(strict), compute=compute) if ".a." in line] == []


def test_nothing_is_held_or_chunked_where_batches_are_exact() -> None:
    lane = {"max_hold_us": 5, "chunk_rows": 9}
    assert len(warned(lane=lane, batching=BatchingConfig(exact=True))) == 2


@pytest.mark.parametrize("priority", [0, 1])
def test_ageing_that_ends_a_hold_takes_effect_also_where_there_is_nobody_to_pass(priority: int) -> None:
    assert warned(lane={"max_wait_us": 4, "max_hold_us": 5}, priority=priority) == []


def test_a_lane_alone_has_nobody_to_share_with() -> None:
    config = DaemonConfig(policy=PolicyConfig(name="weighted_fair"), lanes={"a": LaneConfig(priority=0, weight=2)})
    (line,) = warnings(config, policy_class(config))
    assert line == "lanes.a.weight: there is no other lane to share with"


def test_the_default_lanes_have_no_targets_for_deadlines() -> None:
    config = DaemonConfig(policy=PolicyConfig(name="deadline"))
    assert [line.partition(":")[0] for line in warnings(config, policy_class(config))] == [
        "lanes.inference.token_us"
    ]


def test_a_client_alone_is_never_held() -> None:
    (line,) = warned(lane={"max_hold_us": 5}, limits=LimitsConfig(max_clients=1))
    assert "limits.max_clients = 1" in line


def test_a_rule_behind_one_that_fits_as_much_never_decides() -> None:
    rules = (RuleConfig(lane="first", name="x"), RuleConfig(lane="a"), RuleConfig(lane="first", user="eve"))
    assert warned(rules=rules) == ["rules[2]: rules[1] fits all that it would fit"]


@pytest.mark.parametrize("fits", [{}, {"name": "*"}])
def test_a_lane_behind_a_rule_that_fits_everybody_is_never_entered(fits: dict[str, str]) -> None:
    rules = (RuleConfig(lane="a", **fits), RuleConfig(lane="first", name="x"))
    assert warned(rules=rules)[-1] == "lanes.first: rules[0] fits everybody, so nobody comes into this lane"
    assert warned(rules=(RuleConfig(lane="a", user="eve"),)) == []


def test_lanes_that_nobody_wrote_are_not_warned_of() -> None:
    for policy in ("fifo", "lockstep", "weighted_fair"):
        config = DaemonConfig(policy=PolicyConfig(name=policy))
        assert warnings(config, policy_class(config)) == []


def test_one_lane_ages_past_another_that_is_computed_beside_with_it() -> None:
    lanes = {name: LaneConfig(priority=at, max_wait_us=0 if not at else 7) for at, name in enumerate("abc")}
    assert warnings(DaemonConfig(lanes=lanes), policy_class(DaemonConfig())) == []


def test_rows_of_a_batch_mean_nothing_where_batches_are_exact() -> None:
    (line,) = warned(batching=BatchingConfig(exact=True, max_rows=9))
    assert line.startswith("batching.max_rows: ")
    assert warned(batching=BatchingConfig(max_rows=511)) == []


def test_what_is_never_computed_beside_need_not_be_forbidden_to() -> None:
    apart = ComputeConfig(beside=False)
    assert warned(compute=apart) == []
    for policy, exact in (("latency_first", True), ("weighted_fair", False)):
        found = warned(policy, compute=apart, batching=BatchingConfig(exact=exact))
        assert len([line for line in found if line.startswith("compute.beside: ")]) == 1


@pytest.mark.parametrize(
    ("earlier", "later", "covered"),
    [
        ("*", "", True),
        ("train-*", "train-7", True),
        ("train-*", "train-a*", True),
        ("train-?", "train-7", True),
        ("*-?", "train-*", False),
        ("train-?", "train-*", False),
        ("train-a*", "train-*", False),
        ("train-*", "", False),
        ("*a*", "[ab]", False),
    ],
)
def test_a_rule_behind_a_wider_pattern_never_decides(earlier: str, later: str, covered: bool) -> None:
    rules = (RuleConfig(lane="a", name=earlier), RuleConfig(lane="first", name=later))
    found = [line for line in warned(rules=rules) if line.startswith("rules")]
    assert (found == ["rules[1]: rules[0] fits all that it would fit"]) is covered
    assert covered or found == []
