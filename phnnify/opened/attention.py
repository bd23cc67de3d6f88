"""Multi-head attention whose projections are Linear layers of its own.

`nn.MultiheadAttention` holds its input projections as one bare parameter and reads the weight of `out_proj`
from outside; nothing there can be watched, fitted or replaced as a layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify.opened.linear import filled, linear_of, parameter_like

PARTS = ("q_proj", "k_proj", "v_proj")
"""The layers that an input projection is cut into."""


class OpenAttention(nn.MultiheadAttention):
    """What `nn.MultiheadAttention` computes, with its arguments and results (Vaswani et al. 2017, 3.2.2).

    The projections are `in_proj` (embed_dim → 3·embed_dim), used as a layer where query, key and value are
    the same tensor, or `q_proj`, `k_proj`, `v_proj` where they are made to be separate; and `out_proj`. Where
    `in_proj` meets different tensors all the same, the parts of its weight are read from outside.

    torch's fused fast path, which reads weights from outside, is not taken.
    """

    in_proj: nn.Module
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module

    @classmethod
    def from_closed(cls, closed: nn.MultiheadAttention, *, separate: bool = False) -> OpenAttention:
        """The opened twin; it shares all parameters that need not be cut.

        Args:
            closed: It is not changed.
            separate: Cut `in_proj_weight` into three layers, also where all three have the same width.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        for name in ("embed_dim", "kdim", "vdim", "num_heads", "dropout", "batch_first", "head_dim"):
            setattr(layer, name, getattr(closed, name))
        layer.add_zero_attn = closed.add_zero_attn
        layer._qkv_same_embed_dim = False  # keeps the layers around from taking their fast path
        for name in ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            layer.register_parameter(name, None)
        layer.bias_k, layer.bias_v = closed.bias_k, closed.bias_v
        weight, bias = closed.in_proj_weight, closed.in_proj_bias
        if weight is not None and not separate:
            layer.in_proj = linear_of(weight, bias, parts=3)
        else:
            parts: Any = (
                (closed.q_proj_weight, closed.k_proj_weight, closed.v_proj_weight)
                if weight is None
                else _cut(weight)
            )
            biases: Any = (None,) * 3 if bias is None else _cut(bias)
            layer.q_proj, layer.k_proj, layer.v_proj = map(linear_of, parts, biases)
        output: Any = closed.out_proj
        layer.out_proj = linear_of(output.weight, output.bias)  # type: ignore[assignment]
        return layer.train(closed.training)

    def to_closed(self) -> nn.MultiheadAttention:
        """The `nn.MultiheadAttention` of these weights, composed where need be; inverse of `from_closed`."""
        inner: dict[str, Any] = dict(self.named_children())
        has_bias, has_ends = inner["out_proj"].bias is not None, self.bias_k is not None
        closed = nn.MultiheadAttention(
            self.embed_dim, self.num_heads, self.dropout, has_bias, has_ends, self.add_zero_attn, self.kdim,
            self.vdim, self.batch_first, dtype=inner["out_proj"].weight.dtype, device="meta",
        )  # fmt: skip
        parts = [inner[name] for name in ("in_proj", *PARTS) if name in inner]
        state = {"out_proj.weight": inner["out_proj"].weight}
        if closed.in_proj_weight is not None:
            state["in_proj_weight"] = torch.cat([part.weight for part in parts])
        else:
            state |= {f"{n}_proj_weight": part.weight for n, part in zip("qkv", parts, strict=True)}
        if has_bias:
            state["in_proj_bias"] = torch.cat([part.bias for part in parts])
            state["out_proj.bias"] = inner["out_proj"].bias
        if self.bias_k is not None and self.bias_v is not None:
            state |= {"bias_k": self.bias_k, "bias_v": self.bias_v}
        return filled(closed, state).train(self.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments, shapes and results are those of `nn.MultiheadAttention.forward`.

        Raises:
            RuntimeError: `is_causal` without `attn_mask`, or a mask of another shape.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, which is missing")
        batched = query.dim() == 3
        q, k, v = self._projected(query, key, value)
        if not batched:
            q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self._mask(attn_mask, key_padding_mask, q.shape[0], q.dtype)
        k, v, mask = self._extended(k, v, mask)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        out, weights = self._attend(q, k, v, mask, causal, need_weights)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if "q_proj" in self._modules:
            return self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if query is key and key is value:
            return tuple(self.in_proj(query).chunk(3, -1))
        weights = self.in_proj.weight.chunk(3)  # type: ignore[operator]
        biases: Any = (None,) * 3 if self.in_proj.bias is None else self.in_proj.bias.chunk(3)  # type: ignore[operator]
        return tuple(
            F.linear(x, *pair) for x, *pair in zip((query, key, value), weights, biases, strict=True)
        )

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, length, embed_dim) as (batch, heads, length, head_dim)."""
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(
        self, mask: Tensor | None, padding: Tensor | None, batch: int, dtype: torch.dtype
    ) -> Tensor | None:
        """What is added to the scores: (batch or 1, heads or 1, targets or 1, sources)."""
        if mask is not None:
            mask = _added(mask, dtype)
            mask = mask.view(batch, self.num_heads, *mask.shape[1:]) if mask.dim() == 3 else mask[None, None]
        if padding is None:
            return mask
        padding = _added(padding, dtype)
        padding = padding[None, None, None] if padding.dim() == 1 else padding[:, None, None]
        return padding if mask is None else mask + padding

    def _extended(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """With the learned and the zero source position at the end, where the layer has them."""
        ends = []
        if self.bias_k is not None and self.bias_v is not None:
            ends.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            ends.append((k.new_zeros(1, 1, k.shape[-1]),) * 2)
        for end_k, end_v in ends:
            k = torch.cat([k, end_k.expand(k.shape[0], -1, -1)], 1)
            v = torch.cat([v, end_v.expand(v.shape[0], -1, -1)], 1)
        return k, v, F.pad(mask, (0, len(ends))) if mask is not None and ends else mask

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = q @ k.mT / math.sqrt(self.head_dim)
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights


def is_joint(module: nn.Module) -> bool:
    """Whether it is an opened attention with one layer for all three input projections."""
    return isinstance(module, OpenAttention) and "in_proj" in module._modules


def _cut(parameter: nn.Parameter) -> list[nn.Parameter]:
    return [parameter_like(parameter, part) for part in parameter.chunk(3)]


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what it adds to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
