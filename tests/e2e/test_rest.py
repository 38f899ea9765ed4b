"""Whoever attaches is watched for rests."""

from __future__ import annotations

import threading

from symbiosis_adapters import AutoModelForCausalLM
from tests.e2e.daemon_process import DaemonProcess


def test_a_client_that_has_attached_is_watched_for_rests(tiny_daemon: DaemonProcess) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_daemon.address)
    assert "symbiosis-rest" in [thread.name for thread in threading.enumerate()]
    model.symbiosis.close()
