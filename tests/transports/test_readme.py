"""The examples in the README run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

README = Path(__file__).parents[2] / "transports" / "README.md"
START_S = 60.0


def script(begin: str, folder: Path) -> list[str]:
    """The command that runs the example that begins so, with its sockets in the folder."""
    found = re.search(rf"```python\n({begin}.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return [sys.executable, "-W", "error", "-c", found[1].replace("/tmp/", f"{folder}/")]


def test_the_example_runs(tmp_path: Path) -> None:
    subprocess.run(script("from symbiosis_core", tmp_path), check=True)


def test_a_service_of_ones_own_runs_and_its_client(tmp_path: Path) -> None:
    with subprocess.Popen(script("# service.py", tmp_path)) as service:
        try:
            deadline = time.monotonic() + START_S
            while not (tmp_path / "doubler.sock").exists():
                assert service.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            client = subprocess.run(script("# client.py", tmp_path), capture_output=True, text=True, check=True)
        finally:
            service.kill()
    assert client.stdout.splitlines() == ["bad_region", "nobody is there"]
