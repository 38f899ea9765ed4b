"""What memory a training client takes beside plain PEFT."""

from __future__ import annotations

from typing import Final

from symbiosis_bench.end_to_end.crew import Crew
from symbiosis_bench.end_to_end.figures import Figure, figure
from symbiosis_bench.end_to_end.gpu import cuda_bytes
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.messages import Peak, Peaked
from symbiosis_bench.end_to_end.pairs import reports, same_adapters, take_turns
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.spread import Spread, ratios, spread

__all__ = ["client_peak"]

_PAGE_BYTES: Final = 4096
_PEAK_STEPS: Final = 2


def client_peak(site: Site, plain: Crew, *clients: Crew) -> Figure:
    """Returns `client_peak_activations`."""
    crews, order = (plain, *clients), Peak(site.scale.peak_shape, _PEAK_STEPS)
    peaks, in_turn = take_turns(
        site, crews, f"client_peak {order.shape}", Peaked, order, rounds=site.scale.crowd_rounds
    )
    taken = {kind: [max(peak.activations, _PAGE_BYTES) for peak in told] for kind, told in peaks.items()}
    beside: dict[str, Spread] = {}
    for kind, told in peaks.items():
        beside[f"{kind}_activations_bytes"] = spread(taken[kind])
        beside[f"{kind}_process_bytes"] = spread([peak.process for peak in told])
    shares: dict[Kind, Spread] = {}
    checks = same_adapters(site, *crews)
    for kind in (client.kind for client in clients):
        beside[f"{kind}_arena_bytes"] = spread([peak.arena for peak in peaks[kind]])
        shares[kind] = ratios(taken[kind], taken[plain.kind])
        rounds = zip(peaks[kind], peaks[plain.kind], strict=True)
        checks += [site.verifier.losses(f"{kind} training", ours, theirs) for ours, theirs in rounds]
    return figure(
        "client_peak_activations",
        shares[Kind.SPLIT],
        quick=site.settings.quick,
        checks=checks,
        beside=beside | cuda_bytes(peaks),
        notes=reports(*crews) | {"order": in_turn},
        lent=shares.get(Kind.LENT),
    )
