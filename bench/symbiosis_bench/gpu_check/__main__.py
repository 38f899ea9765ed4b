"""The order of things: what must be there, then steps, each with its share of the time.

The dated JSON is written before the first step and after each, for the machine may be taken away at any moment.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from symbiosis_bench.gpu_check.requirements import packages_missing, wheels
from symbiosis_bench.gpu_check.steps import Step, run
from symbiosis_bench.interruption import leave_in_order

__all__ = ["end_to_end_found", "main"]

MISSING: Final = 3
"""The status with which it ends where it cannot run."""
BUDGET_S: Final = 480.0
"""All limits together, that of `device` included. What a step does not need of its own, later ones may have."""
_PARTS: Final = "symbiosis_bench.gpu_check.parts"
DEVICE: Final = Step("device", ["-m", "symbiosis_bench.gpu_check.device"], 30)
_EXPANDABLE: Final = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def steps(fake: Path | None, scratch: Path) -> list[Step]:
    """Returns all steps, the most telling first. Together their limits keep to `BUDGET_S`."""
    source = [f"--fake={fake}"] if fake else []
    few = ["--clients=2", "--calls=50"] if fake else []

    def part(name: str, module: str, *options: str, limit_s: float, **environment: str) -> Step:
        return Step(name, ["-m", f"{_PARTS}.{module}", *source, *options], limit_s, environment)

    again = ["--calls=50", "--clients=1"]
    probe = part("probe", "try_probe", limit_s=35)
    parity = part("parity float32", "parity", "--dtype=float32", limit_s=40)
    on_the_host = part("a client on the CPU", "parity", "--dtype=float32", "--client=cpu", limit_s=40)
    calls = part("calls", "calls", *few, limit_s=70)
    kills = part("kills", "kills", limit_s=40)
    trips = part("trips", "trips", limit_s=25)
    expandable = [
        part("expandable segments, client", "calls", *again, limit_s=20, **_EXPANDABLE),
        part("expandable segments, both", "calls", *again, "--daemon-too", limit_s=20, **_EXPANDABLE),
    ]
    if fake:
        return [probe, on_the_host, calls, kills, trips, *expandable]
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/scheduler/test_cuda.py"]
    end_to_end = ["-m", "symbiosis_core", "bench", "end-to-end", "--quick", "--device", "cuda"]
    end_to_end += ["--rounds", "1", "--only", "train_tax,decode_tax", "--no-lent"]  # all of it takes minutes
    return [
        probe,
        parity,
        calls,
        kills,
        on_the_host,
        Step("device tests", tests, 35),
        part("parity bfloat16", "parity", "--dtype=bfloat16", limit_s=30),
        trips,
        *expandable,
        part("a client on another GPU", "parity", "--dtype=float32", "--client=cuda:1", limit_s=20),
        Step("end-to-end", [*end_to_end, "--json", str(scratch / "end-to-end.json")], 60),
        part("trips with MPS", "trips", "--mps", limit_s=15),  # last: its service is in nobody's way
    ]


def main() -> int:
    """Runs it all. Returns the exit status."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="bench/gpu_check.sh", description="Everything that needs a GPU.")
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--wheels", action="store_true", help="say which wheels to bring, and end")
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU, for --wheels")
    parser.add_argument("--fake", type=Path, help="a folder that stands for the device: tries this program alone")
    asked = parser.parse_args()
    if asked.wheels:
        return _tell_wheels(asked.python)
    date = datetime.now(UTC)
    report: dict[str, Any] = {"date": date.isoformat(timespec="seconds"), "fake": asked.fake is not None}
    report |= {"complete": False, "steps": []}
    if missing := packages_missing():
        reason = f"packages that are not installed: {', '.join(missing)}; see bench/gpu_check.sh --wheels"
        return _cannot_run(reason, report, asked.json)
    report["machine"] = _machine()
    until_s = 0.0
    if asked.fake is None:
        until_s = DEVICE.limit_s
        device = run(DEVICE, until_s)
        if device.status != "passed":
            return _cannot_run(f"a GPU: {str(device.figures).strip()}", report, asked.json)
        report["machine"]["device"] = device.figures
    file = asked.json or Path(f"bench/results/gpu-check-{date:%Y-%m-%d}.json")
    _write(report, file)  # where it cannot be written, this is the time to say so
    leave_in_order()  # ends the step that runs; what was found before it is written
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps(asked.fake, Path(scratch)):
            until_s += step.limit_s
            outcome = run(step, until_s - (time.monotonic() - began))
            print(f"{outcome.status:8} {outcome.seconds:6.1f} s  {step.name}", flush=True)
            report["steps"].append(outcome._asdict())
            report |= end_to_end_found(Path(scratch, "end-to-end.json"))
            report["seconds"] = round(time.monotonic() - began, 1)
            _write(report, file)
    report["complete"] = True
    _write(report, file)
    print(f"written: {file}")
    return 1 if any(step["status"] == "failed" for step in report["steps"]) else 0


def end_to_end_found(file: Path) -> dict[str, Any]:
    """Returns the figures that step wrote. It may have been ended before it wrote any, or while it did."""
    try:
        return {"end_to_end": json.loads(file.read_bytes())}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        return {"end_to_end_unreadable": str(error)}


def _tell_wheels(python: str) -> int:
    try:
        print(wheels(python))
    except LookupError as error:
        print(f"cannot say: {error.args[0]}")
        return MISSING
    return 0


def _cannot_run(missing: str, report: dict[str, Any], file: Path | None) -> int:
    print(f"cannot run: {missing}")
    if file is not None:
        _write(report | {"missing": [missing]}, file)
    return MISSING


def _machine() -> dict[str, Any]:
    import msgspec

    from symbiosis_bench.machine import this_machine

    told: dict[str, Any] = msgspec.to_builtins(this_machine())
    return told


def _write(report: dict[str, Any], file: Path) -> None:
    """Whoever reads it finds it whole."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(json.dumps(report, indent=2) + "\n")
    beside.replace(file)


if __name__ == "__main__":
    sys.exit(main())
