"""Opened twins compute what the modules that they stand for compute."""

from __future__ import annotations

import copy
import math
import pickle
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.errors import PhnnifyError
from phnnify.opened import OpenAttention, OpenGRU, OpenLSTM, OpenRNN, open_modules
from phnnify.plan import with_orders
from phnnify.rewrite import rewrite
from tests.networks import same_tensors

RECURRENT: dict[Any, Any] = {nn.LSTM: OpenLSTM, nn.GRU: OpenGRU, nn.RNN: OpenRNN}


def flat(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output if part is not None for tensor in flat(part)]


def near(got: Any, wanted: Any) -> bool:
    pairs = zip(flat(got), flat(wanted), strict=True)
    return all(torch.allclose(a, b, atol=1e-5, equal_nan=True) for a, b in pairs)


booleans = st.booleans()


@settings(max_examples=150, deadline=None)
@given(
    batch_first=booleans,
    learned_end=booleans,
    zero_end=booleans,
    other_widths=booleans,
    bias=booleans,
    separate=booleans,
    itself=booleans,
    batched=booleans,
    mask=st.sampled_from(["none", "bool", "float", "per head", "causal"]),
    padded=booleans,
    weights=st.sampled_from(["none", "each", "mean"]),
    seed=st.integers(0, 1000),
)
def test_attention_gives_the_same_outputs_weights_and_gradients_under_every_mask(
    batch_first: bool, learned_end: bool, zero_end: bool, other_widths: bool, bias: bool, separate: bool,
    itself: bool, batched: bool, mask: str, padded: bool, weights: str, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    width = 6 if other_widths else 8
    closed = nn.MultiheadAttention(
        8, 2, bias=bias, add_bias_kv=learned_end, add_zero_attn=zero_end, kdim=width, vdim=width,
        batch_first=batch_first, dtype=torch.float64,
    )  # fmt: skip
    for parameter in closed.parameters():
        nn.init.normal_(parameter)
    opened = OpenAttention.from_closed(closed, separate=separate)
    itself = itself and not other_widths
    targets, sources = 5, 5 if itself else 7
    query = torch.randn(3, targets, 8, requires_grad=True, dtype=torch.float64)
    key = query if itself else torch.randn(3, sources, width, dtype=torch.float64)
    value = key if itself else torch.randn(3, sources, width, dtype=torch.float64)
    masks = {
        "none": None,
        "bool": torch.rand(targets, sources) > 0.7,
        "float": torch.randn(targets, sources, dtype=torch.float64),
        "per head": torch.randn(3 * 2 if batched else 2, targets, sources, dtype=torch.float64),
        "causal": torch.full((targets, sources), -math.inf, dtype=torch.float64).triu(1),
    }
    padding = torch.rand(3, sources) > 0.8 if padded else None
    for each in (masks["bool"], padding):
        if each is not None:
            each[:, 0] = False  # where all is masked, torch's answer depends on the path it takes
    if not batched:
        query, key, value = query[0], key[0], value[0]
        padding = None if padding is None else padding[0]
    elif not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    if itself:
        key = value = query
    options: dict[str, Any] = {
        "attn_mask": masks[mask], "key_padding_mask": padding, "need_weights": weights != "none",
        "average_attn_weights": weights == "mean", "is_causal": mask == "causal",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: masks of different types
        wanted = closed(query, key, value, **options)
    got = opened(query, key, value, **options)
    assert near(got, wanted)
    again = opened.to_closed()
    assert same_tensors(again.state_dict(), closed.state_dict())
    assert repr(again) == repr(closed)
    gradients = [torch.autograd.grad(y[0].sum(), query, retain_graph=True) for y in (got, wanted)]
    assert near(*gradients)


def test_attention_refuses_the_hint_without_the_mask() -> None:
    with pytest.raises(RuntimeError, match="attn_mask"):
        OpenAttention.from_closed(nn.MultiheadAttention(8, 2))(*[torch.randn(5, 3, 8)] * 3, is_causal=True)


@pytest.mark.parametrize("kind", RECURRENT)
@settings(max_examples=40, deadline=None)
@given(
    bidirectional=booleans,
    batch_first=booleans,
    layers=st.integers(1, 3),
    bias=booleans,
    projected=booleans,
    batched=booleans,
    started=booleans,
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_recurrent_layers_give_the_same_in_the_fused_kernel_and_step_by_step(
    kind: Any, bidirectional: bool, batch_first: bool, layers: int, bias: bool, projected: bool,
    batched: bool, started: bool, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    long = kind is nn.LSTM
    more = {"proj_size": 3} if projected and long else {}
    closed = kind(4, 5, layers, bidirectional=bidirectional, batch_first=batch_first, bias=bias, **more)
    opened = RECURRENT[kind].from_closed(closed)
    x = torch.randn(2, 6, 4) if batched else torch.randn(6, 4)
    batch = ((2 if batch_first else 6),) if batched else ()
    hidden = torch.randn(layers * (2 if bidirectional else 1), *batch, 3 if more else 5)
    cell = torch.randn(*hidden.shape[:-1], 5)
    start = ((hidden, cell) if long else hidden) if started else None
    wanted = closed(x, start)
    assert near(opened(x, start), wanted)
    again = opened.to_closed()
    assert same_tensors(again.state_dict(), closed.state_dict())
    assert repr(again) == repr(closed)
    calls: list[str] = []
    for name, part in opened.named_children():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    assert near(opened(x, start), wanted)
    assert calls.count("ih_l0") == 1
    assert calls.count("hh_l0") == (6 if not batched or batch_first else 2)


def test_packed_sequences_go_to_the_fused_kernel() -> None:
    closed = nn.GRU(4, 5, batch_first=True)
    opened = OpenGRU.from_closed(closed)
    x = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 6, 4), [6, 3], batch_first=True)
    opened.get_submodule("ih_l0").register_forward_hook(lambda *_: None)
    assert near([opened(x)[0].data, opened(x)[1]], [closed(x)[0].data, closed(x)[1]])


def test_dropout_between_recurrent_layers_works_step_by_step() -> None:
    opened = OpenLSTM.from_closed(nn.LSTM(4, 5, 2, dropout=1.0)).train()
    for part in opened.children():
        part.register_forward_hook(lambda *_: None)
    dry = opened(torch.zeros(3, 1, 4))[0]
    assert near(opened(torch.randn(3, 1, 4))[0], dry)  # nothing of the first layer reaches the second


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_can_be_copied_pickled_moved_and_used_half(kind: Any) -> None:
    opened = RECURRENT[kind].from_closed(kind(4, 5))
    x = torch.randn(3, 1, 4)
    for other in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        assert near(other(x), opened(x))
    assert opened.to(torch.float64)(x.double())[0].dtype == torch.float64
    opened.flatten_parameters()
    assert len(opened.all_weights[0]) == 4


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()


def test_a_transformer_gives_the_same_with_and_without_gradients_and_padding() -> None:
    closed = encoder()
    opened = open_modules(closed)
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: nested tensors are a prototype
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                assert near(opened(x), closed(x))
                kept = ~padding  # torch's fast path leaves zeros at padded places
                masked = closed(x, src_key_padding_mask=padding)
                assert near(opened(x, src_key_padding_mask=padding)[kept], masked[kept])


def test_the_attention_of_a_decoder_to_the_encoder_has_separate_layers() -> None:
    torch.manual_seed(0)
    closed = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    opened = open_modules(closed)
    names = {name for name, _ in opened.named_modules()}
    assert {"decoder.layers.0.multihead_attn.k_proj", "decoder.layers.0.self_attn.in_proj"} <= names
    source, target = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    assert near(opened(source, target), closed(source, target))


def test_opening_shares_the_tensors_and_leaves_the_network_as_it_was() -> None:
    closed = encoder()
    before = copy.deepcopy(closed)
    opened: Any = open_modules(closed)
    assert opened.layers[0].self_attn.in_proj.weight is closed.layers[0].self_attn.in_proj_weight
    assert same_tensors(closed.state_dict(), before.state_dict())
    assert open_modules(plain := nn.Sequential(nn.Linear(2, 2))) is plain


def test_only_what_holds_a_chosen_layer_is_opened() -> None:
    opened: Any = open_modules(encoder(), ["layers.1.self_attn.in_proj"])
    kinds = [type(layer.self_attn) for layer in opened.layers]
    assert kinds == [nn.MultiheadAttention, OpenAttention]


def test_a_network_that_is_one_recurrent_layer_is_opened() -> None:
    assert isinstance(open_modules(nn.LSTM(4, 5)), OpenLSTM)


def test_a_module_that_is_used_twice_stays_one_and_keeps_its_hooks() -> None:
    lstm = nn.LSTM(4, 4)
    seen: list[str] = []
    lstm.register_forward_hook(lambda *_: seen.append("called"))
    opened: Any = open_modules(nn.ModuleDict({"a": lstm, "b": lstm}))
    assert opened["a"] is opened["b"]
    opened["a"](torch.randn(2, 1, 4))
    assert seen == ["called"]


class Conv1D(nn.Module):
    """As transformers writes it: weight (in, out), y = x W + b."""

    def __init__(self, out: int, columns: int) -> None:
        super().__init__()
        self.nf, self.nx = out, columns
        self.weight, self.bias = nn.Parameter(torch.randn(columns, out)), nn.Parameter(torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


def test_the_transposed_layers_of_transformers_become_linear_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", types.ModuleType("transformers"))
    closed = nn.Sequential(Conv1D(12, 8), nn.ReLU(), Conv1D(4, 12))
    opened: Any = open_modules(closed)
    assert type(opened[0]) is nn.Linear
    x = torch.randn(2, 3, 8)
    assert near(opened(x), closed(x))
    student = phnnify.convert(closed, 2, data=[torch.randn(64, 8)], min_share=0).model
    assert [type(layer).__name__ for layer in student.children()] == ["PHMLinear", "ReLU", "PHMLinear"]


class FalconLinear(nn.Linear):
    """As transformers writes it: another order of the same products."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def test_falcons_own_dense_layers_become_linear_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FalconLinear, "__module__", "transformers.models.falcon.modeling_falcon")
    closed = nn.Sequential(FalconLinear(8, 12), nn.ReLU())
    opened: Any = open_modules(closed)
    assert type(opened[0]) is nn.Linear
    x = torch.randn(2, 8)
    assert near(opened(x), closed(x))


class Sentence(nn.Module):
    """Attention, a recurrent layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.memory = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head(self.memory(x)[0])
        return out


def sentence() -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    return Sentence().eval(), [torch.randn(64, 6, 16)]


def test_with_all_terms_a_converted_network_is_its_original() -> None:
    closed, (x,) = sentence()
    plan, _ = phnnify.inspect(closed, 4, min_share=0)
    full = {
        name: order if order is None else type(order)(order.n_out, order.n_in, order.n_out * order.n_in)
        for name, order in plan.conversions.items()
    }
    model = phnnify.convert(closed, plan=with_orders(plan, full)).model
    assert len(full) == 7
    assert (model(x) - closed(x)).norm() <= 1e-4 * closed(x).norm()


def test_attention_and_memory_are_fitted_to_data_saved_and_read_again(tmp_path: Any) -> None:
    closed, data = sentence()
    blind = phnnify.convert(closed, 2, min_share=0)
    done = phnnify.convert(closed, 2, data=data, min_share=0)
    names = set(done.plan.conversions)
    assert {"attention.in_proj", "attention.out_proj", "memory.ih_l0", "memory.hh_l0_reverse"} <= names
    assert all(layer.output_error is not None for layer in done.report.layers if layer.name in names)
    errors = [(m(data[0]) - closed(data[0])).norm() for m in (blind.model, done.model)]
    assert errors[1] < 0.7 * errors[0]
    phnnify.save(done.model, tmp_path / "a.safetensors", done.plan)
    again = phnnify.load(tmp_path / "a.safetensors", Sentence())
    assert torch.equal(again(data[0]), done.model.eval()(data[0]))


def test_opened_twins_of_torch_s_own_modules_are_read_without_trust(tmp_path: Any) -> None:
    network = nn.Sequential(nn.Linear(8, 8), encoder(), nn.Linear(8, 8))
    model = phnnify.convert(network, 2, min_share=0).model
    phnnify.save(model, tmp_path / "a.pt")
    x = torch.randn(2, 5, 8)
    assert torch.equal(phnnify.load(tmp_path / "a.pt")(x), model.eval()(x))
    for kind in RECURRENT:
        phnnify.save(phnnify.convert(kind(4, 8), 2, min_share=0).model, tmp_path / "r.pt")
        assert type(phnnify.load(tmp_path / "r.pt")) is RECURRENT[kind]


def test_attention_and_memory_learn_from_their_original() -> None:
    closed, data = sentence()
    student = phnnify.convert(closed, 2, min_share=0).model
    recipe = phnnify.Recipe(steps=30, batch=32, rate=3e-3, hidden=0.5, device="cpu")
    better = phnnify.distill(closed, student, data[0], recipe).model
    errors = [(m.eval()(data[0]) - closed(data[0])).norm() for m in (student, better)]
    assert errors[1] < 0.7 * errors[0]


def test_converted_modules_can_be_closed_again() -> None:
    closed, (x,) = sentence()
    model: Any = phnnify.convert(closed, 4, min_share=0).model.eval()
    wanted = model(x)
    model.attention, model.memory = model.attention.to_closed(), model.memory.to_closed()
    assert [type(model.attention), type(model.memory)] == [nn.MultiheadAttention, nn.LSTM]
    assert near(model(x), wanted)


def test_what_stays_stays_closed() -> None:
    closed, data = sentence()
    model: Any = phnnify.convert(closed, 4, data=data, exclude=["memory.*"], min_share=0).model
    assert type(model.memory) is nn.LSTM
    assert type(model.attention) is OpenAttention


def test_names_of_the_closed_network_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(PhnnifyError, match="matches no weight"):
        phnnify.convert(Sentence(), 4, include=["attention.in_proj_weight"])


def test_factors_can_be_put_into_a_closed_network() -> None:
    closed, _ = sentence()
    done = phnnify.convert(closed, 4, min_share=0)
    factors = {name: done.model.get_submodule(name).factors for name in done.plan.conversions}
    again = rewrite(closed, factors)  # type: ignore[arg-type]
    assert same_tensors(again.state_dict(), done.model.state_dict())


class Pool(nn.Module):
    """A learned query attends to a sentence, which has attended to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner(x, x, x)[0]
        out: Tensor = self.attention(self.query.expand(len(x), -1, -1), key=x, value=x)[0]
        return out


def test_where_queries_and_keys_differ_each_projection_is_converted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    closed, x = Pool().eval(), torch.randn(32, 5, 16)
    result = phnnify.convert(closed, 2, data=[x], min_share=0)
    parts = {f"attention.{part}_proj" for part in ("q", "k", "v", "out")}
    assert set(result.plan.conversions) == {*parts, "inner.in_proj", "inner.out_proj"}
    full = {name: Order(2, 2, 4) for name in result.plan.conversions}
    exact = phnnify.convert(closed, plan=with_orders(result.plan, full), inputs="1x5x16").model
    assert near(exact(x), closed(x))
    phnnify.save(result.model, tmp_path / "a.safetensors", result.plan)
    assert torch.equal(phnnify.load(tmp_path / "a.safetensors", Pool())(x), result.model(x))
    phnnify.export_onnx(result.model, tmp_path / "a.onnx", "1x5x16")
    better = phnnify.distill(closed, result.model, x, phnnify.Recipe(steps=30, rate=1e-3, device="cpu"))
    assert {layer.name for layer in better.report.layers if layer.status == "converted"} == {
        *parts,
        "inner.in_proj",
        "inner.out_proj",
    }
    errors = [(m(x) - closed(x)).norm() for m in (result.model, better.model.eval())]
    assert errors[1] < errors[0]
    assert type(better.model.attention.to_closed()) is nn.MultiheadAttention  # type: ignore[operator,union-attr]
