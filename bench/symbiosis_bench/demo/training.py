"""One training tenant as a process: PEFT and transformers' Trainer, as anybody would write them.

    python -m symbiosis_bench.demo.training --tenant persona --address ipc:///... --adapter FOLDER --scratch FOLDER

The one line that differs from a tenant with a base of its own is where AutoModelForCausalLM comes from.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from symbiosis_adapters import AutoModelForCausalLM, AutoTokenizer
from symbiosis_bench.demo.examples import encode
from symbiosis_bench.demo.orders import Orders
from symbiosis_bench.demo.progress import Finished, Ready, Step
from symbiosis_bench.demo.tenants import Ia3, TrainingTenant, training_tenant
from symbiosis_bench.lines import Reporter

__all__ = ["main"]

_ANSWER_TOKENS: Final = 24
_ENDLESS: Final = 1_000_000
"""Steps: the demo says when it is over."""


def main() -> None:
    """Opens the model, waits for the start, trains until told to finish, saves the adapter."""
    reporter = Reporter()
    given = _arguments()
    tenant = training_tenant(given.tenant)
    set_seed(0)

    model = AutoModelForCausalLM.from_pretrained(given.address, lane=tenant.lane, name=tenant.name)
    tokenizer = AutoTokenizer.from_pretrained(model)
    model = get_peft_model(model, _peft_config(tenant))
    orders = Orders()
    trainer = Trainer(
        model,
        _training_arguments(tenant, given.scratch),
        train_dataset=encode(tokenizer, tenant.examples(), tenant.longest),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[_Progress(reporter, orders)],
    )
    trainer.remove_callback(PrinterCallback)
    trainable, _ = model.get_nb_trainable_parameters()
    reporter.tell(Ready(trainable, _answer(model, tokenizer, tenant.question)))

    orders.wait_start()
    if not orders.finish:
        trainer.train()
    model.save_pretrained(given.adapter)
    reporter.tell(Finished(given.adapter, _answer(model, tokenizer, tenant.question)))


class _Progress(TrainerCallback):
    """Reports every step, and ends the training after the one in which the tenant is told to finish."""

    def __init__(self, reporter: Reporter, orders: Orders) -> None:
        self._reporter = reporter
        self._orders = orders

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_training_stop = control.should_training_stop or self._orders.finish

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:  # the last log is a summary without one
            rows = int(state.num_input_tokens_seen)
            self._reporter.tell(Step(state.global_step, float(logs["loss"]), rows))


def _training_arguments(tenant: TrainingTenant, scratch: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=scratch,
        per_device_train_batch_size=tenant.batch,
        learning_rate=tenant.learning_rate,
        lr_scheduler_type="constant",  # the length is not known, so nothing can decay towards the end
        max_steps=_ENDLESS,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is not a number shall be seen
        include_num_input_tokens_seen="all",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_num_workers=0,
        seed=0,
    )


def _peft_config(tenant: TrainingTenant) -> PeftConfig:
    method = tenant.method
    if isinstance(method, Ia3):
        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=list(method.targets),
            feedforward_modules=list(method.feedforward),
        )
    return LoraConfig(
        task_type="CAUSAL_LM", r=method.rank, lora_alpha=2 * method.rank, target_modules=list(method.targets)
    )


def _answer(model: Any, tokenizer: Any, question: str) -> str:
    """Returns the model's greedy answer; nothing where nothing is asked."""
    if not question:
        return ""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model.eval()
    answered = model.generate(**prompt, max_new_tokens=_ANSWER_TOKENS, do_sample=False)
    tokens = answered[0, prompt["input_ids"].shape[1] :].tolist()
    text: str = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return text if tokens[-1] == tokenizer.eos_token_id else f"{text} …"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--adapter", required=True, help="where the adapter is saved")
    parser.add_argument("--scratch", required=True, help="where Trainer may write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
