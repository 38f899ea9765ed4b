"""A client as its own process: trains or generates on a shared base until told to stop, and says how it goes.

    python tenant.py train|generate|chat ADDRESS [SEED [CUT]]

Who chats generates, too, but with an adapter.

Prints `ready` and then works in silence: nobody empties its pipe.
"""

from __future__ import annotations

import sys

import torch
from peft import LoraConfig, get_peft_model

from symbiosis_adapters import AutoModelForCausalLM

torch.set_num_threads(1)


def main() -> None:
    """Runs until killed, or until standard output is closed."""
    mode, address, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0
    cut = sys.argv[4] if len(sys.argv) > 4 else "graph"
    lane = "training" if mode == "train" else "inference"
    model = AutoModelForCausalLM.from_pretrained(address, lane=lane, name=f"{mode}-{seed}", cut=cut)
    torch.manual_seed(seed)
    vocabulary = model.config.vocab_size
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if mode != "generate":
        adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
    if mode != "train":
        while True:
            prompt = torch.randint(3, vocabulary, (1, 5 + seed))
            answer = model.generate(input_ids=prompt, max_new_tokens=24, do_sample=False, pad_token_id=0)
            assert len(answer[0]) > 5
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    while True:
        ids = torch.randint(3, vocabulary, (2, 16 + seed))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
