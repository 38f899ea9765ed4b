"""The core's public surface changes on purpose only, and stays free of frameworks."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import symbiosis_core

EXPORTS = {
    "symbiosis_core": ["__version__"],
    "symbiosis_core.cli": ["GROUP", "app", "main"],
    "symbiosis_core.clock": ["monotonic_us"],
    "symbiosis_core.config": [
        "DEFAULT_LANES", "BatchingConfig", "ComputeConfig", "DaemonConfig", "LaneConfig", "LendingConfig",
        "LimitsConfig", "ModelConfig", "PolicyConfig", "RuleConfig", "check", "load",
    ],
    "symbiosis_core.errors": [
        "BusyError", "ClosedError", "ConfigError", "DaemonGoneError", "DaemonSilentError", "LocalProtocolError",
        "Problem", "RefusalCode", "RefusedError", "RemoteProtocolError", "ServiceFailedError", "SymbiosisError",
        "UsageError",
    ],
    "symbiosis_core.heaps": ["share_heap", "trim_heap"],
    "symbiosis_core.ids": [
        "FIRST_BASE", "BaseId", "ClientId", "Generation", "OpId", "SlotIndex", "Token", "boot_id", "new_token",
        "process_namespace",
    ],
    "symbiosis_core.kernel": [
        "Kernel", "KernelStatistics", "Service", "ServiceState", "ServiceStatistics", "install_signals",
    ],
    "symbiosis_core.logs": ["ENVIRONMENT", "LEVELS", "Event", "event", "get_logger", "setup"],
    "symbiosis_core.openmp": ["GOMP_SPINCOUNT", "bound_openmp", "let_team_go", "sleep_soon", "waiting_told"],
    "symbiosis_core.protocol": ["ANSWERS", "ClientConversation", "refusal"],
    "symbiosis_core.resting": ["LOOK_EVERY_S", "Resting"],
    "symbiosis_core.segments": [
        "MAX_NODES", "MAX_PLANES", "Fn", "Node", "Segment", "SegmentSpec", "check", "describe", "frozen_values",
        "inputs_behind",
    ],
    "symbiosis_core.spared_core": ["Place", "go", "return_to", "spared_core"],
    "symbiosis_core.specs": [
        "PLANE_ALIGNMENT", "DType", "Direction", "LentTensor", "ModelSpec", "Op", "OpKind", "OpSpec", "Plane",
        "TensorKind", "TensorSpec", "plane_starts",
    ],
    "symbiosis_core.telemetry": ["LatencyHistogram", "descriptors_left", "pss_bytes"],
    "symbiosis_core.thread_trial": ["ThreadTrial"],
    "symbiosis_core.toml_check": ["check", "read"],
    "symbiosis_core.wire": [
        "MAX_OBSTACLE", "MAX_REPLY_BYTES", "MAX_REQUEST_BYTES", "TENSOR_PART_BYTES", "VERSION", "AskQuota",
        "BatchStatus", "Borrow", "Capability",
        "ClientStatus",
        "Configure",
        "Configured", "DaemonStatus", "Describe", "Fetch", "Hello",
        "HoldStatus", "LaneStatus", "Learn", "Learned", "Loan",
        "MemoStatus",
        "MemoryStatus", "ModelReply", "ModelStatus", "Name",
        "QuotaState", "Refused", "Reply", "Request",
        "SpinStatus", "Status", "StatusReply", "TakeTrace",
        "TensorPart",
        "TraceTaken",
        "Welcome", "decode_reply", "decode_request", "encode", "header",
    ],
}  # fmt: skip
ROOT = Path(symbiosis_core.__file__).parent


def test_every_module_is_listed_here() -> None:
    modules = {f"symbiosis_core.{module.name}" for module in pkgutil.iter_modules([str(ROOT)])}
    modules.discard("symbiosis_core.__main__")
    assert modules | {"symbiosis_core"} == set(EXPORTS)


@pytest.mark.parametrize("module", EXPORTS)
def test_a_module_exports_what_it_always_did(module: str) -> None:
    assert importlib.import_module(module).__all__ == EXPORTS[module]


@pytest.mark.parametrize("module", EXPORTS)
def test_whatever_is_exported_exists_and_is_explained(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    for name in loaded.__all__:
        exported = getattr(loaded, name)
        if inspect.isclass(exported) or inspect.isfunction(exported):
            assert f"{exported.__module__}.".startswith(f"{module}.")
            assert exported.__doc__
            assert not exported.__doc__.startswith(f"{name}(")  # a docstring that a dataclass wrote by itself


def test_the_core_loads_no_framework() -> None:
    code = f"""
import importlib, sys
for module in {list(EXPORTS)}:
    importlib.import_module(module)
print(sorted({{"torch", "zmq", "uvloop", "transformers", "peft", "numpy"}} & set(sys.modules)))
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"
