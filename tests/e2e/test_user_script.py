"""What a user does: one changed line, an unmodified Trainer, a private daemon that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from symbiosis_adapters import AutoModelForCausalLM, AutoModelForSequenceClassification
from symbiosis_core.errors import UsageError
from tests.e2e.daemon_process import DaemonProcess

SCRIPT = """
import sys, warnings
import torch
warnings.filterwarnings("ignore", category=FutureWarning)
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, set_seed
{imports}
torch.set_num_threads(1)
set_seed(0)
model = AutoModelForCausalLM.from_pretrained({where})
model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
rows = [torch.randint(3, 128, (16,)).tolist() for _ in range(24)]
data = [{{"input_ids": row, "labels": row}} for row in rows]
arguments = TrainingArguments(
    output_dir=sys.argv[1], per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6,
    logging_steps=1, learning_rate=1e-3, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    gradient_checkpointing=True, seed=0,
)
trainer = Trainer(model, arguments, train_dataset=data)
trainer.train()
trainer.save_model(sys.argv[1])
print([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
"""
OURS = "from symbiosis_adapters import AutoModelForCausalLM"
THEIRS = "from transformers import AutoModelForCausalLM"


def run_script(text: str, folder: Path) -> list[float]:
    """Runs a user's script as its own process and returns the losses that it printed last."""
    script = folder.with_suffix(".py")
    script.write_text(text)
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [float(loss) for loss in done.stdout.strip().splitlines()[-1].strip("[]").split(",")]


def test_an_unmodified_trainer_logs_the_same_losses_after_one_changed_line(
    tiny_daemon: DaemonProcess, tiny_path: Path, tmp_path: Path
) -> None:
    """Gradient accumulation and checkpointing on, in processes of their own."""
    ours = run_script(SCRIPT.format(imports=OURS, where=repr(tiny_daemon.address)), tmp_path / "ours")
    theirs = run_script(SCRIPT.format(imports=THEIRS, where=repr(str(tiny_path))), tmp_path / "theirs")
    assert len(ours) == 6
    assert ours == pytest.approx(theirs, rel=1e-5)
    for folder in ("ours", "theirs"):
        saved = {path.name for path in (tmp_path / folder).iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= saved
        assert not any(name.startswith("model") for name in saved), "the base was saved, too"


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


PRIVATE = """
import sys, torch, time
from symbiosis_adapters import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
assert model(torch.tensor([[5, 6]])).logits.shape == (1, 2, 128)
from symbiosis_scheduler.commands.status import fetch_status
address = model.symbiosis.session.address
print(address.target, fetch_status(address.control).pid, flush=True)
if sys.argv[2] == "stay":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["leave", "stay"])
def test_a_private_daemon_ends_with_its_client_however_that_ends(tiny_path: Path, how: str) -> None:
    """`leave`: the script ends. `stay`: it is killed with SIGKILL and cannot clean up after itself."""
    client = subprocess.Popen(
        [sys.executable, "-c", PRIVATE, f"embedded:{tiny_path}", how], stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    socket_path, pid = client.stdout.readline().split()
    if how == "stay":
        assert alive(int(pid))
        os.kill(client.pid, signal.SIGKILL)
    client.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid))
    assert not Path(socket_path).parent.exists(), "its folder is left"


def test_a_private_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    from symbiosis_adapters import AutoModelForCausalLM
    from symbiosis_core.errors import UsageError

    with pytest.raises(UsageError, match="did not start: error:"):
        AutoModelForCausalLM.from_pretrained(f"embedded:{tmp_path}/nothing")


def test_a_classifier_of_ones_own_on_a_shared_base(tiny_daemon: DaemonProcess) -> None:
    """The base has no such head, so nothing of it comes from the daemon."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_daemon.address, num_labels=3)
    try:
        outputs = model(torch.tensor([[5, 6, 7]]), labels=torch.tensor([2]))
        outputs.loss.backward()
        assert outputs.logits.shape == (1, 3)
        assert model.score.weight.grad.abs().sum() > 0
    finally:
        model.symbiosis.close()
    with pytest.raises(UsageError, match="num_labels=3: the base is loaded by the daemon"):
        AutoModelForCausalLM.from_pretrained(tiny_daemon.address, num_labels=3)
