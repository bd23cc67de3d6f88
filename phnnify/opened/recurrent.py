"""LSTM, GRU and plain recurrent layers whose weights are those of Linear layers of their own.

torch's recurrent layers hand bare parameters to a fused kernel; nothing there can be watched, fitted or
replaced as a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from phnnify.opened.linear import filled, linear_of

State = tuple[Tensor, ...]
_Self = TypeVar("_Self", bound="OpenRecurrent")


class OpenRecurrent(nn.RNNBase):
    """What a recurrent layer of torch computes, with its arguments and results.

    For each layer and direction (suffix `_l0`, `_l0_reverse`, `_l1`, …) there are `ih` (inputs → gates), `hh`
    (hidden state → gates) and, with a projection, `hr`. Their weights go to torch's fused kernel; but while
    one of them has a hook, which would not be called by that, they run step by step (not for packed
    sequences).
    """

    twin: ClassVar[Any]
    _copied = (
        "mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
        "proj_size",
    )  # fmt: skip

    @classmethod
    def from_closed(cls: type[_Self], closed: nn.RNNBase) -> _Self:
        """The opened twin; it shares all parameters. `closed` is not changed."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        vars(layer).update({name: getattr(closed, name) for name in cls._copied})
        layer._flat_weights_names = []
        for suffix in layer._suffixes():
            for name in ("ih", "hh", "hr"):
                weight = getattr(closed, f"weight_{name}{suffix}", None)
                if weight is not None:
                    bias = getattr(closed, f"bias_{name}{suffix}", None)
                    parts = 1 if name == "hr" else weight.shape[0] // closed.hidden_size
                    layer.add_module(name + suffix, linear_of(weight, bias, parts))
        return layer.train(closed.training)

    def to_closed(self) -> nn.RNNBase:
        """The layer of torch with these weights, composed where need be; inverse of `from_closed`."""
        given = {name: getattr(self, name) for name in self._copied if name not in ("mode", "proj_size")}
        if self.mode == "LSTM":
            given["proj_size"] = self.proj_size
        elif self.mode.startswith("RNN_"):
            given["nonlinearity"] = self.mode.removeprefix("RNN_").lower()
        weights = self._flat_weights
        closed: nn.RNNBase = self.twin(**given, dtype=weights[0].dtype, device="meta")
        return filled(closed, dict(zip(closed._flat_weights_names, weights, strict=True))).train(
            self.training
        )

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """Run over a sequence, as the twin's `forward` does."""
        watched = any(m._forward_hooks or m._forward_pre_hooks for m in self.children())
        if watched and isinstance(input, Tensor):
            return self._stepwise(input, hx)
        return super().forward(input, hx)

    def _suffixes(self) -> Iterator[str]:
        for layer in range(self.num_layers):
            yield f"_l{layer}"
            if self.bidirectional:
                yield f"_l{layer}_reverse"

    @property
    def all_weights(self) -> list[list[Any]]:
        """The weights and biases of each layer and direction."""
        groups = []
        for suffix in self._suffixes():
            parts = [self._modules[name + suffix] for name in ("ih", "hh")]
            group = [part.weight for part in parts if part is not None]
            group += [part.bias for part in parts if part is not None and self.bias]
            projection = self._modules.get(f"hr{suffix}")
            groups.append(group + ([projection.weight] if projection is not None else []))
        return groups

    @property
    def _flat_weights(self) -> list[Any]:  # type: ignore[override]
        """What the fused kernel takes."""
        return [weight for group in self.all_weights for weight in group]

    def _stepwise(self, x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        batched = x.dim() == 3
        x = x if batched else x.unsqueeze(1)
        x = x.transpose(0, 1) if batched and self.batch_first else x
        given = hx if hx is None or isinstance(hx, tuple) else (hx,)
        if given is not None and not batched:
            given = tuple(state.unsqueeze(1) for state in given)
        ends: list[State] = []
        suffixes = list(self._suffixes())
        sides = 2 if self.bidirectional else 1
        for first in range(0, len(suffixes), sides):
            outputs = []
            for i in range(first, first + sides):
                state = self._fresh(x) if given is None else tuple(state[i] for state in given)
                output, end = self._run(suffixes[i], x, state)
                outputs.append(output)
                ends.append(end)
            x = torch.cat(outputs, -1)
            if self.dropout and self.training and first + sides < len(suffixes):
                x = F.dropout(x, self.dropout)
        last = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        if not batched:
            x, last = x.squeeze(1), tuple(state.squeeze(1) for state in last)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, last if self.mode == "LSTM" else last[0]

    def _fresh(self, x: Tensor) -> State:
        """The state at the start where none is given, each part (batch, width)."""
        hidden = x.new_zeros(x.shape[1], self.proj_size or self.hidden_size)
        return (hidden, x.new_zeros(x.shape[1], self.hidden_size)) if self.mode == "LSTM" else (hidden,)

    def _run(self, suffix: str, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One layer in one direction over (time, batch, in)."""
        hh, hr = self.get_submodule(f"hh{suffix}"), self._modules.get(f"hr{suffix}")
        gates = self.get_submodule(f"ih{suffix}")(x)
        times: Sequence[int] = range(len(x))
        times = times[::-1] if suffix.endswith("_reverse") else times
        outputs: dict[int, Tensor] = {}
        for time in times:
            state = self._step(gates[time], hh(state[0]), state)
            if hr is not None:
                state = (hr(state[0]), *state[1:])
            outputs[time] = state[0]
        return torch.stack([outputs[time] for time in range(len(x))]), state

    def _step(self, x: Tensor, h: Tensor, state: State) -> State:
        """The next state from what inputs and hidden state contribute to the gates."""
        raise NotImplementedError

    def _init_flat_weights(self) -> None:
        """Nothing to keep: the weights are read where they are."""

    def _update_flat_weights(self) -> None:
        """Nothing to keep."""

    def flatten_parameters(self) -> None:
        """Nothing to do: composed weights come one by one."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]


class OpenLSTM(OpenRecurrent, nn.LSTM):
    """`nn.LSTM`, opened (Hochreiter & Schmidhuber 1997; gates in the order input, forget, cell, output)."""

    twin = nn.LSTM

    def _step(self, x: Tensor, h: Tensor, state: State) -> State:
        i, f, g, o = (x + h).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class OpenGRU(OpenRecurrent, nn.GRU):
    """`nn.GRU`, opened (Cho et al. 2014, arXiv 1406.1078; gates in the order reset, update, new)."""

    twin = nn.GRU

    def _step(self, x: Tensor, h: Tensor, state: State) -> State:
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
        z = (xz + hz).sigmoid()
        new = (xn + (xr + hr).sigmoid() * hn).tanh()
        return ((1 - z) * new + z * state[0],)


class OpenRNN(OpenRecurrent, nn.RNN):
    """`nn.RNN`, opened (Elman 1990)."""

    twin = nn.RNN

    def _step(self, x: Tensor, h: Tensor, state: State) -> State:
        return ((x + h).tanh() if self.mode == "RNN_TANH" else (x + h).relu(),)
