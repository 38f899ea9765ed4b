"""Where a socket stands, as far as nobody else is needed to tell (`test_other_user`)."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from symbiosis_transports.folder import for_owner_alone


def test_what_other_threads_make_while_a_socket_is_bound_can_be_used(tmp_path: Path) -> None:
    """By this user, and by nobody else."""
    path, folder = tmp_path / "d.sock", tmp_path / "folder"
    with socket.socket(socket.AF_UNIX) as sock:
        with for_owner_alone(path):
            sock.bind(str(path))
            folder.mkdir()
            bound = stat.S_IMODE(path.stat().st_mode)
        assert bound & 0o077 == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
