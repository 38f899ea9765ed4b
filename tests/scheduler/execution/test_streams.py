"""Streams: the CPU's is the calling thread, and lanes keep their order on a device."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from symbiosis_scheduler.execution.streams import (
    NICE,
    CpuStreams,
    device_priorities,
    open_streams,
    plans_in_flight,
)


def test_on_a_cpu_work_is_done_when_launch_returns() -> None:
    ran: list[int] = []
    event = CpuStreams().launch(3, lambda: ran.append(threading.get_ident()))
    assert ran == [threading.get_ident()]
    assert event.done()


def test_what_runs_beside_is_told_when_it_is_done_weighs_less_and_leaves_a_core() -> None:
    rung, go, nice, cores = threading.Event(), threading.Event(), list[int](), list[set[int]]()
    streams = CpuStreams(rung.set)

    def work() -> None:
        assert go.wait(20)
        nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        cores.append(os.sched_getaffinity(0))

    event = streams.launch_beside(work)
    assert not event.done()
    go.set()
    assert rung.wait(20)
    assert event.done() and event.rings
    assert nice == [min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)]
    usable = os.sched_getaffinity(0)
    assert cores == [usable - {min(usable)} or usable]
    streams.close()


def test_what_is_raised_beside_is_raised_where_it_is_asked_for() -> None:
    def work() -> None:
        raise ZeroDivisionError("a bug")

    rung = threading.Event()
    streams = CpuStreams(rung.set)
    event = streams.launch_beside(work)
    assert rung.wait(20)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        event.done()
    streams.close()


def test_the_most_urgent_lane_gets_the_devices_greatest_priority() -> None:
    assert device_priorities([10, 0], 0, -5) == {0: -5, 10: -4}
    assert device_priorities([7, 7], 0, -5) == {7: -5}


def test_more_lanes_than_the_device_has_priorities_share_the_least() -> None:
    assert device_priorities([0, 1, 2, 3], 0, -1) == {0: -1, 1: 0, 2: 0, 3: 0}


def test_a_cpu_needs_no_device() -> None:
    assert isinstance(open_streams(torch.device("cpu"), [0]), CpuStreams)


def test_only_a_device_that_works_beside_the_loop_has_a_second_plan_in_flight() -> None:
    assert plans_in_flight(torch.device("cpu")) == 1
    assert plans_in_flight(torch.device("cuda:1")) == 2
