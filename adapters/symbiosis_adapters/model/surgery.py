"""Builds the model: the real transformers class, without the weights that stay in the daemon.

First a skeleton stands on the meta device. Then layers in the catalogue become remote, small tensors are fetched,
and nothing may be left on meta. Last come the rules by which the model works without those weights.
"""

from __future__ import annotations

import json

from transformers import GenerationConfig, PreTrainedModel

from symbiosis_adapters.connection.cores import watch_forwards
from symbiosis_adapters.connection.unpicklable import refuse_pickling
from symbiosis_adapters.deferred.checkpoints import undefer_checkpoints
from symbiosis_adapters.deferred.functions import give_functions_values
from symbiosis_adapters.layers.exact_types import pass_for_linears
from symbiosis_adapters.layers.experts import install_expert_rules
from symbiosis_adapters.layers.passages import add_passages
from symbiosis_adapters.model.attention import attend_together
from symbiosis_adapters.model.configuration import blaming_fields
from symbiosis_adapters.model.heads import CAUSAL_LM, Head
from symbiosis_adapters.model.remote_parts import make_parts_remote
from symbiosis_adapters.model.replicas import mark_base, share_with_replicas
from symbiosis_adapters.model.saving import save_own_only
from symbiosis_adapters.model.skeleton import Skeleton
from symbiosis_adapters.model.tensors import Fetch, mapping_large, refuse_what_is_left, set_lent, set_tensors
from symbiosis_adapters.recorded.deferral import Deferral
from symbiosis_adapters.recorded.table import install_rules
from symbiosis_adapters.trips.cut import Cut, plan
from symbiosis_adapters.trips.rows import Rows
from symbiosis_adapters.weights.lending import Lender
from symbiosis_adapters.weights.parameters import give_parameters_values
from symbiosis_core.specs import ModelSpec

__all__ = ["build"]


def build(
    spec: ModelSpec,
    rows: Rows,
    fetch: Fetch,
    cut: Cut = Cut.GRAPH,
    lender: Lender | None = None,
    head: Head = CAUSAL_LM,
) -> PreTrainedModel:
    """Returns the model of a catalogue, in eval mode, as from_pretrained would.

    `fetch` returns a small tensor of the catalogue; the model keeps it. `lender` has the values of all weights;
    with Cut.LENT there must be one, and no rows are asked for. `head` says what stands on the base.

    Raises:
        RefusedError: the daemon does not lend its weights, and the cut is LENT.
        UsageError: this transformers cannot build the model, or the head's configuration does not fit the base.
        RemoteProtocolError: the catalogue does not fit the model.
    """
    planned = plan(spec, cut)
    skeleton = Skeleton.of(spec, head, planned)
    model, places = skeleton.model, skeleton.places
    deferral = Deferral(rows) if planned.cut is Cut.GRAPH else None
    with blaming_fields(spec, model.config):
        if planned.cut is Cut.LENT:
            assert lender is not None  # the caller has seen to it
            fetch = set_lent(skeleton, lender.weights(), fetch)
        else:
            make_parts_remote(skeleton, rows, deferral, lender)
            fetch = mapping_large(lender, fetch)
        set_tensors(skeleton, spec, fetch, deferral)
        places.initialize_head()
        refuse_what_is_left(model, spec)
    if spec.generation_config_json and model.can_generate():
        model.generation_config = GenerationConfig.from_dict(json.loads(spec.generation_config_json))
    model.__dict__["symbiosis_plan"] = planned
    attend_together(model)
    refuse_pickling(model)
    mark_base(model, places.beside())
    share_with_replicas()
    if planned.cut is not Cut.LENT:
        save_own_only(model)
        watch_forwards(model)
        pass_for_linears()
        give_parameters_values()
    if deferral is not None:
        model.__dict__["symbiosis_deferral"] = deferral
        give_functions_values()
        install_rules()
        install_expert_rules()
        add_passages(model, deferral)
        undefer_checkpoints(model)
    model.eval()
    return model
