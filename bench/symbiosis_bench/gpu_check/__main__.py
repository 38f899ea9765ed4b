"""The order of things: what must be there, then steps, each with its share of the time, then the dated JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from symbiosis_bench.gpu_check.requirements import gpu_missing, packages_missing, wheels
from symbiosis_bench.gpu_check.steps import Outcome, Step, run

__all__ = ["end_to_end_found", "main"]

MISSING: Final = 3
"""The status with which it ends where it cannot run."""
BUDGET_S: Final = 480.0
"""All limits together. What a step does not need of its own, later ones may have."""
_PARTS: Final = "symbiosis_bench.gpu_check.parts"
_EXPANDABLE: Final = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def steps(fake: Path | None, scratch: Path) -> list[Step]:
    """Returns all steps, the most telling first. Together their limits keep to `BUDGET_S`."""
    source = [f"--fake={fake}"] if fake else []
    few = ["--clients=2", "--calls=50"] if fake else []

    def part(name: str, module: str, *options: str, limit_s: float, **environment: str) -> Step:
        return Step(name, ["-m", f"{_PARTS}.{module}", *source, *options], limit_s, environment)

    again = ["--calls=50", "--clients=1"]
    probe = part("probe", "try_probe", limit_s=40)
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
        part("a client on another GPU", "parity", "--dtype=float32", "--client=cuda:1", limit_s=25),
        part("trips with MPS", "trips", "--mps", limit_s=20),
        Step("end-to-end", [*end_to_end, "--json", str(scratch / "end-to-end.json")], 75),
    ]


def main() -> int:
    """Runs it all. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench/gpu_check.sh", description="Everything that needs a GPU.")
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--wheels", action="store_true", help="say which wheels to bring, and end")
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU, for --wheels")
    parser.add_argument("--fake", type=Path, help="a folder that stands for the device: tries this program alone")
    asked = parser.parse_args()
    if asked.wheels:
        print(wheels(asked.python))
        return 0
    date = datetime.now(UTC)
    report: dict[str, Any] = {"date": date.isoformat(timespec="seconds"), "fake": asked.fake is not None}
    if missing := _missing(asked.fake is not None):
        report["missing"] = missing
        print("cannot run: " + "; ".join(missing))
        _write(report, asked.json)
        return MISSING
    report["machine"] = _machine(asked.fake is not None)
    began, outcomes, until_s = time.monotonic(), list[Outcome](), 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps(asked.fake, Path(scratch)):
            until_s += step.limit_s
            outcomes.append(run(step, until_s - (time.monotonic() - began)))
            print(f"{outcomes[-1].status:8} {outcomes[-1].seconds:6.1f} s  {step.name}", flush=True)
        report |= end_to_end_found(Path(scratch, "end-to-end.json"))
    report["seconds"] = round(time.monotonic() - began, 1)
    report["steps"] = [outcome._asdict() for outcome in outcomes]
    _write(report, asked.json or Path(f"bench/results/gpu-check-{date:%Y-%m-%d}.json"))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def end_to_end_found(file: Path) -> dict[str, Any]:
    """Returns the figures that step wrote. It may have been ended before it wrote any, or while it did."""
    try:
        return {"end_to_end": json.loads(file.read_bytes())}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        return {"end_to_end_unreadable": str(error)}


def _missing(fake: bool) -> list[str]:
    if packages := packages_missing():
        return [f"packages that are not installed: {', '.join(packages)}; see bench/gpu_check.sh --wheels"]
    reason = "" if fake else gpu_missing()
    return [f"a GPU: {reason}"] if reason else []


def _machine(fake: bool) -> dict[str, Any]:
    import msgspec

    from symbiosis_bench.machine import this_machine

    told: dict[str, Any] = msgspec.to_builtins(this_machine())
    if not fake:
        from symbiosis_bench.gpu_check.device import device_facts

        told["device"] = device_facts()
    return told


def _write(report: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(report, indent=2) + "\n")
        print(f"written: {file}")


if __name__ == "__main__":
    sys.exit(main())
