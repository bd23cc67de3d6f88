"""What a conversion did to one weight, and why: as a plain value, and as the row of a table."""

from __future__ import annotations

from dataclasses import dataclass

from phnnify import algebras

LAYER_HEADINGS = ("layer", "shape", "before", "after", "error, or why it stays")


@dataclass(frozen=True)
class LayerReport:
    """What happened to one weight, and why.

    Attributes:
        status: 'converted' or 'kept'; `reason` says why it was kept.
        order: [n_out, n_in]; with `terms`, None where it was kept.
        rank: Of a low-rank term; 0 where there is none, None where it was kept.
        algebra: 'learned', 'shared' (its numbers count with the first layer that has it), or the name of a
            fixed one (which counts nowhere); None where it was kept.
        params_share, flops_share: Its part of the network's parameters, and of the FLOPs of all weights whose
            FLOPs are known.
        calls, flops: Of one forward pass on the example input; None where unknown.
        weight_error: ‖W−Ŵ‖/‖W‖. output_error: the same for its outputs, where there was data.
        predicted_error: What its output error was expected to be, on the inputs that the original sees.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    status: str
    reason: str | None
    order: tuple[int, int] | None
    terms: int | None
    rank: int | None
    algebra: str | None
    params_before: int
    params_after: int
    params_share: float
    calls: int | None
    flops: int | None
    flops_share: float | None
    weight_error: float | None = None
    output_error: float | None = None
    predicted_error: float | None = None


def layer_cells(layer: LayerReport) -> tuple[str, ...]:
    """One row under `LAYER_HEADINGS`."""
    shape = "×".join(map(str, layer.shape))
    if layer.status == "kept":
        return layer.name, shape, f"{layer.params_before:,}", "kept", layer.reason or ""
    last = form_of(layer)
    if layer.output_error is not None:
        last = f"{layer.output_error:.1%} of its output; {last}"
    elif layer.weight_error is not None:
        last = f"{layer.weight_error:.1%} of the weight; {last}"
    elif layer.predicted_error is not None:
        last = f"{layer.predicted_error:.1%} of its output expected; {last}"
    elif layer.flops_share is not None:
        last += f"; {layer.flops_share:.1%} of FLOPs"
    return layer.name, shape, f"{layer.params_before:,}", f"{layer.params_after:,}", last


def form_of(layer: LayerReport) -> str:
    """What a converted weight is made of, such as `order 8×4, 6 terms, rank 2`."""
    kronecker = f"order {layer.order[0]}×{layer.order[1]}, {layer.terms} terms" if layer.order else ""
    algebra = f"{layer.algebra} algebra" if layer.algebra not in (None, algebras.LEARNED) else ""
    rank = f"rank {layer.rank}" if layer.rank else ""
    return ", ".join(filter(None, [kronecker if layer.terms else "", algebra, rank]))
