"""All PHM layers against torch's dense ones, with the weight composed by torch.kron."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from phnnify import algebra
from phnnify.algebra import Factors, Order
from phnnify.algebras import named_algebra
from phnnify.factorization import factorize
from phnnify.forms import set_form_
from phnnify.layers import PHMConv2d, PHMConvTranspose2d, PHMEmbedding, PHMLayer, PHMLinear
from phnnify.layers.fresh import fresh_
from phnnify.products import filters_first
from tests.layer_cases import CASES, COMPOSED, FACTORED, kron_weight

every_case = pytest.mark.parametrize("name", CASES)
composed_cases = pytest.mark.parametrize("name", COMPOSED)


@pytest.fixture
def composing(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one entry whenever a weight is composed."""
    calls: list[None] = []
    compose = algebra.compose

    def counted(*factors: Any) -> Tensor:
        calls.append(None)
        return compose(*factors)

    monkeypatch.setattr(algebra, "compose", counted)
    return calls


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_computes_what_its_dense_twin_computes(name: str, training: bool) -> None:
    layer = CASES[name].make(dtype=torch.float64).train(training)
    x = CASES[name].input(torch.float64)
    torch.testing.assert_close(layer(x), CASES[name].dense(layer)(x))


@every_case
def test_a_layer_can_be_moved_to_channels_last_where_its_twin_can(name: str) -> None:
    layer, x = CASES[name].make(), CASES[name].input()
    twin = CASES[name].dense(layer)
    last: Any = {"memory_format": torch.channels_last}
    try:
        twin.to(**last)
    except RuntimeError:
        pytest.skip("torch refuses the dense layer")
    torch.testing.assert_close(layer.to(**last)(x), twin(x))


@every_case
def test_weight_is_the_composed_weight_as_the_twin_stores_it(name: str) -> None:
    layer = CASES[name].make()
    twin: Any = CASES[name].dense(layer)
    assert layer.weight.shape == twin.weight.shape == layer.dense_shape
    torch.testing.assert_close(layer.weight, twin.weight)
    torch.testing.assert_close(layer.eval().weight, twin.weight)


@every_case
def test_gradients_agree_with_finite_differences(name: str) -> None:
    layer = CASES[name].make(n=2, dtype=torch.float64)
    names = [key for key, _ in layer.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))
        return y

    x = CASES[name].input(torch.float64)[..., :4].requires_grad_() if "linear" not in name else None
    x = CASES[name].input(torch.float64).requires_grad_() if x is None else x
    assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=True)


@every_case
def test_gradients_are_those_of_the_composed_dense_layer(name: str) -> None:
    layer = CASES[name].make(dtype=torch.float64)
    x = CASES[name].input(torch.float64)
    twin: Any = CASES[name].dense(layer)
    layer(x).square().sum().backward()
    twin(x).square().sum().backward()
    wanted = torch.autograd.grad((layer.weight * twin.weight.grad).sum(), (layer.A, layer.S))
    for factor, gradient in zip((layer.A, layer.S), wanted, strict=True):
        torch.testing.assert_close(factor.grad, gradient)
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad)


def test_second_derivatives_go_through_the_reused_weight() -> None:
    layer = CASES["conv1d"].make(n=2, dtype=torch.float64).eval()

    def call(A: Tensor, S: Tensor) -> Tensor:
        y: Tensor = layer(CASES["conv1d"].input(torch.float64)[:1, :, :4])
        return y * (A.sum() * 0 + S.sum() * 0 + 1)

    assert torch.autograd.gradgradcheck(call, (layer.A, layer.S), fast_mode=True)


@every_case
def test_from_dense_with_all_terms_gives_the_same_layer_and_to_dense_gives_it_back(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(3)
    dense: Any = case.layer.twin(**case.arguments).eval()
    out, columns = case.layer.orient(dense.weight).shape[:2]
    closest = Order.closest(out, columns, 4)
    layer: Any = case.layer.from_dense(
        dense, Order(closest.n_out, closest.n_in, closest.n_out * closest.n_in)
    )
    torch.testing.assert_close(layer(case.input()), dense(case.input()), rtol=1e-4, atol=1e-5)
    back: Any = layer.to_dense()
    assert type(back) is case.layer.twin
    assert back.extra_repr() == dense.extra_repr()
    torch.testing.assert_close(back.weight, dense.weight, rtol=1e-4, atol=1e-5)
    assert (back.bias is None) == (dense.bias is None)
    if dense.bias is not None:
        torch.testing.assert_close(back.bias, dense.bias, rtol=0, atol=0)


def test_from_dense_fits_in_closed_form() -> None:
    dense = nn.Linear(16, 8)
    layer = PHMLinear.from_dense(dense, 4)
    wanted = factorize(dense.weight, Order(4, 4, 4))
    assert torch.equal(layer.A, wanted.A)
    assert torch.equal(layer.S, wanted.S)


def test_from_dense_keeps_mode_gradients_dtype_and_attributes() -> None:
    dense: Any = nn.Conv2d(8, 8, 3, dtype=torch.bfloat16).eval()
    dense.note = "mine"
    dense.weight.requires_grad_(False)
    layer: Any = PHMConv2d.from_dense(dense, 2)
    assert not layer.training
    assert not layer.A.requires_grad
    assert not layer.S.requires_grad
    assert layer.bias.requires_grad
    assert layer.bias is not dense.bias
    assert layer.S.dtype == torch.bfloat16
    assert layer.note == "mine"
    assert layer.transposed is False


@pytest.mark.parametrize(
    ("dense", "n", "error"),
    [
        (nn.Conv2d(8, 8, 3), 2, TypeError),
        (nn.modules.linear.NonDynamicallyQuantizableLinear(8, 8), 2, TypeError),
        (nn.Linear(8, 8), Order(3, 2, 2), ValueError),
    ],
)
def test_from_dense_refuses_other_types_and_orders_that_do_not_divide(
    dense: nn.Module, n: int | Order, error: type[Exception]
) -> None:
    with pytest.raises(error):
        PHMLinear.from_dense(dense, n)


def test_from_dense_refuses_factors_of_another_shape() -> None:
    with pytest.raises(ValueError, match="needed A"):
        PHMLinear.from_dense(
            nn.Linear(8, 8), Order(2, 2, 2), Factors(torch.ones(2, 2, 2), torch.ones(2, 1, 1))
        )


@pytest.mark.parametrize("name", FACTORED)
@pytest.mark.parametrize("training", [True, False])
def test_linear_and_pointwise_layers_need_no_weight(name: str, training: bool, composing: list[None]) -> None:
    layer = CASES[name].make().train(training)
    layer.form = "factored"
    layer(CASES[name].input()).sum().backward()
    assert composing == []


@composed_cases
def test_other_layers_compose_at_each_call_while_training(name: str, composing: list[None]) -> None:
    layer = CASES[name].make().train()
    for _ in range(3):
        layer(CASES[name].input())
    assert len(composing) == 3


@composed_cases
@pytest.mark.parametrize("gradients", [True, False])
def test_other_layers_compose_once_in_eval_mode(name: str, gradients: bool, composing: list[None]) -> None:
    layer = CASES[name].make().eval()
    with torch.set_grad_enabled(gradients):
        for _ in range(3):
            layer(CASES[name].input())
    assert len(composing) == 1


def step_(layer: PHMLayer) -> None:
    layer(CASES["conv2d"].input()).sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()


def in_place_(layer: PHMLayer) -> None:
    with torch.no_grad():
        layer.A.mul_(2)


def filters_(layer: PHMLayer) -> None:
    with torch.no_grad():
        layer.S[0, 0, 0] += 1


def load_(layer: PHMLayer) -> None:
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})


def assign_(layer: PHMLayer) -> None:
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()}, assign=True)


def data_(layer: PHMLayer) -> None:
    layer.S.data = layer.S.data + 1


def replace_(layer: PHMLayer) -> None:
    layer.A = nn.Parameter(layer.A.detach() + 1)


def double_(layer: PHMLayer) -> None:
    layer.double()


class Negated(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return -values


def parametrize_(layer: PHMLayer) -> None:
    nn.utils.parametrize.register_parametrization(layer, "S", Negated())


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize(
    "change", [step_, in_place_, filters_, load_, assign_, data_, replace_, double_, parametrize_]
)
def test_the_kept_weight_is_forgotten_when_a_factor_changes(
    change: Callable[[PHMLayer], None], gradients: bool
) -> None:
    layer = CASES["conv2d"].make().eval()
    with torch.set_grad_enabled(gradients):
        for _ in range(2):  # the second call with such an input looks at less
            layer(CASES["conv2d"].input())
    change(layer)
    x = CASES["conv2d"].input(layer.S.dtype)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(layer(x), CASES["conv2d"].dense(layer)(x))


def test_a_layer_that_ran_with_its_kept_weight_turns_to_the_factors_when_told() -> None:
    layer, x = PHMConv2d(16, 16, 1, n=4).eval(), torch.randn(1, 16, 3, 3)
    set_form_(layer, "folded")
    with torch.no_grad():
        wanted = [layer(x), layer(x)][1]
        layer.weight.zero_()  # whoever goes on with it is found out
        assert not torch.allclose(layer(x), wanted)
        set_form_(layer, "factored")
        torch.testing.assert_close(layer(x), wanted)


def test_what_was_decided_for_one_layout_does_not_hold_for_another() -> None:
    layer, x = PHMConv2d(64, 64, 1, n=Order(4, 4, 1)).eval(), torch.randn(2, 64, 9, 9)
    other = x.to(memory_format=torch.channels_last)
    with torch.no_grad(), patch.object(PHMConv2d, "fastest_form") as decide:
        for given, form in ((x, "folded"), (x, "folded"), (other, "factored"), (other, "factored")):
            decide.return_value = form
            layer(given)
    assert decide.call_count == 2


def test_train_mode_forgets_the_kept_weight(composing: list[None]) -> None:
    layer = CASES["conv2d"].make().eval()
    layer(CASES["conv2d"].input())
    layer.train().eval()
    layer(CASES["conv2d"].input())
    assert len(composing) == 2


@pytest.mark.parametrize("name", ["conv2d", "transposed 2d, grouped", "conv2d, pointwise, grouped"])
def test_gradients_through_the_kept_weight_are_those_of_training(name: str) -> None:
    x = CASES[name].input(torch.float64)
    layers = [CASES[name].make(dtype=torch.float64).train(training) for training in (True, False)]
    for layer in layers:
        layer(x).square().sum().backward()
    for trained, kept in zip(*(layer.parameters() for layer in layers), strict=True):
        torch.testing.assert_close(trained.grad, kept.grad)


def test_the_kept_weight_is_not_saved_or_copied() -> None:
    layer = CASES["conv2d"].make().eval()
    fresh = len(pickle.dumps(layer))
    layer(CASES["conv2d"].input())
    assert len(pickle.dumps(layer)) == fresh
    assert copy.deepcopy(layer)._cached is None
    assert set(layer.state_dict()) == {"A", "S", "bias"}


def test_other_factors_can_be_put_in_for_one_call() -> None:
    layer, other = CASES["conv2d"].make().eval(), PHMConv2d(8, 16, 3, padding=1, n=4)
    x = CASES["conv2d"].input()
    before = layer(x)
    put = torch.func.functional_call(layer, {n: p.detach() for n, p in other.named_parameters()}, (x,))
    torch.testing.assert_close(put, other(x))
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d, pointwise"])
def test_stacked_factors_run_under_vmap(name: str) -> None:
    layers = [CASES[name].make().eval() for _ in range(3)]
    for i, layer in enumerate(layers):
        layer.A.data.mul_(i + 1)
    stacked = {
        key: torch.stack([dict(m.named_parameters())[key] for m in layers]) for key in ("A", "S", "bias")
    }
    x = CASES[name].input()

    def call(factors: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(layers[0], factors, (x,))
        return y

    together = torch.vmap(call)(stacked)
    torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]))


def test_inference_mode_first_does_not_spoil_gradients_of_the_input_later() -> None:
    layer = CASES["conv2d"].make().eval().requires_grad_(False)
    with torch.inference_mode():
        layer(CASES["conv2d"].input())
    x = CASES["conv2d"].input().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


@every_case
def test_fresh_weights_have_the_mean_square_of_torchs_own(name: str) -> None:
    layer = CASES[name].make(dtype=torch.float64)
    twin: Any = CASES[name].dense(layer)
    fan_in = nn.init._calculate_fan_in_and_fan_out(twin.weight)[0]
    assert kron_weight(layer).square().mean().item() == pytest.approx(1 / (3 * fan_in), rel=1e-6)
    assert layer.A.square().mean().item() == pytest.approx(layer.S.square().mean().item(), rel=1e-6)
    if layer.bias is not None:
        assert layer.bias.abs().max() <= 1 / math.sqrt(fan_in)


@every_case
def test_fresh_layers_are_reproducible_and_differ_from_seed_to_seed(name: str) -> None:
    first, again = CASES[name].make(), CASES[name].make()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    first.reset_parameters()
    assert not torch.equal(first.S, again.S)


@every_case
def test_copies_pickles_and_state_dicts_compute_the_same(name: str) -> None:
    layer, x = CASES[name].make(), CASES[name].input()
    filled = CASES[name].make()
    filled.reset_parameters()
    filled.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), filled):
        assert torch.equal(other(x), layer(x))
        assert other.S.stride() == layer.S.stride()


@pytest.mark.parametrize("name", FACTORED)
def test_filters_stay_in_the_layout_that_the_product_reads(name: str) -> None:
    layer = CASES[name].make()
    for other in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.to(torch.bfloat16)):
        first = filters_first(layer.order, layer.matrix[0], layer.matrix[1])
        assert (other.S if first else other.S.transpose(0, 1)).is_contiguous()


@every_case
def test_layers_can_be_built_on_the_meta_device(name: str) -> None:
    layer = CASES[name].make(device="meta")
    assert all(p.is_meta for p in layer.parameters())
    assert layer(CASES[name].input().to("meta")).is_meta


@every_case
def test_autocast_gives_the_dtype_of_the_dense_twin(name: str) -> None:
    for training in (True, False):
        layer, x = CASES[name].make().train(training), CASES[name].input()
        with torch.autocast("cpu", torch.bfloat16):
            wanted, got = CASES[name].dense(layer)(x), layer(x)
        assert got.dtype == wanted.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), wanted.float(), rtol=0.05, atol=0.05)
        torch.testing.assert_close(layer(x), CASES[name].dense(layer)(x))  # nothing half was kept


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.shape) == 4])
def test_channels_last_is_kept_as_the_dense_twin_keeps_it(name: str) -> None:
    layer = CASES[name].make().eval()
    x = CASES[name].input().contiguous(memory_format=torch.channels_last)
    wanted, got = CASES[name].dense(layer)(x), layer(x)
    torch.testing.assert_close(got, wanted)
    last = {"memory_format": torch.channels_last}
    assert got.is_contiguous(**last) or not wanted.is_contiguous(**last)


LOW_RANK = [Order.low_rank(2), Order(2, 2, 2, 1), Order(2, 4, 1, 3)]
with_low_rank = pytest.mark.parametrize("order", LOW_RANK, ids=str)
even_case = pytest.mark.parametrize("name", [name for name in CASES if "uneven" not in name])


@even_case
@with_low_rank
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_with_a_low_rank_term_computes_what_its_dense_twin_computes(
    name: str, order: Order, training: bool
) -> None:
    case = CASES[name]
    layer = case.make(order, dtype=torch.float64).train(training)
    assert layer.order == order
    x = case.input(torch.float64)
    wanted = case.dense(layer)(x)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer.to_dense()(x), wanted)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(copied(x), wanted)
    again = type(layer).from_dense(layer.to_dense(), order, layer.factors)
    torch.testing.assert_close(again(x), wanted)


@even_case
@with_low_rank
def test_gradients_of_a_low_rank_term_are_those_of_the_composed_weight(name: str, order: Order) -> None:
    case = CASES[name]
    layer = case.make(order, dtype=torch.float64)
    x, inputs = case.input(torch.float64), [f for f in layer.factors if f is not None and f.numel()]
    training = torch.autograd.grad(layer(x).square().sum(), inputs)
    dense = layer.to_dense()
    weight = layer.orient(algebra.compose(*layer.factors))
    y = torch.func.functional_call(dense, {"weight": weight}, (x,))
    wanted = torch.autograd.grad(y.square().sum(), inputs)
    layer.eval()(x)
    kept = torch.autograd.grad(layer(x).square().sum(), inputs)
    for a, b, c in zip(training, kept, wanted, strict=True):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(b, c)


@with_low_rank
def test_fresh_weights_with_a_low_rank_term_have_the_mean_square_of_torchs_own(order: Order) -> None:
    torch.manual_seed(0)
    layer = PHMConv2d(8, 16, 3, n=order)
    assert float(layer.weight.detach().square().mean()) == pytest.approx(1 / (3 * 72), rel=1e-4)
    assert all(float(f.detach().square().mean()) > 1e-6 for f in layer.factors if f is not None and f.numel())


def test_a_thin_convolution_stands_for_a_low_rank_weight(composing: list[None]) -> None:
    layer = CASES["conv2d"].make(Order.low_rank(2))
    composing.clear()
    layer(CASES["conv2d"].input())
    assert not composing
    layer = CASES["conv2d, grouped"].make(Order.low_rank(2))
    composing.clear()
    layer(CASES["conv2d, grouped"].input())
    assert composing


def test_modules_pickled_before_there_was_a_low_rank_term_still_run() -> None:
    layer = CASES["conv2d"].make()
    wanted = layer(CASES["conv2d"].input())
    for name in "UV":
        del layer._parameters[name]
    again = pickle.loads(pickle.dumps(layer))
    torch.testing.assert_close(again(CASES["conv2d"].input()), wanted)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_torch_compile_captures_the_whole_layer(name: str, training: bool) -> None:
    layer, x = CASES[name].make().train(training), CASES[name].input()
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own imports
def test_compiled_code_computes_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(PHMConv2d(8, 16, 3, n=4), nn.ReLU(), nn.Flatten(), PHMLinear(256, 32, n=4)).eval()
    x = torch.randn(3, 8, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5)


@every_case
def test_torch_export_keeps_the_batch_dynamic(name: str) -> None:
    layer, x = CASES[name].make().eval(), CASES[name].input()
    unbatched = "unbatched" in name
    program = torch.export.export(
        layer, (x,), dynamic_shapes=None if unbatched else ({0: torch.export.Dim.DYNAMIC},)
    )
    more = x if unbatched else torch.cat([x, x, x[:1]])
    torch.testing.assert_close(program.module()(more), layer(more))
    assert {"A", "S"} <= set(program.state_dict)


def test_output_size_of_a_transposed_convolution_is_honoured() -> None:
    layer = PHMConvTranspose2d(8, 4, 3, stride=2, padding=1, n=4)
    dense: Any = layer.to_dense()
    x = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(layer(x, [10, 10]), dense(x, [10, 10]))


def test_repr_shows_the_rank() -> None:
    assert "order=(2, 2), terms=2, rank=3" in repr(PHMLinear(8, 8, n=Order(2, 2, 2, 3)))


def test_repr_shows_the_fields_and_the_order() -> None:
    assert repr(PHMLinear(8, 12, n=4)) == (
        "PHMLinear(in_features=8, out_features=12, bias=True, order=(4, 4), terms=4)"
    )


def train_replica(rank: int, world: int, folder: str) -> None:
    """One step on this process's half of the batch; the first process saves the result."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    torch.manual_seed(0)
    model = nn.Sequential(PHMConv2d(4, 8, 3, n=2), nn.Flatten(), PHMLinear(32, 4, n=4))
    replica = DistributedDataParallel(model)
    x = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(replica.parameters(), 0.1)
    replica(x.chunk(world)[rank]).square().mean().backward()
    optimizer.step()
    if rank == 0:
        torch.save(model.state_dict(), Path(folder) / f"{world}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    for world in (1, 2):
        (tmp_path / "meet").unlink(missing_ok=True)
        spawn(train_replica, (world, str(tmp_path)), nprocs=world)  # type: ignore[no-untyped-call]
    one, two = (torch.load(tmp_path / f"{world}.pt", weights_only=True) for world in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value)


@pytest.mark.parametrize(
    "order", [Order(4, 4, 4), Order(1, 8, 2), Order(20, 1, 3), Order(2, 2, 1, 3), Order.low_rank(2)]
)
def test_a_table_gives_the_rows_of_its_weight_without_composing_it(
    order: Order, composing: list[None]
) -> None:
    layer = PHMEmbedding(20, 16, n=order, dtype=torch.float64)
    table = kron_weight(layer)
    composing.clear()
    indices = torch.randint(20, (3, 5))
    torch.testing.assert_close(layer(indices), table[indices])
    torch.testing.assert_close(layer(indices[0, 0]), table[indices[0, 0]])
    assert layer(indices[:0]).shape == (0, 5, 16)
    assert not composing
    dense: Any = layer.to_dense()
    torch.testing.assert_close(dense(indices), table[indices])
    assert PHMEmbedding.from_dense(dense, order).order == order


def test_the_gradients_of_a_table_are_those_of_its_weight() -> None:
    layer = PHMEmbedding(20, 16, n=Order(4, 4, 3, 2), dtype=torch.float64)
    indices = torch.tensor([[3, 7, 3], [19, 0, 1]])
    probe = torch.randn(2, 3, 16, dtype=torch.float64)
    got = torch.autograd.grad((layer(indices) * probe).sum(), list(layer.parameters()))
    wanted = torch.autograd.grad((layer.weight[indices] * probe).sum(), list(layer.parameters()))
    torch.testing.assert_close(got, wanted)


def test_a_fresh_table_has_the_mean_square_of_torchs_and_an_index_beyond_it_is_refused() -> None:
    layer = PHMEmbedding(20, 16, padding_idx=0, n=4)
    assert layer.weight.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert layer.padding_idx == 0
    assert str(layer).startswith("PHMEmbedding(num_embeddings=20, embedding_dim=16, order=(4, 4)")
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        layer(torch.tensor([20]))


@pytest.mark.parametrize(
    "make", [lambda: PHMLinear(16, 8, n=2), lambda: PHMConv2d(16, 8, 1, n=Order(2, 2, 2, 1))]
)
def test_a_layer_that_learns_from_many_rows_goes_through_its_weight_with_the_same_result(
    make: Callable[[], PHMLayer], composing: list[None]
) -> None:
    layer = make().double().train()
    composing.clear()
    shape = (16,) if isinstance(layer, PHMLinear) else (16, 1, 1)
    x = torch.randn(512, *shape, dtype=torch.float64)
    results = []
    for rows in (256, 512):
        y = torch.cat([layer(part) for part in torch.split(x, rows)])
        results.append((y, *torch.autograd.grad(y.square().sum(), list(layer.parameters()))))
        assert len(composing) == (rows == 512)
    torch.testing.assert_close(*results)


def quaternion_product(layer: nn.Module, x: Tensor, filters: Tensor) -> Tensor:
    """Hamilton's product of filters and inputs, component by component (Parcollet et al. 2019, eq. 8)."""
    r, i, j, k = filters
    xr, xi, xj, xk = x.chunk(4, 1)
    if isinstance(layer, PHMConv2d):
        fields = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}

        def times(w: Tensor, x: Tensor) -> Tensor:
            return F.conv2d(x, w, **fields)
    else:

        def times(w: Tensor, x: Tensor) -> Tensor:
            return F.linear(x, w)

    return torch.cat(
        [
            times(r, xr) - times(i, xi) - times(j, xj) - times(k, xk),
            times(i, xr) + times(r, xi) - times(k, xj) + times(j, xk),
            times(j, xr) + times(k, xi) + times(r, xj) - times(i, xk),
            times(k, xr) - times(j, xi) + times(i, xj) + times(r, xk),
        ],
        1,
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["linear", "conv2d", "conv2d, pointwise"])
def test_a_quaternion_layer_is_hamiltons_product(name: str, training: bool) -> None:
    layer = CASES[name].make(algebra="quaternion", dtype=torch.float64).train(training)
    x = CASES[name].input(torch.float64)
    assert layer.bias is not None
    wanted = quaternion_product(layer, x, layer.S) + layer.bias.view(-1, *[1] * (x.dim() - 2))
    torch.testing.assert_close(layer(x), wanted)


def test_a_complex_layer_is_trabelsis() -> None:
    layer = PHMLinear(6, 4, bias=False, n=2, algebra="complex", dtype=torch.float64)
    z = torch.randn(5, 3, dtype=torch.complex128)
    W = torch.complex(*layer.S.detach())
    y = layer(torch.cat([z.real, z.imag], 1))
    torch.testing.assert_close(torch.complex(*y.chunk(2, 1)), z @ W.t())


def test_a_fixed_algebra_is_saved_but_neither_trained_nor_counted() -> None:
    layer = PHMConv2d(8, 8, 3, n=4, algebra="quaternion", bias=False)
    A = named_algebra("quaternion").A(torch.float32)
    assert [name for name, _ in layer.named_parameters()] == ["S"]
    assert set(layer.state_dict()) == {"A", "S"}
    layer(torch.randn(2, 8, 5, 5)).sum().backward()
    torch.optim.SGD(layer.requires_grad_().parameters(), lr=1.0).step()
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.double()):
        assert same.has_fixed_algebra
        assert torch.equal(same.A, A.to(same.S.dtype))
    assert layer.A.dtype == torch.float64


def test_fresh_factors_of_a_fixed_algebra_leave_it_alone() -> None:
    torch.manual_seed(0)
    layer = PHMLinear(64, 64, n=Order(4, 4, 4, 3), algebra="quaternion")
    layer.reset_parameters()
    assert torch.equal(layer.A, named_algebra("quaternion").A(torch.float32))
    assert float(layer.weight.detach().square().mean()) == pytest.approx(1 / (3 * 64), rel=1e-5)


@pytest.mark.parametrize("rank", [0, 2])
def test_factors_can_be_drawn_to_vanish(rank: int) -> None:
    layer = PHMLinear(8, 8, n=Order(4, 4, 4, rank))
    with torch.no_grad():
        fresh_(layer.factors, 0.0)
    assert not layer.weight.any()
    layer(torch.randn(3, 8)).sum().backward()
    assert layer.S.grad is not None
    assert layer.S.grad.any()  # training can still move it


def test_a_fixed_algebra_must_fit_and_stays() -> None:
    layer = PHMLinear(8, 8, n=4, algebra="quaternion")
    with pytest.raises(ValueError, match="another algebra than the one that is fixed"):
        layer.set_factors(Factors(2 * layer.A, layer.S))
    layer.set_factors(Factors(layer.A, 2 * layer.S))
    with pytest.raises(ValueError, match="quaternion algebra has dimension 4, not 2"):
        PHMLinear(8, 8, n=2, algebra="quaternion")
    with pytest.raises(ValueError, match=r"an algebra \(4, 4, 4\); needed \(4, 4, 3\)"):
        PHMLinear(9, 16, n=Order(4, 3, 4), algebra="quaternion")


def test_a_composed_weight_is_kept_with_a_fixed_algebra_too(composing: list[None]) -> None:
    layer = PHMConv2d(8, 8, 3, n=4, algebra="quaternion").eval()
    x = torch.randn(1, 8, 5, 5)
    first = layer(x)
    assert torch.equal(layer(x), first)
    assert len(composing) == 1
    with torch.no_grad():
        layer.S.mul_(2)
    assert not torch.equal(layer(x), first)


def test_a_parametrized_bias_is_the_one_that_counts() -> None:
    layer = PHMLinear(8, 8, n=2).eval()
    assert layer.bias is not None
    x, bias = torch.randn(3, 8), layer.bias.detach().clone()
    with torch.no_grad():
        before = layer(x)
        nn.utils.parametrize.register_parametrization(layer, "bias", Negated())
        torch.testing.assert_close(layer(x), before - 2 * bias)


@pytest.mark.parametrize(
    "order", [Order(1, 8, 3), Order(8, 1, 3), Order(4, 2, 2), Order.low_rank(3)], ids=str
)
def test_the_kept_weight_lies_in_memory_as_the_dense_one(order: Order) -> None:
    pairs = ((PHMConv2d, nn.Conv2d(8, 8, 3)), (PHMConvTranspose2d, nn.ConvTranspose2d(8, 8, 3)))
    for kind, dense in pairs:
        with torch.no_grad():
            assert kind.from_dense(dense, order).eval().weight.stride() == dense.weight.stride()


def test_a_weight_without_terms_is_kept_until_its_low_rank_factors_change() -> None:
    layer = PHMLinear.from_dense(nn.Linear(8, 8), Order.low_rank(3)).eval()
    with torch.no_grad():
        kept = layer.weight
        assert layer.weight is kept
        layer.V.mul_(2)  # type: ignore[union-attr]
        assert torch.equal(layer.weight, 2 * kept)
