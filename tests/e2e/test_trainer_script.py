"""A Trainer as scripts have it, in processes of its own: with workers, killed in the middle, and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.daemon_process import DaemonProcess

SCRIPT = """
import os, signal, sys, warnings
import torch
warnings.filterwarnings("ignore", category=FutureWarning)
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
{imports}

class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        row = torch.randint(3, 128, (16,), generator=torch.Generator().manual_seed(index)).tolist()
        return {{"input_ids": row, "labels": row}}

class Killed(TrainerCallback):
    def on_step_end(self, arguments, state, control, **more):
        if state.global_step == {killed_at}:
            os.kill(os.getpid(), signal.SIGKILL)

def main():
    torch.set_num_threads(1)
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained({where!r})
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        output_dir={folder!r}, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6,
        logging_steps=1, save_steps=2, learning_rate=5e-3, report_to="none", use_cpu=True, disable_tqdm=True,
        eval_strategy="steps", eval_steps=3, {arguments}
    )
    trainer = Trainer(
        get_peft_model(model, lora), arguments, train_dataset=Texts(), eval_dataset=Texts(), callbacks=[Killed()]
    )
    trainer.train(resume_from_checkpoint={resumed})
    log = trainer.state.log_history
    print([entry[key] for key in ("loss", "eval_loss") for entry in log if key in entry])

if __name__ == "__main__":
    main()
"""
OURS = "from symbiosis_adapters import AutoModelForCausalLM"
THEIRS = "from transformers import AutoModelForCausalLM"
LOGGED = 6 + 2


class Script:
    """The script at one base, in one folder."""

    def __init__(self, imports: str, where: str, folder: Path) -> None:
        self._given = {"imports": imports, "where": where, "folder": str(folder / "out")}
        self._path = folder / "script.py"

    def run(
        self, arguments: str = "", killed_at: int = 0, *, resumed: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end, whatever that is."""
        given = {**self._given, "arguments": arguments, "killed_at": killed_at, "resumed": resumed}
        self._path.write_text(SCRIPT.format(**given))
        return subprocess.run([sys.executable, str(self._path)], capture_output=True, text=True, check=False)


def losses(done: subprocess.CompletedProcess[str]) -> list[float]:
    """Returns the losses that it printed last: of all steps, then of both evaluations."""
    assert done.returncode == 0, done.stderr
    found = [float(loss) for loss in done.stdout.strip().splitlines()[-1].strip("[]").split(",")]
    assert len(set(found)) == LOGGED
    return found


@pytest.fixture(scope="module")
def expected(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """What is logged on a plain base, without workers and in one go."""
    return losses(Script(THEIRS, str(tiny_path), tmp_path_factory.mktemp("plain")).run())


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_trainer_with_workers_logs_what_it_logs_on_a_plain_base(
    how: str, tiny_daemon: DaemonProcess, tmp_path: Path, expected: list[float]
) -> None:
    """Forked ones begin with a copy of the model and its connection; spawned ones import the script."""
    workers = f"dataloader_num_workers=2, dataloader_multiprocessing_context={how!r}"
    found = losses(Script(OURS, tiny_daemon.address, tmp_path).run(workers))
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_trainer_that_was_killed_resumes_with_the_losses_of_one_that_was_not(
    tiny_daemon: DaemonProcess, tmp_path: Path, expected: list[float]
) -> None:
    """With SIGKILL after its fifth step, so it goes on after its fourth, with workers."""
    script = Script(OURS, tiny_daemon.address, tmp_path)
    assert script.run("dataloader_num_workers=2", killed_at=5).returncode == -signal.SIGKILL
    tiny_daemon.wait_status(lambda status: not status.clients, "who was killed is gone")
    assert losses(script.run("dataloader_num_workers=2", resumed=True)) == pytest.approx(expected, rel=1e-5)
