"""What the page says beside its tables."""

from __future__ import annotations

from typing import Final

__all__ = ["AMOUNTS", "HEAD", "LEGEND", "NAMED"]

HEAD: Final = """# Compatibility

Which families of decoders and which methods of PEFT a shared base serves. `make compat` writes this page up to
"PEFT's own tests", and all that is known of every cell into `compat.json` beside it; what follows is written by
hand. The commits at which a family's cells were made stand with its score.

Every cell is a tiny random model of the family, saved, served by a daemon of its own in float32, and adapted with
the method, beside the same with plain PEFT in one process and from one seed. Compared are: the trained parameters,
the loss (1e-5 relative), every gradient and the logits (1e-4 of the largest entry; with the floor below), tokens
generated greedily from a left-padded batch, the saved adapter loaded in plain PEFT, and the merged model: seven
steps. A cell counts where plain PEFT adapts, trains and computes logits. Where it fails in a later step itself, as
nobody can merge a prompt, that step is left out, the cell says so, and the score counts how many have all seven.

Where plain PEFT cannot put a method on a family as the table configures it, both sides get a configuration that
names more, as a user would write then: for experts, or a gate with one output, the linears that attention begins
with in the place of `all-linear`; the number of heads, or the width of cached keys, where PEFT does not find them;
the list of blocks. Such cells have a `*`. What stands under "Where plain PEFT fails itself" fails either way.

What is not shown: speed, other element types, other ways to configure a method, and quality: the models are
random.

Three methods want packages that PEFT does not bring: AdaMSS scikit-learn, CorDA attrs, and LoftQ bitsandbytes and
a GPU. Without them plain PEFT fails, and their cells say so.

The floor. A gradient whose largest entry is smaller than 1e-4 of the method's largest gradient is measured by that
1e-4, so no difference below 1e-8 of the largest gradient counts. Float32 rounds at 6e-8, and a small gradient is
what is left of sums of larger terms: the bias of keys, for one, has none at all, since softmax takes a shift of
all scores away, and what torch gives for it is rounding only. The floor is six times finer than one rounding of
the largest, so it hides no error that is larger than one; without it such gradients would be compared with their
own noise. How many cells need it the score says.

Where a number fails, plain PEFT is run six times more, each time with the last bit of every weight changed at
random, and the reason says how far that moves it at most. Such a cell stays one that fails. But where the two are
of one size, the method itself magnifies rounding, and no other order of sums would give equal numbers. Six draws
are a sample: what jumps may jump under the cut and in none of them.
"""
LEGEND: Final = """
- A number: the cell passes, in so many trips per block and forward; beside it the cut, where another one served it
  than was asked for.
- `0`: no trip in a block. The method takes the weights of every layer that it adapts, here all linears of the
  blocks, or trains their biases, and the client computes those layers itself. A weight that is only read stays the
  daemon's page. One that the method changes or replaces, as PiSSA and OLoRA do with that of each adapted layer, is
  the client's own copy: of those layers there is one for each client. What is not adapted stays remote, such as
  the embedding and the head.
- `*`: with a configuration that names more; see above, and "Where more was named".
- `-g`, `-r`, `-m`: plain PEFT cannot generate, load again or merge; this step was not compared.
- A number in parentheses: all passes but the merge, which needs the base's real weights.
- `weights`: the method reads or changes the base's real weights, which this daemon does not lend.
- `-`: plain PEFT fails itself; it does not count.
- Anything else: the first step that fails, and under which number its reason stands below.

Trips are those of a forward without a gradient, of a batch of two. In a mixture of experts every expert that is
hit is a trip of its own under the graph cut; under the siblings cut experts are not counted, only layers. Bloom's
activation is an autograd function with a gradient of its own, so the client computes it: one trip more.
"""
AMOUNTS: Final = """After a family: by how much it is off, and how far the last bit of the weights moves plain
PEFT, at most.
"""

NAMED: Final = {
    "attention": "target_modules, the linears that attention begins with",
    "blocks": "target_modules, the list of blocks",
    "heads": "num_attention_heads",
    "cache": "num_attention_heads and token_dim, as the model keeps keys",
}
"""What is named by the recipes that `Method.otherwise` may have."""
