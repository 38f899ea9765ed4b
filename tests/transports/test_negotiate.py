"""The choice of a transport is symmetric and explained."""

from __future__ import annotations

import pytest

from symbiosis_core.errors import RefusalCode, RefusedError, UsageError
from symbiosis_core.wire import Capability, Hello, decode_request, encode
from symbiosis_transports.negotiate import choose
from symbiosis_transports.registry import names, transport

HERE = Capability("posix_shm", "boot-a")
THERE = Capability("posix_shm", "boot-b")


def test_what_both_sides_can_do_is_chosen_with_its_reason() -> None:
    assert choose([HERE], [HERE]) == ("posix_shm", ("posix_shm: chosen",))


def test_the_daemons_preference_decides_and_obstacles_are_kept() -> None:
    gpu = Capability("cuda_ipc", "boot-a", ("GPU-1",))
    other = Capability("cuda_ipc", "boot-a", ("GPU-2",))
    choice = choose([gpu, HERE], [HERE, other])
    assert choice.transport == "posix_shm"
    assert choice.reasons[0] == "cuda_ipc: client and daemon reach no common device"


def test_a_side_that_cannot_use_a_transport_says_why() -> None:
    able = Capability("cuda_ipc", "boot-a", ("GPU-1",))
    unable = Capability("cuda_ipc", "boot-a", obstacle="no GPU")
    for daemon, client in ((able, unable), (unable, able)):
        assert choose([daemon, HERE], [client, HERE]).reasons == ("cuda_ipc: no GPU", "posix_shm: chosen")


def test_who_came_over_a_network_shares_no_memory_even_on_one_kernel() -> None:
    tcp = Capability("zmq_tcp", schemes=("tcp",))
    choice = choose([HERE, tcp], [HERE, tcp], "tcp")
    assert choice == ("zmq_tcp", ("posix_shm: it does not go with a tcp address", "zmq_tcp: chosen"))
    assert choose([tcp, HERE], [HERE, tcp], "ipc").transport == "posix_shm"
    with pytest.raises(RefusedError, match="it does not go with a tcp address"):
        choose([tcp], [Capability("zmq_tcp")], "tcp")


def test_nothing_in_common_names_every_obstacle() -> None:
    with pytest.raises(RefusedError, match="run on two kernels") as caught:
        choose([HERE], [THERE])
    assert caught.value.code is RefusalCode.NO_TRANSPORT
    with pytest.raises(RefusedError, match="does not offer"):
        choose([HERE], [])


def test_two_places_on_one_kernel_are_named() -> None:
    """As a client in another container than the daemon's."""
    here, there = (Capability("zmq_ipc", f"boot-a/pid namespace {number}") for number in (1, 2))
    with pytest.raises(RefusedError, match="daemon in pid namespace 1, the client in pid namespace 2"):
        choose([here], [there])


def test_what_every_transport_says_of_itself_is_within_the_limits_of_the_wire() -> None:
    hello = Hello("me", "training", capabilities=tuple(transport(name).capability() for name in names()))
    assert decode_request(encode(hello)) == hello


def test_installed_transports_are_found_by_entry_point() -> None:
    assert names()[:5] == ("cuda_ipc", "posix_shm", "inproc", "zmq_ipc", "zmq_tcp")
    assert transport("posix_shm").name == "posix_shm"
    with pytest.raises(UsageError, match="installed are"):
        transport("carrier_pigeon")
