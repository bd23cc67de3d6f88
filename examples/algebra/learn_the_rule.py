"""A PHM layer finds the rule of multiplication from examples: Hamilton's product, and the cross product.

    python examples/algebra/learn_the_rule.py [PICTURE]

The examples are y_i = Σ_j w_ij · x_j: x holds random quaternions (or vectors), and the w are hidden ones that
stay the same, as in a layer, or filters of a convolution. The layer is told nothing but n. It has to find the
rule A and the w (its filters S) together, so that A is known up to combinations of its matrices, which other
filters make up for: the residual is that of the best combination, ‖G·A − H‖/‖H‖. The multiplications here are
written out, and know nothing of phnnify's algebras. PICTURE (.svg or .png) shows A, G·A and H.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from phnnify import PHMConv2d, PHMLinear
from phnnify.algebras import aligned
from phnnify.heat import draw_matrices
from phnnify.layers import PHMLayer

Product = Callable[[Tensor, Tensor], Tensor]
STEPS, RATE = 800, 2e-2


def hamilton(w: Tensor, x: Tensor) -> Tensor:
    """Quaternions (4, ...) times quaternions (4, ...), i² = j² = k² = ijk = -1."""
    a, b, c, d = w
    e, f, g, h = x
    return torch.stack(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def cross(w: Tensor, x: Tensor) -> Tensor:
    """The cross product of vectors (3, ...) and (3, ...)."""
    (a, b, c), (d, e, f) = w, x
    return torch.stack([b * f - c * e, c * d - a * f, a * e - b * d])


def layer_data(product: Product, n: int, width: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Draws inputs (64, n·width) and Σ_j w_ij · x_j for hidden w (n, width, width)."""
    w = torch.randn(n, width, width)

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.randn(64, n, width)
        y = product(w[:, None], x.transpose(0, 1)[:, :, None]).sum(-1)
        return x.flatten(1), y.transpose(0, 1).flatten(1)

    return draw


def image_data(width: int, kernel: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Draws quaternion images (8, 4·width, 8, 8) and their convolution with hidden quaternion filters."""
    w = torch.randn(4, width, width, kernel * kernel)

    def draw() -> tuple[Tensor, Tensor]:
        x = torch.randn(8, 4 * width, 8, 8)
        patches = nn.functional.unfold(x, kernel).view(8, 4, 1, width, kernel * kernel, -1)
        y = hamilton(w[:, None, ..., None], patches.transpose(0, 1)).sum((3, 4))
        side = 8 - kernel + 1
        return x, y.transpose(0, 1).reshape(8, 4 * width, side, side)

    return draw


def learn(layer: PHMLayer, draw: Callable[[], tuple[Tensor, Tensor]], steps: int = STEPS) -> float:
    """Train the layer on fresh examples; the last loss."""
    optimizer = torch.optim.Adam(layer.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        x, y = draw()
        loss = (layer(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def rule_of(product: Product, n: int) -> Tensor:
    """The matrices (n, n, n) of a product: column j of matrix r is e_r · e_j."""
    units = torch.eye(n)
    return torch.stack([torch.stack([product(e, f) for f in units], 1) for e in units])


def residual(layer: PHMLayer, rule: Tensor) -> float:
    """‖G·A − H‖/‖H‖ for the best G."""
    return float((aligned(layer.A, rule) - rule).norm() / rule.norm())


def main() -> None:
    """Learn all three rules, and say how near they come."""
    torch.manual_seed(0)
    layer = PHMLinear(16, 16, bias=False, n=4)
    cases = [
        ("Hamilton's product, layer", layer, layer_data(hamilton, 4, 4), rule_of(hamilton, 4)),
        (
            "cross product, layer",
            PHMLinear(12, 12, bias=False, n=3),
            layer_data(cross, 3, 4),
            rule_of(cross, 3),
        ),
        (
            "Hamilton's product, convolution",
            PHMConv2d(8, 8, 3, bias=False, n=4),
            image_data(2, 3),
            rule_of(hamilton, 4),
        ),
    ]
    for name, learner, draw, rule in cases:
        loss = learn(learner, draw)
        print(f"{name}: residual {residual(learner, rule):.1e}, loss {loss:.1e}")
    if len(sys.argv) > 1:
        rule = rule_of(hamilton, 4)
        rows = [
            ("learned A", layer.A),
            ("its combination nearest to Hamilton's", aligned(layer.A, rule)),
            ("Hamilton's product", rule),
        ]
        draw_matrices(rows, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
