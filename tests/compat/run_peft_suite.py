"""Runs PEFT's own tests, from an unmodified checkout, on plain models and on remote ones, and compares.

    python tests/compat/run_peft_suite.py --peft PATH [--suite decoder] [-k EXPRESSION] [--every 20]

The checkout is to be of the release that is installed. What was run stands in the folder `--out`, and a second
call goes on from there, for a whole run takes long: of plain models while the libraries are the same, of remote
ones while the commit is. See "PEFT's own tests" in docs/compat.md.

Ends with 0 where every test passes on remote models that passes on plain ones, with 1 where some do not, and
with 2 where a side was ended by a test, or has collected none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from symbiosis_bench.machine import commit
from tests.compat.score import compare, read_outcomes

SUITES = {"decoder": "test_decoder_models.py", "custom": "test_custom_models.py"}
ENDED = frozenset({0, 1})
"""Of pytest: all is told in the outcomes."""
NOTHING_LEFT = 5
"""Of pytest: every test that was asked for is known."""
LIBRARIES = ("torch", "transformers", "peft")
PACKAGE = "peft_suite"
"""What the copied test files are called, for ours are `tests`, too."""


def copied(peft: Path, to: Path) -> Path:
    """Copies the test files as they are, and makes a package of them: a source distribution has none."""
    folder = to / PACKAGE
    shutil.copytree(peft / "tests", folder, dirs_exist_ok=True, ignore=lambda _, names: _not_python(names))
    (folder / "__init__.py").touch()
    (to / "pytest.ini").write_text("[pytest]\n")
    return folder


def _not_python(names: list[str]) -> set[str]:
    return {name for name in names if not name.endswith(".py")}


def main() -> int:
    """Runs both sides, one after the other, and prints the score of what both have run."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--peft", type=Path, required=True, help="a checkout or source distribution of PEFT")
    ask.add_argument("--out", type=Path, default=Path("peft-suite"), help="where outcomes are kept")
    ask.add_argument("--suite", choices=SUITES, default="decoder")
    ask.add_argument("--cut", choices=["graph", "siblings", "linear", "lent"], default="graph")
    ask.add_argument("--side", choices=["plain", "remote", "both", "score"], default="both")
    ask.add_argument("--every", type=int, default=1, help="run each so many-th test only")
    ask.add_argument("-k", dest="pick", default="", help="as in pytest")
    asked = ask.parse_args()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tests = copied(asked.peft, out) / SUITES[asked.suite]
    bases = {"plain": ["plain"], "remote": [asked.cut], "both": ["plain", asked.cut], "score": []}[asked.side]
    environment = {**os.environ, "HF_HOME": str(out / "hub"), "HF_HUB_OFFLINE": "1"}
    ended = True
    for base in bases:
        command = [sys.executable, "-m", "tests.compat.side", "--base", base, "--hub", str(out / "hub" / "hub")]
        command += ["--out", str(out / f"{asked.suite}-{base}.jsonl"), "--every", str(asked.every)]
        command += ["--of", made_of(base), "-k", asked.pick, str(tests)]
        status = subprocess.run(command, env=environment, check=False).returncode
        known = read_outcomes(out / f"{asked.suite}-{base}.jsonl", made_of(base))
        ended &= status in ENDED or (status == NOTHING_LEFT and bool(known))
    plain, remote = (
        read_outcomes(out / f"{asked.suite}-{base}.jsonl", made_of(base)) for base in ("plain", asked.cut)
    )
    score = compare(plain, remote)
    (out / f"{asked.suite}-{asked.cut}.json").write_bytes(score.as_json())
    sys.stdout.write(f"{score}\n")
    if not ended:
        return 2
    return 0 if score.remote == score.plain else 1


def made_of(base: str) -> str:
    """Returns what decides the outcomes of a side: the libraries, and for remote models also our own code."""
    libraries = " ".join(f"{name} {version(name)}" for name in LIBRARIES)
    if base == "plain":
        return libraries
    here = Path(__file__)
    changes = subprocess.run(["git", "diff", "HEAD"], cwd=here.parent, capture_output=True, check=False).stdout
    return f"{libraries} commit {commit(here)} {sha256(changes).hexdigest()[:12] if changes else ''}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
