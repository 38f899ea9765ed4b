"""Beyond the loopback nobody comes in without a key that is on the list, and no daemon listens without one."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from symbiosis_core.errors import BusyError, DaemonGoneError, RefusalCode, RefusedError, UsageError
from symbiosis_core.ids import Token
from symbiosis_core.wire import Fetch, Hello, Refused, TensorPart
from symbiosis_transports.allow_list import AllowList, read_key
from symbiosis_transports.claim import AddressClaim
from symbiosis_transports.keys import (
    ALLOW_VARIABLE,
    DAEMON_KEY_VARIABLE,
    KEY_VARIABLE,
    Gatekeeper,
    client_keys,
    daemon_keys,
    new_pair,
)
from symbiosis_transports.ports import Grant, Peer
from symbiosis_transports.testing import AskedDaemon, EchoDaemon, add_one
from symbiosis_transports.testing.asked import answer
from symbiosis_transports.zmq_link import ControlClient, ControlServer
from symbiosis_transports.zmq_rows.messages import VERSION, Open, decode_from_daemon, encode
from symbiosis_transports.zmq_tcp import TRANSPORT
from tests.transports.ports import free_pair


class Ring:
    """Keys of a daemon, of a friend, and of a stranger; the environment is one process's, so it changes sides."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        (folder / "allowed").mkdir()
        for name in ("daemon", "friend", "stranger"):
            new_pair(folder, name)
        self.allow("friend")

    def allow(self, name: str) -> None:
        """Puts its public key into the daemon's folder."""
        (self.folder / f"{name}.key").rename(self.folder / "allowed" / f"{name}.key")

    def forbid(self, name: str) -> None:
        """Takes it away again."""
        (self.folder / "allowed" / f"{name}.key").rename(self.folder / f"{name}.key")

    def be_daemon(self) -> None:
        self._monkeypatch.setenv(KEY_VARIABLE, str(self.folder / "daemon.key_secret"))
        self._monkeypatch.setenv(ALLOW_VARIABLE, str(self.folder / "allowed"))

    def be(self, name: str, daemon: str = "daemon") -> None:
        self._monkeypatch.setenv(KEY_VARIABLE, str(self.folder / f"{name}.key_secret"))
        self._monkeypatch.setenv(DAEMON_KEY_VARIABLE, str(self.folder / f"{daemon}.key"))

    def be_nobody(self) -> None:
        for variable in (KEY_VARIABLE, ALLOW_VARIABLE, DAEMON_KEY_VARIABLE):
            self._monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ring:
    return Ring(tmp_path, monkeypatch)


@pytest.fixture
def port() -> int:
    return free_pair()


@pytest.fixture
def guarded(ring: Ring, port: int) -> Iterator[EchoDaemon]:
    ring.be_daemon()
    daemon = EchoDaemon(TRANSPORT, f"tcp://127.0.0.1:{port}")
    yield daemon
    daemon.close()


def test_a_secret_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    public, secret = new_pair(tmp_path / "new", "me")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert "secret-key" not in public.read_text()
    with pytest.raises(UsageError, match="there already"):
        new_pair(tmp_path / "new", "me")


def test_the_command_makes_keys_and_says_what_they_are_for(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "symbiosis_core", "keys", "new", "alice", "--folder", str(tmp_path / "k")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {file.name for file in (tmp_path / "k").iterdir()} == {"alice.key", "alice.key_secret"}
    assert all(name in done.stdout for name in (KEY_VARIABLE, ALLOW_VARIABLE, DAEMON_KEY_VARIABLE))
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr.splitlines()[0][:6]) == (2, "error:")


def test_a_friend_comes_in_and_rows_travel(ring: Ring, guarded: EchoDaemon, port: int) -> None:
    ring.be("friend")
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    assert add_one(channel, bytes(range(256)) * 100, 25_600)
    channel.close()


@pytest.mark.parametrize("who", ["stranger", "nobody", "mistaken"])
def test_all_others_stay_outside(ring: Ring, guarded: EchoDaemon, port: int, who: str) -> None:
    """A stranger is not on the list, nobody has no key, and who is mistaken takes another for the daemon."""
    ring.be_nobody()
    if who != "nobody":
        ring.be("friend" if who == "mistaken" else who, daemon="stranger" if who == "mistaken" else "daemon")
    with pytest.raises(DaemonGoneError):
        TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 2)
    assert not guarded.channels
    ring.be("friend")
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    assert add_one(channel, b"abc", 3)
    channel.close()


def test_whose_key_it_is_the_host_is_told_with_the_token(ring: Ring, port: int) -> None:
    ring.be_daemon()
    shown: list[Peer] = []

    class Attentive(EchoDaemon):
        def redeem(self, token: Token, peer: Peer) -> Grant:
            shown.append(peer)
            return super().redeem(token, peer)

    daemon = Attentive(TRANSPORT, f"tcp://127.0.0.1:{port}")
    ring.be("friend")
    TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10).close()
    daemon.close()
    assert shown == [Peer(0, None, "friend")]


def test_control_messages_are_guarded_as_well(ring: Ring, port: int) -> None:
    ring.be_daemon()
    address = f"tcp://127.0.0.1:{port}"
    served = AskedDaemon(ControlServer, address)
    ring.be("friend")
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
        with pytest.raises(BusyError, match="64 clients friend"):  # the name of the key, as the daemon keeps it
            client.ask(Hello("I say I am the boss", "training"))
    ring.be("stranger")
    with ControlClient(address) as client, pytest.raises(RefusedError, match="SYMBIOSIS_DAEMON_KEY") as refused:
        client.ask(Fetch("m", "t"))
    assert refused.value.code is RefusalCode.PERMISSION
    served.close()


def test_a_key_that_comes_into_the_folder_comes_in_and_one_that_leaves_it_stays_outside(
    ring: Ring, guarded: EchoDaemon, port: int
) -> None:
    """While the daemon runs. Who is inside stays."""
    ring.be("friend")
    inside = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    ring.allow("stranger")
    ring.forbid("friend")
    ring.be("stranger")
    newcomer = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
    ring.be("friend")
    with pytest.raises(DaemonGoneError):
        TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 2)
    for channel in (inside, newcomer):
        assert add_one(channel, b"abc", 3)
        channel.close()


def test_who_asks_on_after_its_key_has_left_the_folder_is_refused(ring: Ring, port: int) -> None:
    ring.be_daemon()
    address = f"tcp://127.0.0.1:{port}"
    served = AskedDaemon(ControlServer, address)
    ring.be("friend")
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
        ring.allow("stranger")
        ring.forbid("friend")
        with pytest.raises(RefusedError, match="not on the daemon's list any more") as refused:
            client.ask(Fetch("m", "t"))
    assert refused.value.code is RefusalCode.PERMISSION
    ring.be("stranger")
    with ControlClient(address) as client:
        assert isinstance(client.ask(Fetch("m", "t")), TensorPart)
    served.close()


def test_who_speaks_at_the_port_for_rows_after_its_key_has_left_the_folder_is_refused_once(
    ring: Ring, guarded: EchoDaemon, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says then: the folder is not looked at for it again, and others are served."""
    found: list[str | None] = []
    look = Gatekeeper.name_of

    def look_and_count(self: Gatekeeper, frame: zmq.Frame) -> str | None:
        found.append(look(self, frame))
        return found[-1]

    monkeypatch.setattr(Gatekeeper, "name_of", look_and_count)
    ring.be("friend")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        say_nothing_yet(socket, f"tcp://127.0.0.1:{port}")
        ring.allow("stranger")
        ring.forbid("friend")
        for _ in range(100):
            socket.send(encode(Open(VERSION, Token("good"))))
        assert socket.poll(20_000)
        refused = decode_from_daemon(memoryview(socket.recv()))
        assert isinstance(refused, Refused)
        assert refused.code is RefusalCode.PERMISSION
        ring.be("stranger")
        channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port}", Token("good"), 10)
        assert add_one(channel, b"abc", 3)
        channel.close()
        assert found == [None, "stranger"]
        assert not socket.poll(0)


def say_nothing_yet(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Connects, and returns once the keys of both sides are good."""
    keys = client_keys()
    assert keys is not None
    keys.secure(socket)
    socket.setsockopt(zmq.LINGER, 0)
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    socket.connect(endpoint)
    assert monitor.poll(20_000)
    socket.disable_monitor()
    monitor.close()


@pytest.mark.parametrize("wrong", ["", 'public-key = "short"', f'public-key = "{"#" * 40}"', "a folder", "gone"])
def test_a_folder_that_is_wrong_changes_nothing_and_is_said_once(
    ring: Ring, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ring.folder / "allowed"
    allowed, friend = AllowList(folder), read_key(folder / "friend.key")[0]
    stranger = read_key(ring.folder / "stranger.key")[0]
    if wrong == "gone":
        folder.rename(ring.folder / "away")
    elif wrong == "a folder":
        (folder / "half.key").mkdir()
    else:
        (folder / "half.key").write_text(wrong)
    if wrong != "gone":
        ring.allow("stranger")
        ring.forbid("friend")
    assert [(allowed.name_of(friend), allowed.name_of(stranger)) for _ in range(3)] == [("friend", None)] * 3
    (said,) = caplog.messages
    assert "those of before hold" in said
    if wrong == "gone":
        (ring.folder / "away").rename(folder)
        ring.allow("stranger")
        ring.forbid("friend")
    elif wrong == "a folder":
        (folder / "half.key").rmdir()
    else:
        (folder / "half.key").unlink()
    assert (allowed.name_of(friend), allowed.name_of(stranger)) == (None, "stranger")


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "10.1.2.3", "somewhere.example"])
def test_a_daemon_without_keys_listens_on_the_loopback_only(ring: Ring, port: int, host: str) -> None:
    ring.be_nobody()
    address = f"tcp://{host}:{port}"
    for listen in (
        lambda: AddressClaim(address).take(),
        lambda: ControlServer(address, answer).open(),
        lambda: EchoDaemon(TRANSPORT, TRANSPORT.endpoint(address)),
    ):
        with pytest.raises(UsageError, match="symbiosis keys new"):
            listen()


def test_with_keys_it_listens_everywhere(ring: Ring, port: int) -> None:
    ring.be_daemon()
    AddressClaim(f"tcp://0.0.0.0:{port}").take()
    daemon = EchoDaemon(TRANSPORT, f"tcp://0.0.0.0:{port + 1}")
    ring.be("friend")
    channel = TRANSPORT.connect(f"tcp://127.0.0.1:{port + 1}", Token("good"), 10)
    assert add_one(channel, b"abc", 3)
    channel.close()
    ring.be_daemon()
    with pytest.raises(UsageError, match=f"port {port + 1}"):
        AddressClaim(f"tcp://0.0.0.0:{port}").take()
    daemon.close()


def test_what_is_wrong_with_keys_is_named(ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring.be_daemon()
    (tmp_path / "daemon.key_secret").chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        daemon_keys()
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "daemon.key"))
    with pytest.raises(UsageError, match="no secret key"):
        daemon_keys()
    monkeypatch.setenv(ALLOW_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no public key"):
        daemon_keys()
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(UsageError, match="set both"):
        daemon_keys()
    monkeypatch.setenv(DAEMON_KEY_VARIABLE, str(tmp_path / "missing.key"))
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "friend.key_secret"))
    with pytest.raises(UsageError, match="is no key"):
        client_keys()
