"""The daemon's configuration: TOML in, frozen Structs out, every mistake named with its key path.

Under each field: meaning, unit, special value, and the reason for the default. A key that stands in no Struct
here is an error, never ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from symbiosis_core import toml_check
from symbiosis_core.errors import ConfigError, Problem
from symbiosis_core.wire import Name

__all__ = [
    "DEFAULT_LANES",
    "BatchingConfig",
    "ComputeConfig",
    "DaemonConfig",
    "LaneConfig",
    "LendingConfig",
    "LimitsConfig",
    "ModelConfig",
    "PolicyConfig",
    "RuleConfig",
    "check",
    "load",
]


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One base that the daemon holds."""

    source: Annotated[str, Meta(min_length=1, max_length=1024)]
    """What to load: `smollm2`, a folder, or a hub id such as owner/name."""
    name: Annotated[str, Meta(max_length=128)] = ""
    """What addresses call it, as in `ipc:///path#name`. Empty: as the folder is called, or the hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """How the base is held, and the element type of all rows."""
    quantize: Literal["none", "int8", "nf4"] = "none"
    """How its linears are held; rows keep `dtype`. `int8`: in eight bits, about half of bfloat16; needs the extra
    `int8` (torchao), and the CPU. `nf4`: in four bits, about a quarter; needs the extra `nf4` (bitsandbytes)."""
    default: bool = False
    """Whether it is meant where an address names none. A daemon of several bases that marks none wants a name: a
    client that trains on the wrong base finds out late."""


class LaneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One lane: who waits for whom."""

    priority: Annotated[int, Meta(ge=0, le=100)]
    """Lower goes first. Clients of lanes of equal priority take turns."""
    chunk_rows: Annotated[int, Meta(ge=1, le=1 << 20)] = 256
    """Rows of this lane in one batch at most, of one request or many; a larger request is computed in several, so
    that nobody waits longer than one chunk. 256 rows is where a CPU's matrix product is as fast per row as with
    more; smaller chunks cost throughput."""
    max_wait_us: Annotated[int, Meta(ge=0, le=60_000_000)] = 200_000
    """Ageing: where a request has waited this many microseconds, the clients of its priority, in turn, go before
    every lane; of several priorities, the oldest request's. 0: the lane does not age; it is served only when no
    lane before it waits, so below the first lane it may starve. The first lane needs no ageing. The
    default gives training a few requests a second under full inference load."""
    max_hold_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Holding: how long a small request of this lane may wait for others that are about to ask for the same, so
    that one reading of the weights serves them all. 0: never. A client alone is never held. Pays for lanes of few
    rows; a training batch is bound by computing, and sharing its weights saves nothing."""

    weight: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0
    """`weighted_fair`: this lane's share of the daemon's time, in proportion to the others'."""
    first_token_us: Annotated[int, Meta(ge=0, le=600_000_000)] = 0
    """Target for the time from the beginning of a forward that reads a prompt to its token. `deadline` orders by
    it, and `symbiosis bench mixed --config FILE` counts who keeps it. 0: none."""
    token_us: Annotated[int, Meta(ge=0, le=600_000_000)] = 0
    """The same for every later token."""
    max_clients: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Clients of this lane at the same time. 0: as many as `limits.max_clients`."""
    max_clients_per_user: Annotated[int, Meta(ge=0, le=4096)] = 0
    """Clients of one user in this lane. 0: no limit of its own."""
    client_rows_per_s: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    """Quota: rows that one client may have computed a second, in the long run, with two seconds' worth saved up at
    most. Judged where a forward begins, which is then refused with the time to try again; a forward that was begun
    is only broken off once it has taken a minute's worth. What is owed when a client leaves, the next one of its
    user in this lane owes, except at a TCP port without keys, where nobody is known. 0: no quota."""
    user_rows_per_s: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    """The same for all clients of one user in this lane together."""


class RuleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Puts clients into a lane, whatever lane they ask for. The first rule that fits decides.

    What is left out fits everybody. A rule that names nothing fits all.
    """

    lane: Name
    """Where those go that the rule fits; one of the file's lanes."""
    name: Annotated[str, Meta(max_length=128)] = ""
    """The client's name, with `*` and `?` as in a shell. It is the client's own word."""
    user: Annotated[str, Meta(max_length=128)] = ""
    """Whose client it is: at the daemon's socket its own user's, since nobody else is let in. Who comes to a TCP
    port with the key that the daemon keeps as NAME.key is the user `key:NAME`; without keys, the user `tcp`."""
    key: Annotated[str, Meta(max_length=256)] = ""
    """A secret that the client shows (`SYMBIOSIS_LANE_KEY`), so that a lane is for those who have it."""


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which policy decides."""

    name: Annotated[str, Meta(min_length=1, max_length=64)] = "latency_first"
    """An entry point in the group `symbiosis.policies`."""


class BatchingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How requests of different clients are put together."""

    exact: bool = False
    """True: every request is computed alone and whole, so results are bit for bit those of a solo run; false:
    rows of different clients share one matrix product, and results agree within rounding."""
    max_rows: Annotated[int, Meta(ge=1, le=1 << 20)] = 512
    """Rows of one batch at most. Bounds how long a batch that was started delays what arrives after it."""


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one client, and all of them, may hold."""

    max_clients: Annotated[int, Meta(ge=1, le=4096)] = 64
    """Clients connected at the same time."""
    slots: Annotated[int, Meta(ge=1, le=64)] = 4
    """Requests that one client may have in flight. More than one lets a large request be pipelined."""
    slot_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 30)] = 8 << 20
    """Shared memory of one slot: the rows of one request and of its answer. Larger requests are split by the
    client. Pages are only taken from the machine once they are used."""
    max_rows: Annotated[int, Meta(ge=1, le=1 << 24)] = 1 << 16
    """Rows of one request."""
    segments: Annotated[int, Meta(ge=0, le=1 << 20)] = 1 << 14
    """Distinct segments that clients may teach the daemon, of a few kilobytes each. A client with adapters at
    places of its own needs about one or two per layer; clients with equal places share them. 0: none, and a
    client has to ask for cut='siblings'."""


class LendingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether clients on this host may map the weights themselves."""

    allow: Literal["same_user", "nobody"] = "same_user"
    """Who gets the weights, read-only: processes of the daemon's own user, who could read the checkpoint as well,
    or nobody. Without it a client can do nothing that needs a weight's values, such as DoRA or a merge."""


class ComputeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor's threads and how long they wait awake."""

    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads of one matrix product. 0: as many as there are cores that this process may use."""
    memo_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 256 << 20
    """What may be kept of training clients' forwards, so that their backwards need not compute it again: the
    results of matrix products, about 8 KB a token and layer at width 576. The oldest goes first. 0: nothing, a
    backward costs one and a half times as much."""
    packed_bytes: Annotated[int, Meta(ge=0, le=1 << 40)] = 288 << 20
    """Second copies of weights in the order in which the processor multiplies few rows fastest: tokens come out of
    a bfloat16 base in half the time. A base is packed whole or not at all, each weight at its first use. 0: none.
    The default holds a model of 140 million parameters; a larger one takes its own size in bytes."""
    beside: bool = True
    """On a CPU, under a policy of strict lanes (`latency_first`): whether lanes below the first are computed by a
    thread of their own, of less weight, so that rows of the first lane need not wait until a batch of theirs ends.
    False, and with `batching.exact`: one batch after the other."""
    spin_us: Annotated[int, Meta(ge=0, le=10_000)] = 20
    """How long the idle daemon looks for new requests, yielding, before it sleeps; every fourth time only while
    looks miss. 0: sleep at once."""


DEFAULT_LANES = {
    "inference": LaneConfig(priority=0, max_wait_us=0, chunk_rows=512, max_hold_us=50_000),
    "training": LaneConfig(priority=10),
}


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole configuration file. Every table may be left out."""

    models: Annotated[tuple[ModelConfig, ...], Meta(max_length=64)] = ()
    """The bases. None: the one that the command line names."""
    policy: PolicyConfig = PolicyConfig()
    lanes: Annotated[dict[Name, LaneConfig], Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: dict(DEFAULT_LANES)
    )
    """The lanes by name. A file that names any replaces the defaults, `inference` and `training`, and must name
    all; there is no daemon without a lane. A client asks for its lane in `Hello`, whose limits a name must keep.
    """
    rules: Annotated[tuple[RuleConfig, ...], Meta(max_length=256)] = ()
    """Who goes into which lane, whatever it asks for."""
    batching: BatchingConfig = BatchingConfig()
    limits: LimitsConfig = LimitsConfig()
    lending: LendingConfig = LendingConfig()
    compute: ComputeConfig = ComputeConfig()


def check(source_name: str, text: str) -> DaemonConfig:
    """Returns the configuration that `text` writes down in TOML. `source_name` names it in errors.

    Raises:
        ConfigError: carries every problem that was found, not only the first.
    """
    found = toml_check.check(source_name, text, DaemonConfig)
    lanes = ", ".join(found.lanes)
    problems = [
        Problem(f"rules[{position}].lane", rule.lane, f"there is no such lane; the file's lanes are {lanes}")
        for position, rule in enumerate(found.rules)
        if rule.lane not in found.lanes
    ]
    problems += _model_problems(found.models)
    if problems:
        raise ConfigError(source_name, problems)
    return found


def _model_problems(models: tuple[ModelConfig, ...]) -> list[Problem]:
    names = [model.name for model in models]
    problems = [
        Problem(f"models[{position}].name", name, "another model has this name")
        for position, name in enumerate(names)
        if name and name in names[:position]
    ]
    marked = [position for position, model in enumerate(models) if model.default]
    return problems + [
        Problem(f"models[{position}].default", True, f"models[{marked[0]}] is the default already")
        for position in marked[1:]
    ]


def load(path: str | Path) -> DaemonConfig:
    """Returns the configuration in the file at `path`.

    Raises:
        ConfigError: as `check` does, and for a file that cannot be read or is not UTF-8.
    """
    return check(str(path), toml_check.read(Path(path)))
