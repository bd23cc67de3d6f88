"""Weights that are used without a layer: found, held in layers, converted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.bare_uses import functional_weights, opened_up
from phnnify.distilling.recipe import Recipe
from phnnify.inputs import read_inputs
from phnnify.layers import PHMEmbedding, PHMLayer
from phnnify.opened.bare import SEVERAL, Held
from phnnify.pipeline import Result, convert, inspect
from phnnify.plan import with_orders

INPUT = "2x16"


class Bare(nn.Module):
    """Uses a weight as it is told."""

    def __init__(self, shape: tuple[int, ...], use: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape) / 4)
        self.b = nn.Parameter(torch.randn(shape[0]))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16) → what the use makes of it."""
        made: Tensor = self.use(x, self.w, self.b)
        return made


def image(x: Tensor) -> Tensor:
    """(batch, 16) as (batch, 4, 2, 2)."""
    return x.view(-1, 4, 2, 2)


def halves(x: Tensor) -> Tensor:
    """(batch, 16) as (2, batch, 8)."""
    return x.view(-1, 2, 8).transpose(0, 1)


USES: dict[str, tuple[tuple[int, ...], str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "F.linear": ((8, 16), "linear", lambda x, w, b: F.linear(x, w)),
    "F.linear with bias": ((8, 16), "linear", lambda x, w, b: F.linear(x, w, b)),
    "F.linear, named": ((8, 16), "linear", lambda x, w, b: F.linear(input=x, weight=w, bias=b)),
    "@ w.T": ((8, 16), "linear", lambda x, w, b: x @ w.T + b),
    "@ w.t()": ((8, 16), "linear", lambda x, w, b: x @ w.t()),
    "@ w.mT": ((8, 16), "linear", lambda x, w, b: x @ w.mT),
    "matmul, transpose": ((8, 16), "linear", lambda x, w, b: torch.matmul(x, w.transpose(-1, -2))),
    "einsum bi,oi->bo": ((8, 16), "linear", lambda x, w, b: torch.einsum("bi,oi->bo", x, w)),
    "einsum, weight first": ((8, 16), "linear", lambda x, w, b: torch.einsum("oi, bi -> bo", w, x)),
    "einsum, dots": ((8, 16), "linear", lambda x, w, b: torch.einsum("...i,oi->...o", x, w)),
    "einsum bhd,ohd->bo": (
        (8, 4, 4), "linear", lambda x, w, b: torch.einsum("bhd,ohd->bo", x.view(-1, 4, 4), w)
    ),
    "@ w": ((16, 8), "matmul", lambda x, w, b: x @ w),
    "mm": ((16, 8), "matmul", lambda x, w, b: x.mm(w)),
    "F.linear of w.T": ((16, 8), "matmul", lambda x, w, b: F.linear(x, w.T)),
    "addmm": ((16, 16), "matmul", lambda x, w, b: torch.addmm(b, x, w)),
    "einsum bi,io->bo": ((16, 8), "matmul", lambda x, w, b: torch.einsum("bi,io->bo", x, w)),
    "einsum bi,ihd->bhd": ((16, 2, 4), "matmul", lambda x, w, b: torch.einsum("bi,ihd->bhd", x, w)),
    "F.conv1d": ((8, 4, 3), "conv", lambda x, w, b: F.conv1d(x.view(-1, 4, 4), w, b, padding="same")),
    "F.conv2d": ((8, 4, 3, 3), "conv", lambda x, w, b: F.conv2d(image(x), w, b, 2, (2, 1))),
    "F.conv2d, 1×1": ((8, 4, 1, 1), "conv", lambda x, w, b: F.conv2d(image(x), w, stride=2)),
    "F.conv3d": ((8, 4, 1, 2, 2), "conv", lambda x, w, b: F.conv3d(x.view(-1, 4, 1, 2, 2), w)),
    "F.linear of one of several": (
        (2, 8, 16), "linears", lambda x, w, b: F.linear(x, w[0]) + F.linear(x, w[torch.tensor(-1)])
    ),
    "@ w[i]": ((2, 16, 8), "matmuls", lambda x, w, b: x @ w[0] + x @ w[1]),
    "a loop over several": (
        (2, 8, 16), "linears", lambda x, w, b: torch.stack([F.linear(x, u) for u in w]).sum(0) / len(w)
    ),
    "unbind, turned": ((2, 16, 8), "matmuls", lambda x, w, b: F.linear(x, w.mT.unbind()[1]) + x @ w[0]),
    "bmm": ((2, 8, 8), "matmuls", lambda x, w, b: torch.bmm(halves(x), w)),
    "bmm, turned": ((2, 4, 8), "linears", lambda x, w, b: halves(x).bmm(w.transpose(1, 2))),
    "@ w, several": ((2, 8, 4), "matmuls", lambda x, w, b: halves(x)[None] @ w),
    "@ w.mT, several": ((2, 4, 8), "linears", lambda x, w, b: halves(x) @ w.mT),
    "einsum ebi,eoi->ebo": ((2, 4, 8), "linears", lambda x, w, b: torch.einsum("ebi,eoi->ebo", halves(x), w)),
    "einsum bei,eio->beo": (
        (2, 8, 4), "matmuls", lambda x, w, b: torch.einsum("bei,eio->beo", x.view(-1, 2, 8), w)
    ),
    "F.embedding": ((16, 8), "table", lambda x, w, b: F.embedding(x.argmax(1), w)),
}  # fmt: skip
every_use = pytest.mark.parametrize("case", USES)

OTHERS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "added": ((1, 16), lambda x, w, b: x + w),
    "scaled first": ((8, 16), lambda x, w, b: F.linear(x, w * 2)),
    "a part": ((8, 16), lambda x, w, b: F.linear(x, w[:4])),
    "in two ways": ((16, 16), lambda x, w, b: x @ w + F.linear(x, w)),
    "also otherwise": ((8, 16), lambda x, w, b: F.linear(x, w) + w.sum()),
    "its data": ((8, 16), lambda x, w, b: F.linear(x, w.data)),
    "on the left": ((8, 2), lambda x, w, b: w @ x),
    "with itself": ((16, 16), lambda x, w, b: x + F.linear(w, w)[0]),
    "grouped": ((8, 2, 3, 3), lambda x, w, b: F.conv2d(image(x), w, groups=2, padding=1)),
    "einsum over a batch axis": ((2, 16), lambda x, w, b: torch.einsum("bi,bi->b", x, w)),
    "einsum that keeps": ((8, 16), lambda x, w, b: torch.einsum("bi,oi->boi", x, w)),
    "addmm, weighted": ((16, 16), lambda x, w, b: torch.addmm(b, x, w, beta=2)),
    "one of several, in two ways": ((2, 16, 16), lambda x, w, b: F.linear(x, w[0]) + x @ w[1]),
    "some of several": ((4, 16, 8), lambda x, w, b: x.view(-1, 1, 16) @ w[torch.arange(len(x)) % 4]),
    "several along another axis": ((16, 2, 8), lambda x, w, b: x @ w.unbind(1)[0]),
    "a row of one of several": ((2, 8, 16), lambda x, w, b: x @ w[0, :4].T),
    "several for all": ((2, 16, 8), lambda x, w, b: x @ w),
    "einsum that sums over several": (
        (2, 4, 8),
        lambda x, w, b: torch.einsum("bei,eoi->bo", x.view(-1, 2, 8), w),
    ),
    "never": ((8, 16), lambda x, w, b: x),
}


def bare(case: str) -> Bare:
    torch.manual_seed(0)
    shape, _, use = USES[case]
    return Bare(shape, use).eval()


def converted(model: nn.Module, *, exact: bool = False) -> Result:
    plan, _ = inspect(model, 2, inputs=INPUT, min_share=0, embeddings=True)
    if exact:
        orders = plan.conversions.items()
        plan = with_orders(plan, {k: Order(o.n_out, o.n_in, o.n_out * o.n_in) for k, o in orders})
    return convert(model, plan=plan, inputs=INPUT)


class Mixed(nn.Module):
    """Several bare weights in modules of their own, one more way to use them, and ties."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"name": "mixed"}
        self.enter = nn.Linear(16, 16)
        self.inner = Bare((16, 16), F.linear)
        self.w = nn.Parameter(torch.randn(16, 16) / 4)
        self.list = nn.ParameterList([torch.randn(16, 16) / 4, torch.randn(16, 8) / 4])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16) → (batch, 8)."""
        x = self.inner(self.enter(x).relu()).relu()
        out: Tensor = (F.linear(x, self.w) @ self.list[0]).relu() @ self.list[1]
        return out

    def only_w(self, x: Tensor) -> Tensor:
        """What is not in forward works too."""
        return F.linear(x, self.w)

    def penalty(self) -> Tensor:
        """Neither are products."""
        return self.w.square().sum()


def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


@every_use
def test_a_use_is_told(case: str) -> None:
    assert functional_weights(bare(case), read_inputs(INPUT)) == (f"w_{USES[case][1]}",)


@every_use
def test_a_held_weight_computes_the_same_with_gradients(case: str) -> None:
    model, x = bare(case), torch.randn(3, 16, requires_grad=True)
    opened = opened_up(model, read_inputs(INPUT))
    assert isinstance(opened.w, Held)
    torch.testing.assert_close(torch.as_tensor(opened.w + 0), model.w.detach() + 0)
    grads = []
    for network in (model, opened):
        y = network(x)
        y.square().sum().backward()
        grads.append((y.detach(), x.grad, gradient_of(network)))
        x.grad = None
        model.zero_grad()
    torch.testing.assert_close(grads[1][0], grads[0][0])
    torch.testing.assert_close(grads[1][1], grads[0][1])
    assert grads[1][2] == pytest.approx(grads[0][2], rel=1e-4)


def gradient_of(network: nn.Module) -> float:
    """The norm of the gradient of the weight, in one piece or in several."""
    pieces = [p.grad for name, p in network.named_parameters() if name.startswith("w")]
    return float(torch.cat([torch.zeros(0) if piece is None else piece.flatten() for piece in pieces]).norm())


@every_use
def test_with_all_terms_the_converted_network_is_the_original(case: str) -> None:
    model, x = bare(case), torch.randn(3, 16)
    small = converted(model, exact=True).model
    form = USES[case][1]
    names = [f"w_{form}.{i}" for i in range(2)] if form in SEVERAL.values() else [f"w_{form}"]
    assert [name for name, _ in small.named_parameters()] == ["b", *(f"{n}.{f}" for n in names for f in "AS")]
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", OTHERS)
def test_other_uses_stay_with_the_reason(case: str) -> None:
    shape, use = OTHERS[case]
    model = Bare(shape, use)
    assert functional_weights(model, read_inputs(INPUT)) == ()
    plan, _ = inspect(model, 2, inputs=INPUT, min_share=0)
    assert str(plan.decisions[0].reason).startswith("unsupported kind: w of Bare")
    assert ("3-D: its matrices are converted where" in str(plan.decisions[0].reason)) is (len(shape) == 3)


def test_without_inputs_nothing_is_known() -> None:
    assert functional_weights(mixed(), ()) == ()
    plan, _ = inspect(mixed(), 2, min_share=0)
    assert list(plan.conversions) == ["enter"]


def test_a_network_that_minds_is_left_alone() -> None:
    def picky(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        assert isinstance(w, nn.Parameter)
        return F.linear(x, w)

    assert functional_weights(Bare((8, 16), picky), read_inputs(INPUT)) == ()


def test_the_network_keeps_its_class_and_its_other_methods() -> None:
    model, x = mixed(), torch.randn(3, 16)
    before = copy.deepcopy(model.state_dict())
    small = converted(model, exact=True).model
    assert isinstance(small, Mixed)
    assert small.config == model.config
    torch.testing.assert_close(small.only_w(x), model.only_w(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small.penalty(), model.penalty(), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_each_weight_is_a_site_that_runs_once() -> None:
    _, report = inspect(mixed(), 2, inputs=INPUT, min_share=0)
    names = ["enter", "inner.w_linear", "w_linear", "list.0_matmul", "list.1_matmul"]
    assert [layer.name for layer in report.layers] == names
    assert {layer.status for layer in report.layers} == {"converted"}


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_converted_network_comes_back(ending: str, tmp_path: Path) -> None:
    small, x = converted(mixed()).model, torch.randn(3, 16)
    phnnify.save(small, tmp_path / f"net{ending}")
    fresh = Mixed() if ending == ".safetensors" else None
    again = phnnify.load(tmp_path / f"net{ending}", fresh, trust=ending == ".pt")
    assert torch.equal(again(x), small(x))
    assert isinstance(again.w, Held)
    assert again.w.layer is again.get_submodule("w_linear")


def test_a_copy_holds_its_own_factors() -> None:
    small = converted(mixed()).model
    twin = copy.deepcopy(small)
    with torch.no_grad():
        twin.get_parameter("w_linear.S").zero_()
    values = [torch.as_tensor(network.w).abs().max() for network in (twin, small)]
    assert values[0] == 0 < values[1]


def test_precision_and_device_follow_the_network() -> None:
    small = converted(mixed()).model.to(torch.float64)
    assert (small.w.dtype, small.w.device.type, small.w.shape) == (torch.float64, "cpu", (16, 16))
    assert small(torch.randn(3, 16, dtype=torch.float64)).dtype == torch.float64


def test_onnx_runtime_and_plain_torch_agree(tmp_path: Path) -> None:
    small, x = converted(mixed()).model, torch.randn(3, 16)
    phnnify.export_onnx(small, tmp_path / "net.onnx", INPUT)
    (got,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(got, small(x).detach().numpy(), rtol=1e-3, atol=1e-5)
    phnnify.save(small, tmp_path / "net.pt2", inputs=INPUT)
    program = torch.export.load(str(tmp_path / "net.pt2")).module()
    torch.testing.assert_close(program(x), small(x), rtol=1e-4, atol=1e-5)


def test_they_are_fitted_to_data_and_learn() -> None:
    model, x = mixed(), torch.randn(64, 16) @ torch.randn(16, 16)
    result = convert(model, 2, data=x, min_share=0, samples=64)
    assert all(layer.output_error is not None for layer in result.report.layers)
    blind = convert(model, 2, inputs=INPUT, min_share=0).model
    with torch.no_grad():
        errors = [float((network(x) - model(x)).norm()) for network in (result.model, blind)]
    assert errors[0] < errors[1]
    learned = phnnify.distill(model, result.model, x, Recipe(steps=3, batch=32, hidden=0.5))
    assert isinstance(learned.model.w, Held)
    before, after = (dict(m.named_parameters())["w_linear.S"] for m in (result.model, learned.model))
    assert not torch.equal(before, after)


class Scaled(nn.Embedding):
    """As in Gemma."""

    def forward(self, input: Tensor) -> Tensor:
        """Rows, times four."""
        return super().forward(input) * 4


class Language(nn.Module):
    """A scaled table, tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = Scaled(32, 16), nn.Linear(16, 32, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) → (batch, length, 32)."""
        logits: Tensor = self.head(self.table(ids))
        return logits


def test_a_subclass_of_embedding_is_converted_with_what_is_tied_to_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, ids = Language().eval(), torch.randint(32, (2, 5))
    result = convert(model, 2, inputs="int64:2x5", embeddings=True, min_share=0)
    assert [name for name, module in result.model.named_modules() if isinstance(module, PHMLayer)] == [
        "table.weight_table",
        "head",
    ]
    table, head = result.model.table, result.model.get_submodule("head")
    assert isinstance(table, Scaled)
    assert isinstance(table.weight_table, PHMEmbedding)
    assert table.weight_table.S is head.S
    phnnify.save(result.model, tmp_path / "net.safetensors", result.plan)
    again = phnnify.load(tmp_path / "net.safetensors", Language())
    assert torch.equal(again(ids), result.model(ids))
    weight = head.weight
    assert isinstance(weight, Tensor)
    torch.testing.assert_close(table(ids), 4 * weight[ids])
    kept, _ = inspect(model, 2, inputs="int64:2x5", min_share=0)
    assert "--embeddings converts it" in str(kept.decisions[0].reason)


def test_the_parts_of_an_input_projection_are_named_where_queries_and_keys_differ() -> None:
    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attention = nn.MultiheadAttention(8, 2)
            self.across = nn.MultiheadAttention(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.self_attention(x, x, x)[0]
            out: Tensor = self.across(x, y, y)[0]
            return out

    found = functional_weights(Crossing(), read_inputs("4x3x8"))
    assert found == ("across.q_proj", "across.k_proj", "across.v_proj")
    names = {name for name, _ in opened_up(Crossing(), read_inputs("4x3x8")).named_modules()}
    assert {"across.q_proj", "self_attention.in_proj"} <= names
