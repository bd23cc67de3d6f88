"""Putting tensors by name into a network, with every mismatch said by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phnnify.errors import ModelError
from phnnify.weights import load_weights, strip_prefixes, tied_names
from tests.networks import Small, Tied, same_tensors, small


def other() -> Small:
    """A network of the same class with other weights."""
    torch.manual_seed(1)
    return Small()


def refusal(model: nn.Module, tensors: dict[str, Any]) -> ModelError:
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    with pytest.raises(ModelError, match=r"^net\.pt") as caught:
        load_weights(model, tensors, "net.pt")
    after = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    assert same_tensors(before, after)
    return caught.value


def test_every_parameter_and_buffer_is_filled() -> None:
    model = other()
    load_weights(model, small().state_dict(), "net.pt")
    assert same_tensors(model.state_dict(), small().state_dict())
    x = torch.randn(3, 16)
    assert torch.equal(model.eval()(x), small()(x))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_a_wrappers_prefix_is_dropped(prefix: str) -> None:
    model = other()
    load_weights(model, {prefix + name: value for name, value in small().state_dict().items()}, "net.pt")
    assert same_tensors(model.state_dict(), small().state_dict())


@pytest.mark.parametrize("prefix", ["model.", "net.backbone.", "module.model.", "model._orig_mod."])
def test_the_name_under_which_a_training_module_held_the_network_is_dropped(prefix: str) -> None:
    model = other()
    load_weights(model, {prefix + name: value for name, value in small().state_dict().items()}, "net.pt")
    assert same_tensors(model.state_dict(), small().state_dict())


def test_names_that_fit_without_their_beginning_neither_are_shown_as_they_are() -> None:
    error = refusal(other(), {"model.deep.first": torch.zeros(1), "model.deep.second": torch.zeros(1)})
    assert "2 unexpected (model.deep.first, model.deep.second)" in str(error)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_a_network_whose_own_names_begin_like_a_prefix_keeps_them(prefix: str, name: str) -> None:
    model, trained = nn.ModuleDict({name: other()}), nn.ModuleDict({name: small()})
    load_weights(model, {prefix + key: value for key, value in trained.state_dict().items()}, "net.pt")
    assert same_tensors(model.state_dict(), trained.state_dict())


def test_a_prefix_that_not_all_names_have_is_part_of_the_names() -> None:
    state: dict[str, Any] = {f"module.{name}": value for name, value in small().state_dict().items()}
    state["head.bias"] = state.pop("module.head.bias")
    assert "7 missing (hidden.weight, hidden.bias, norm.weight and 4 more)" in str(refusal(other(), state))


def test_stripping_nothing_gives_the_same_tensors() -> None:
    tensors = {"a": torch.zeros(1), "b": torch.ones(1)}
    assert strip_prefixes(tensors, ["a", "b"]) == tensors
    assert strip_prefixes({}, ["a"]) == {}


def test_missing_names_are_listed_and_counted() -> None:
    error = refusal(other(), {"head.bias": torch.zeros(8)})
    assert "7 missing (hidden.weight, hidden.bias, norm.weight and 4 more)" in str(error)
    assert error.hint == "--arch must build exactly the network that the weights were trained in"


def test_one_missing_name_is_named() -> None:
    state = small().state_dict()
    del state["norm.running_var"]
    assert str(refusal(other(), state)) == "net.pt does not fit Small: 1 missing (norm.running_var)"


def test_unexpected_names_are_listed_and_counted() -> None:
    extra = {f"extra.{i}": torch.zeros(1) for i in range(5)}
    error = refusal(other(), {**small().state_dict(), **extra})
    assert "5 unexpected (extra.0, extra.1, extra.2 and 2 more)" in str(error)


def test_missing_and_unexpected_names_are_told_together() -> None:
    state = small().state_dict()
    state["head.wait"] = state.pop("head.weight")
    assert "1 missing (head.weight); 1 unexpected (head.wait)" in str(refusal(other(), state))


def test_weights_of_another_network_are_refused() -> None:
    assert "missing" in str(refusal(other(), nn.Linear(16, 8).state_dict()))
    assert "missing" in str(refusal(other(), {}))


@pytest.mark.parametrize("shape", [(16, 8), (8, 16, 1), (9, 16), (), (128,)])
def test_a_wrong_shape_names_the_weight_and_both_shapes(shape: tuple[int, ...]) -> None:
    error = refusal(other(), {**small().state_dict(), "head.weight": torch.zeros(shape)})
    assert str(error) == f"net.pt: head.weight has shape {shape}; needed (8, 16)"


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_a_weight_of_another_kind_of_number_is_refused(dtype: torch.dtype) -> None:
    error = refusal(other(), {**small().state_dict(), "head.weight": torch.zeros(8, 16, dtype=dtype)})
    assert str(error) == f"net.pt: head.weight is {dtype}; needed torch.float32"


def test_a_fractional_count_is_refused() -> None:
    error = refusal(other(), {**small().state_dict(), "norm.num_batches_tracked": torch.tensor(0.5)})
    assert "norm.num_batches_tracked is torch.float32; needed torch.int64" in str(error)


@pytest.mark.parametrize("value", [3, None, "text", [1.0], {"a": 1}])
def test_a_value_that_is_no_tensor_is_named(value: Any) -> None:
    error = refusal(other(), {**small().state_dict(), "head.bias": value})
    assert str(error) == f"net.pt: head.bias is a {type(value).__name__}, not a tensor"


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("case", ["sparse", "sparse, csr", "nested", "meta", "quantized"])
def test_a_tensor_of_an_unusual_kind_is_named(case: str) -> None:
    dense = torch.eye(8, 16)
    unusual: dict[str, Callable[[], Tensor]] = {
        "sparse": dense.to_sparse,
        "sparse, csr": dense.to_sparse_csr,
        "nested": lambda: torch.nested.nested_tensor([dense[0], dense[1, :3]]),
        "meta": lambda: dense.to("meta"),
        "quantized": lambda: torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8),
    }
    error = refusal(other(), {**small().state_dict(), "head.weight": unusual[case]()})
    assert "head.weight is " in str(error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_take_the_networks_precision(dtype: torch.dtype) -> None:
    model = other()
    state = {name: value.to(dtype) for name, value in small().head.state_dict().items()}
    load_weights(model.head, state, "net.pt")
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, state["weight"].float())


def test_counts_of_batches_may_lack() -> None:
    state = small().state_dict()
    del state["norm.num_batches_tracked"]
    model = other()
    load_weights(model, state, "net.pt")
    assert torch.equal(model.norm.weight, small().norm.weight)


@pytest.mark.parametrize("absent", ["head.weight", "table.weight"])
def test_one_name_of_a_tied_weight_is_enough(absent: str) -> None:
    trained, model = Tied(), Tied()
    state = trained.state_dict()
    del state[absent]
    load_weights(model, state, "net.pt")
    assert same_tensors(model.state_dict(), trained.state_dict())
    assert model.head.weight is model.table.weight


def test_a_tied_weight_without_any_of_its_names_is_missing() -> None:
    state = Tied().state_dict()
    del state["head.weight"], state["table.weight"]
    assert "2 missing (table.weight, head.weight)" in str(refusal(Tied(), state))


def test_tied_names_with_different_values_are_refused() -> None:
    state = Tied().state_dict()
    state["head.weight"] = state["head.weight"] + 1
    error = refusal(Tied(), state)
    assert "table.weight and head.weight differ, but they are one parameter in the network" in str(error)
    assert error.hint is not None


def test_tied_names_are_grouped() -> None:
    assert tied_names(Tied()) == [
        ["table.weight", "head.weight"],
        ["hidden.weight"],
        ["hidden.bias"],
    ]


class Counted(nn.Module):
    """Keeps something that is no tensor in its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.count = nn.Linear(4, 4), 0

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        if state < 0:
            raise RuntimeError("a count below zero")
        self.count = state


def test_extra_state_is_handed_to_the_module() -> None:
    model = Counted()
    load_weights(model, {**model.state_dict(), "_extra_state": 7}, "net.pt")
    assert model.count == 7


def test_extra_state_that_the_module_refuses_is_an_error_with_its_reason() -> None:
    model = Counted()
    with pytest.raises(ModelError, match=r"net\.pt does not fit Counted: .*a count below zero"):
        load_weights(model, {**model.state_dict(), "_extra_state": -1}, "net.pt")
