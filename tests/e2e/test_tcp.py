"""A daemon at a TCP address: the same training, explained, with keys and without, also after a cut cable."""

from __future__ import annotations

import getpass
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from symbiosis_adapters import AutoModelForCausalLM
from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_transports.keys import ALLOW_VARIABLE, DAEMON_KEY_VARIABLE, KEY_VARIABLE, new_pair
from symbiosis_transports.registry import transport
from tests.e2e.daemon_process import DaemonProcess
from tests.e2e.greeting import greet
from tests.e2e.training import METHODS, assert_same_training, plain, random_batches, train
from tests.transports.cable import Cable
from tests.transports.ports import free_pair


@pytest.fixture
def port() -> int:
    return free_pair()


@pytest.fixture
def both(tiny_path: Path, tmp_path: Path, port: int) -> Iterator[DaemonProcess]:
    """A daemon with a socket and a port, not started."""
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--dtype", "float32", "--listen", f"tcp://127.0.0.1:{port}")
    yield daemon
    daemon.close()


def allow(folder: Path, monkeypatch: pytest.MonkeyPatch, *friends: str) -> None:
    """Makes keys of a daemon and of those whom it lets in, and has daemons of this process use theirs."""
    new_pair(folder, "daemon")
    for name in friends:
        public, _ = new_pair(folder, name)
        (folder / "allowed").mkdir(exist_ok=True)
        public.rename(folder / "allowed" / public.name)
    monkeypatch.setenv(KEY_VARIABLE, str(folder / "daemon.key_secret"))
    monkeypatch.setenv(ALLOW_VARIABLE, str(folder / "allowed"))


def be(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has clients of this process show the key of that name."""
    monkeypatch.setenv(KEY_VARIABLE, str(folder / f"{name}.key_secret"))
    monkeypatch.setenv(DAEMON_KEY_VARIABLE, str(folder / "daemon.key"))


def test_training_over_tcp_with_keys_is_training(
    both: DaemonProcess, port: int, tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(tmp_path, monkeypatch, "friend")
    both.start()
    be("friend", tmp_path, monkeypatch)
    base = AutoModelForCausalLM.from_pretrained(f"tcp://127.0.0.1:{port}")
    (client,) = both.status().clients
    assert client.transport == "zmq_tcp"
    assert client.reasons[-1] == "zmq_tcp: chosen"
    assert "posix_shm: it does not go with a tcp address" in client.reasons
    batches = random_batches(4, 20)
    assert_same_training(
        train(base, METHODS["lora_qv"], batches), train(plain(tiny_path), METHODS["lora_qv"], batches)
    )
    beside = AutoModelForCausalLM.from_pretrained(both.address)
    assert {(one.transport, one.user) for one in both.status().clients} == {
        ("zmq_tcp", "key:friend"),
        ("posix_shm", getpass.getuser()),
    }
    for model in (base, beside):
        model.symbiosis.close()
    both.wait_status(lambda status: not status.clients, "both have left")
    assert both.stop() == 0


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Could not find a config file")
def test_the_trainer_logs_the_same_over_tcp_and_resumes(
    both: DaemonProcess, port: int, tmp_path: Path, tiny_path: Path
) -> None:
    """With evaluation, accumulation and a checkpoint. TRL's trainers over a port: `test_trl`."""
    both.start()
    data = [{"input_ids": ids, "labels": ids} for batch in random_batches(6, 20)[::3] for ids in batch]

    def trainer(model: Any, folder: str) -> Trainer:
        torch.manual_seed(11)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / folder),
            max_steps=4,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            learning_rate=5e-3,
            adam_epsilon=1e-3,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=2,
            save_steps=2,
            use_cpu=True,
            report_to=[],
            seed=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        return Trainer(model=adapted, args=arguments, train_dataset=data, eval_dataset=data[:2])

    def logged(trainer: Trainer) -> list[dict[str, float]]:
        kept = ("loss", "eval_loss", "grad_norm", "step")
        return [{key: entry[key] for key in kept if key in entry} for entry in trainer.state.log_history]

    base = AutoModelForCausalLM.from_pretrained(f"tcp://127.0.0.1:{port}")
    ours, theirs = trainer(base, "ours"), trainer(plain(tiny_path), "theirs")
    ours.train()
    theirs.train()
    expected = [
        {key: pytest.approx(value, rel=1e-5 if "loss" in key else 1e-4) for key, value in entry.items()}
        for entry in logged(theirs)
    ]
    assert len({entry["loss"] for entry in logged(theirs) if "loss" in entry}) == 4
    assert logged(ours) == expected
    ours.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-2"))
    assert logged(ours) == expected
    base.symbiosis.close()


KEY_LIMITS = """
[lanes.training]
priority = 0

[lanes.nightly]
priority = 10
max_clients_per_user = 1

[lanes.metered]
priority = 20
user_rows_per_s = 20

[[rules]]
lane = "nightly"
user = "key:alice"

[[rules]]
lane = "metered"
user = "key:carol"
"""


class Guarded(NamedTuple):
    """A daemon that lets in alice, bob and carol, with a socket besides."""

    daemon: DaemonProcess
    port: str
    folder: Path


@pytest.fixture(scope="module")
def guarded(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder, listen = tmp_path_factory.mktemp("g"), f"tcp://127.0.0.1:{free_pair()}"
    (folder / "d.toml").write_text(KEY_LIMITS)
    daemon = DaemonProcess(folder, str(tiny_path), "--listen", listen, "--config", str(folder / "d.toml"))
    try:
        with pytest.MonkeyPatch.context() as environment:
            allow(folder, environment, "alice", "bob", "carol")
            daemon.start()
        yield Guarded(daemon, listen, folder)
    finally:
        daemon.close()


def test_a_key_has_a_lane_and_limits_of_its_own(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its clients call themselves and whichever lane they wish: its rule names nothing but the key.

    A key without a rule goes where it wishes, and has limits of its own in that lane.
    """

    def come(key: str, name: str, wish: str, address: str = guarded.port) -> str:
        """Asks for a place, and returns in which lane it is."""
        be(key, guarded.folder, monkeypatch)
        return greet(address, name, wish).lane

    assert come("alice", "first", "training") == "nightly"
    for name, wish in itertools.product(("first", "bob", "key:bob"), ("training", "nightly", "no lane")):
        with pytest.raises(BusyError, match=r"lanes\.nightly\.max_clients_per_user"):
            come("alice", name, wish)
    assert come("bob", "alice", "nightly") == "nightly"
    with pytest.raises(BusyError, match=r"lanes\.nightly\.max_clients_per_user"):
        come("bob", "second", "nightly")
    assert come("bob", "second", "training") == "training"
    assert come("bob", "local", "nightly", guarded.daemon.address) == "nightly"


def test_a_token_is_of_use_to_the_key_that_it_was_given_to_alone(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor at the socket, nor one of the socket to a key; who tries takes nothing from whose it is."""
    daemon = guarded.daemon
    rows, shm = transport("zmq_tcp"), transport("posix_shm")
    port_of_rows, socket = rows.endpoint(guarded.port), shm.endpoint(daemon.address)
    be("bob", guarded.folder, monkeypatch)
    his = greet(guarded.port, "bob", "training").token
    local = greet(daemon.address, "local", "training").token
    be("alice", guarded.folder, monkeypatch)
    for thief, endpoint, token in ((rows, port_of_rows, his), (rows, port_of_rows, local), (shm, socket, his)):
        with pytest.raises(RefusedError, match="not given to the user") as refused:
            thief.connect(endpoint, token, 10)
        assert refused.value.code is RefusalCode.PERMISSION
    assert not daemon.status().clients
    be("bob", guarded.folder, monkeypatch)
    channels = [rows.connect(port_of_rows, his, 10), shm.connect(socket, local, 10)]
    assert {one.user for one in daemon.status().clients} == {"key:bob", getpass.getuser()}
    for channel in channels:
        channel.close()


def test_a_key_has_a_quota_of_rows_whatever_its_clients_call_themselves(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them together, also one that comes later; another key's rows are not counted."""

    def come(key: str, name: str) -> Any:
        be(key, guarded.folder, monkeypatch)
        return AutoModelForCausalLM.from_pretrained(guarded.port, name=name, lane="training", reconnect_s=0)

    ids = torch.randint(3, 128, (1, 120))  # a debt of about 16 s, within which all of these come
    models = [come("carol", "first"), come("carol", "second"), come("bob", "carol")]
    used_up = r"lanes\.metered\.user_rows_per_s = 20 rows a second"
    with pytest.raises(BusyError, match=used_up) as caught:
        for _ in range(2):
            models[0](ids).logits.sum().item()
    assert caught.value.code is RefusalCode.QUOTA
    models.append(come("carol", "third"))
    for model in (models[1], models[3]):
        with pytest.raises(BusyError, match=used_up):
            model(ids).logits.sum().item()
    for _ in range(3):
        models[2](ids).logits.sum().item()
    for model in models:
        model.symbiosis.close()
    guarded.daemon.wait_status(lambda status: not status.clients, "all have left")


def test_whom_a_running_daemon_lets_in_is_what_its_folder_says_now(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the port for questions and on the one for rows; a file that is no key changes nothing, and is logged."""
    public, _ = new_pair(guarded.folder, "dora")
    allowed = guarded.folder / "allowed"
    be("dora", guarded.folder, monkeypatch)
    with pytest.raises(RefusedError, match="refused this client"):
        greet(guarded.port, "dora", "training")
    (allowed / "half.key").write_text("public-key = ")
    public.rename(allowed / public.name)
    with pytest.raises(RefusedError, match="refused this client"):
        greet(guarded.port, "dora", "training")
    assert "those of before hold" in guarded.daemon.said()
    (allowed / "half.key").unlink()
    token = greet(guarded.port, "dora", "training").token
    rows = transport("zmq_tcp")
    channel = rows.connect(rows.endpoint(guarded.port), token, 10)
    assert [one.user for one in guarded.daemon.status().clients] == ["key:dora"]
    (allowed / public.name).unlink()
    with pytest.raises(RefusedError, match="refused this client"):
        greet(guarded.port, "dora", "training")
    channel.close()
    guarded.daemon.wait_status(lambda status: not status.clients, "she has left")


NO_KEYS = f"""
[lanes.training]
priority = 0
max_clients_per_user = 1

[lanes.nightly]
priority = 10

[[rules]]
lane = "nightly"
user = "{getpass.getuser()}"
"""


def test_who_comes_to_a_port_without_a_key_is_not_taken_for_the_user_of_the_daemon(
    tiny_path: Path, tmp_path: Path, port: int
) -> None:
    """It may be any user of the host, so all of them are one user, `tcp`."""
    (tmp_path / "d.toml").write_text(NO_KEYS)
    listen = f"tcp://127.0.0.1:{port}"
    daemon = DaemonProcess(tmp_path, str(tiny_path), "--listen", listen, "--config", str(tmp_path / "d.toml"))

    def come(address: str) -> str:
        return greet(address, "me", "training").lane

    try:
        daemon.start()
        assert come(listen) == "training"
        with pytest.raises(BusyError, match=r"lanes\.training\.max_clients_per_user"):
            come(listen)
        assert [come(daemon.address), come(daemon.address)] == ["nightly", "nightly"]
    finally:
        daemon.close()


def test_a_cut_cable_costs_time_and_no_step(both: DaemonProcess, port: int, tiny_path: Path) -> None:
    """Cut in the middle of a step, mended from another thread: the request is sent again."""
    both.start()
    near = free_pair()
    batches = random_batches(8, 20)
    theirs = train(plain(tiny_path), METHODS["lora_qv"], batches)
    with Cable(near, port) as control, Cable(near + 1, port + 1) as rows:
        base = AutoModelForCausalLM.from_pretrained(f"tcp://127.0.0.1:{near}", reconnect_s=60)
        cut_at(base, 22, (control, rows))
        ours = train(base, METHODS["lora_qv"], batches)
        assert base.symbiosis.session.reconnects == 1
        calls = base.symbiosis.session.statistics().requests
        assert calls > 10, "an answer that outran the cut would have hidden it if it had been the last one"
        base.symbiosis.close()
    assert_same_training(ours, theirs)
    both.wait_status(lambda status: not status.clients, "it has left")


def cut_at(base: Any, call: int, cables: tuple[Cable, ...]) -> None:
    """Cuts the cables while the session waits for its n-th answer, and mends them a little later."""
    channel = base.symbiosis.session._channel
    publish: Callable[..., None] = channel.publish
    calls = 0

    def publish_and_cut(*arguments: Any) -> None:
        nonlocal calls
        publish(*arguments)
        calls += 1
        if calls == call:
            for cable in cables:
                cable.cut()
            for cable in cables:
                threading.Timer(0.3, cable.mend).start()

    channel.publish = publish_and_cut
