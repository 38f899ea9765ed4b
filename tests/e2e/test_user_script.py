"""What a user does: one changed line, an unmodified Trainer, a private daemon that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM as PlainAutoPeft
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models

from symbiosis_adapters import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoPeftModelForCausalLM,
)
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
    with pytest.raises(UsageError, match="no_such_field=3: the base is loaded by the daemon"):
        AutoModelForCausalLM.from_pretrained(tiny_daemon.address, no_such_field=3)


def test_the_line_keeps_the_arguments_that_it_had(tiny_daemon: DaemonProcess, tiny_path: Path) -> None:
    """As scripts write them; and every field of the configuration is what transformers makes of it."""
    kept: dict[str, Any] = {
        "torch_dtype": torch.float32,
        "device_map": "auto",
        "low_cpu_mem_usage": True,
        "trust_remote_code": True,
        "token": "secret",
        "revision": "main",
        "attn_implementation": "eager",
        "use_cache": False,
        "pad_token_id": 3,
        "output_hidden_states": True,
        "output_loading_info": True,
    }
    opened: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny_path, **kept)
    plain, told = opened
    model, info = AutoModelForCausalLM.from_pretrained(tiny_daemon.address, **kept)
    try:
        assert model.config.to_dict() == plain.config.to_dict()
        assert model.generation_config.to_dict() == plain.generation_config.to_dict()
        assert info.keys() == told.keys()
        ids = torch.tensor([[5, 6, 7]])
        found, expected = (each(ids) for each in (model, plain))
        assert found.past_key_values is expected.past_key_values is None
        torch.testing.assert_close(found.hidden_states[1] * 1, expected.hidden_states[1], rtol=1e-4, atol=1e-5)
        assert model.device == plain.device
    finally:
        model.symbiosis.close()


def test_another_form_of_the_base_than_the_daemons_is_an_error(tiny_daemon: DaemonProcess) -> None:
    for wrong, message in (
        ({"torch_dtype": "bfloat16"}, "holds .* in float32; leave dtype out"),
        ({"quantization_config": transformers.BitsAndBytesConfig(load_in_4bit=True)}, "is not quantised"),
        ({"load_in_4bit": True}, "is not quantised"),
    ):
        with pytest.raises(UsageError, match=message):
            AutoModelForCausalLM.from_pretrained(tiny_daemon.address, **wrong)


@pytest.mark.filterwarnings("ignore:Could not find a config file in")
def test_a_saved_adapter_is_opened_on_a_shared_base(
    tiny_daemon: DaemonProcess, tiny_path: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config).eval()
    adapted.save_pretrained(str(tmp_path))
    opened = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path), base=tiny_daemon.address, lane="inference")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(opened(ids).logits * 1, adapted(ids).logits, rtol=1e-5, atol=1e-6)
    assert not any(each.requires_grad for each in opened.parameters())
    opened.symbiosis.close()


@pytest.mark.filterwarnings("ignore:Could not find a config file in", "ignore:Setting `save_embedding_layers`")
def test_a_saved_adapter_with_tokens_of_its_own_is_opened_as_peft_opens_it(
    tiny_daemon: DaemonProcess, tiny_path: Path, tmp_path: Path
) -> None:
    """With a table as long as the vocabulary of the tokenizer that lies beside the adapter."""
    tokens = Tokenizer(models.WordLevel({f"w{index}": index for index in range(131)}, unk_token="w0"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens).save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    base.resize_token_embeddings(131)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(str(tmp_path))
    expected = PlainAutoPeft.from_pretrained(str(tmp_path), dtype=torch.float32).eval()
    opened = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path), base=tiny_daemon.address)
    try:
        ids = torch.tensor([[5, 130, 7]])
        found = opened(ids).logits * 1
        assert found.shape[-1] == 131
        torch.testing.assert_close(found, expected(ids).logits, rtol=1e-5, atol=1e-6)
    finally:
        opened.symbiosis.close()


def test_an_adapter_of_another_task_is_not_opened(tmp_path: Path) -> None:
    LoraConfig(task_type="SEQ_CLS").save_pretrained(str(tmp_path))
    asked: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "is an adapter for SEQ_CLS"),
        ({"output_loading_info": True}, "a PEFT model has none"),
    )
    for more, message in asked:
        with pytest.raises(UsageError, match=message):
            AutoPeftModelForCausalLM.from_pretrained(str(tmp_path), base="ipc:///nobody/listens", **more)
