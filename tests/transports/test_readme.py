"""The example in the README runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "transports" / "README.md"


def test_the_example_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(from symbiosis_core.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    code = found[1].replace("/tmp/rows.sock", str(tmp_path / "rows.sock"))
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
