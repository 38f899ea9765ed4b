"""Every policy says what a configuration means, and its bounds are those that the decision keeps."""

from __future__ import annotations

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
from symbiosis_scheduler.decisions.explanations import Delay, Explanation, LongestUs, explain
from symbiosis_scheduler.policies import policy_class, policy_names

LANES = {
    "chat": LaneConfig(priority=0, max_wait_us=0, chunk_rows=64, max_hold_us=3000),
    "jobs": LaneConfig(priority=5, max_wait_us=200_000, chunk_rows=128),
    "night": LaneConfig(priority=9, max_wait_us=0),
}

ONE_BY_ONE = ComputeConfig(beside=False)


def longest_us(rows: int) -> float | None:
    return 100.0 * rows


def explained(config: DaemonConfig, longest: LongestUs = longest_us) -> Explanation:
    return explain(config, policy_class(config), longest)


def test_strict_lanes_are_delayed_by_one_batch_from_below_and_by_ageing_from_above() -> None:
    said = explained(DaemonConfig(lanes=LANES, compute=ONE_BY_ONE))
    assert said.sentences[0].startswith("Lanes go strictly in this order: chat, then jobs, then night.")
    bound = {(delay.waiting, delay.behind): delay for delay in said.delays}
    assert bound["chat", "jobs"] == Delay("chat", "jobs", "one batch of 128 rows", 12_800)
    assert bound["jobs", "chat"].most_us is None, "what is older goes first, however much that is"
    assert bound["jobs", "chat"].most.startswith("no bound in time: 200 ms, and then")
    assert bound["night", "chat"] == Delay("night", "chat", "no bound: as long as it is busy", None)
    assert bound["chat", "who is expected"] == Delay("chat", "who is expected", "3 ms, where it pays", 3000)
    assert len(said.delays) == 9 + 1


@pytest.mark.parametrize("name", ["latency_first", "weighted_fair"])
def test_clients_of_a_lane_wait_for_a_batch_of_each_other(name: str) -> None:
    """So the time is that of all of them: as many as the daemon lets in, or the lane."""
    own = LaneConfig(priority=0, chunk_rows=64, max_clients=4)
    lanes = {"few": own, "alone": LaneConfig(priority=1, max_clients=1), "many": LaneConfig(priority=2)}
    config = DaemonConfig(lanes=lanes, policy=PolicyConfig(name=name), limits=LimitsConfig(max_clients=11))
    bound = {delay.waiting: delay for delay in explained(config).delays if delay.waiting == delay.behind}
    assert bound["few"].most == "one batch of 64 rows for each other client, of which 3 may be there"
    assert bound["few"].most_us == 3 * 6400
    assert bound["alone"].most_us == 0
    assert bound["many"].most_us == 10 * 25_600


@pytest.mark.parametrize("exact", [False, True])
def test_lanes_that_are_computed_beside_the_first_wait_for_each_other_alone(exact: bool) -> None:
    said = explained(DaemonConfig(lanes=LANES, batching=BatchingConfig(exact=exact)))
    shared = {(each.waiting, each.behind) for each in said.delays if "share the cores" in each.most}
    assert shared == (set() if exact else {("jobs", "chat"), ("night", "chat")})
    once = {(each.waiting, each.behind): each.most_us for each in said.delays if "after a pause" in each.most}
    assert once == ({} if exact else {("chat", "jobs"): 12_800, ("chat", "night"): 25_600})
    bound = {(delay.waiting, delay.behind): delay.most_us for delay in said.delays}
    assert bound["jobs", "night"] == (6_553_600 if exact else 25_600), "an exact batch is a whole request"
    assert (("chat", "who is expected") in bound) is not exact
    assert any("computed beside the first" in sentence for sentence in said.sentences) is not exact


def test_a_batch_is_never_larger_than_all_batches() -> None:
    config = DaemonConfig(lanes=LANES, batching=BatchingConfig(max_rows=50), compute=ONE_BY_ONE)
    assert {delay.most_us for delay in explained(config).delays if delay.behind == "night" != delay.waiting} == {
        5000
    }


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_explains_itself_also_where_nothing_was_measured(name: str) -> None:
    config = DaemonConfig(policy=PolicyConfig(name=name), lanes=LANES)
    said = explained(config, lambda rows: None)
    assert said.sentences and said.delays
    waited_for = ("who is expected", "the slowest")
    assert all((delay.most_us is None) is (delay.behind not in waited_for) for delay in said.delays)
    assert {delay.most_us for delay in said.delays if delay.behind in waited_for} == (
        set() if name == "fifo" else {3000}
    )


@pytest.mark.parametrize("name", policy_names())
def test_what_has_no_bound_says_why(name: str) -> None:
    config = DaemonConfig(policy=PolicyConfig(name=name), lanes=LANES, compute=ONE_BY_ONE)
    unbound = [delay for delay in explained(config).delays if delay.most_us is None]
    assert all(delay.most.startswith("no bound") for delay in unbound)
    assert bool(unbound) is (name != "weighted_fair")


def test_who_is_due_later_may_be_passed_by_what_comes_after_it() -> None:
    lanes = {
        "chat": LaneConfig(priority=0, first_token_us=500_000, token_us=20_000),
        "jobs": LaneConfig(priority=1, max_wait_us=2_000_000),
        "night": LaneConfig(priority=2, max_wait_us=0, chunk_rows=32),
    }
    said = explained(DaemonConfig(policy=PolicyConfig(name="deadline"), lanes=lanes))
    bound = {(delay.waiting, delay.behind): delay for delay in said.delays}
    assert bound["jobs", "chat"].most.endswith("what comes up to 1.98 s later is due before it")
    assert bound["chat", "jobs"].most.endswith("one batch of 256 rows, and what was due before")
    assert bound["chat", "night"] == Delay("chat", "night", "one batch of 32 rows", 3200)
    assert bound["night", "chat"].most == "no bound: as long as it is busy"


def test_quotas_and_rules_are_said() -> None:
    lanes = {"a": LaneConfig(priority=0, client_rows_per_s=5000, max_clients=3)}
    rules = (RuleConfig(lane="a", name="x-*", key="k"), RuleConfig(lane="a"))
    said = " ".join(explained(DaemonConfig(lanes=lanes, rules=rules)).sentences)
    assert "5,000 rows a second" in said and "At most 3 clients" in said
    assert "Clients named x-* and that show the key go into a." in said
    assert "'k'" not in said
    assert "Clients that no rule before has placed go into a." in said


def test_somebody_elses_policy_may_explain_itself() -> None:
    class Other:
        @staticmethod
        def explain(config: DaemonConfig, longest_us: LongestUs) -> Explanation:
            return Explanation((f"Mine: {longest_us(2)}.",), ())

    config = DaemonConfig(policy=PolicyConfig(name="other"))
    assert explain(config, Other, longest_us).sentences == ("Mine: 200.0.",)
    assert explain(config, object, longest_us).sentences == ("The policy other decides.",)


def test_deadlines_are_also_those_of_who_had_a_turn_or_his_share() -> None:
    chat, jobs = LaneConfig(priority=0, token_us=20_000), LaneConfig(priority=1, max_wait_us=2_000_000)
    config = DaemonConfig(policy=PolicyConfig(name="deadline"), lanes={"chat": chat, "jobs": jobs})
    said = " ".join(explained(config).sentences)
    assert "A client's next request of jobs is due 2 s after it came, or after rows of that client" in said
    assert "half of its target's time of the daemon for itself has had its share" in said


@pytest.mark.parametrize("name", ["latency_first", "weighted_fair", "deadline"])
def test_bounds_say_that_a_gpu_has_a_batch_more_and_times_are_usual_ones(name: str) -> None:
    said = " ".join(explained(DaemonConfig(policy=PolicyConfig(name=name), lanes=LANES)).sentences)
    assert "there it is one batch more" in said and "usually take" in said


@pytest.mark.parametrize(
    ("lane", "due"),
    [
        (LaneConfig(priority=0, token_us=20_000), "20 ms after it began."),
        (
            LaneConfig(priority=0, first_token_us=500_000, token_us=20_000),
            "500 ms after it began with a prompt, else 20 ms.",
        ),
    ],
)
def test_a_lane_with_one_target_is_due_once_and_with_two_as_it_begins(lane: LaneConfig, due: str) -> None:
    config = DaemonConfig(policy=PolicyConfig(name="deadline"), lanes={"chat": lane})
    assert f"A forward of chat is due {due}" in explained(config).sentences
