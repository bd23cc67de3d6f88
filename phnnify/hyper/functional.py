"""Running a network with other tensors in place of its parameters: one set for a batch, or one per sample.

`torch.func.functional_call` underneath. A set per sample is vectorised by `torch.func.vmap`, which turns
convolutions into grouped ones and dense layers into batched products; each sample is seen as a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from phnnify.errors import ModelError, UsageError


def call_with(
    network: nn.Module,
    tensors: Mapping[tuple[str, ...], Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """`network(*args, **kwargs)` with other tensors in place of its parameters.

    Args:
        network: It is not changed, but for what its own forward changes (running statistics).
        tensors: By all the names that the parameter has there; each with an axis in front, of length 1 or
            with one tensor for each sample.
        args: Where there is one per sample, every tensor has the samples on axis 0, or an axis 0 of length 1.
        kwargs: The same.

    Raises:
        UsageError: the numbers of samples differ.
        ModelError: one per sample, and a normalisation in training mode mixes the samples of a batch.
    """
    names, values = list(tensors), list(tensors.values())
    samples = values[0].shape[0]
    if samples == 1:
        return _call(network, names, [value[0] for value in values], args, kwargs)
    _check_samples(args, kwargs, samples)
    _check_alone(network)
    leaves, layout = tree_flatten((args, kwargs))
    axes = [0 if _has_samples(leaf) else None for leaf in leaves]

    def one(mine: list[Tensor], inputs: list[Any]) -> Any:
        batches = [
            leaf if axis is None else leaf.unsqueeze(0) for leaf, axis in zip(inputs, axes, strict=True)
        ]
        output = _call(network, names, mine, *tree_unflatten(batches, layout))
        return tree_map(lambda leaf: leaf.squeeze(0) if isinstance(leaf, Tensor) else leaf, output)

    with sdpa_kernel(SDPBackend.MATH):  # for the fused kernels vmap would loop over the samples
        return vmap(one, in_dims=(0, axes), randomness="different")(values, leaves)


def _call(
    network: nn.Module,
    names: list[tuple[str, ...]],
    tensors: list[Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    named = {name: tensor for group, tensor in zip(names, tensors, strict=True) for name in group}
    return functional_call(network, named, args, kwargs, tie_weights=False)  # all tied names are there


def _has_samples(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] != 1


def _check_samples(args: tuple[Any, ...], kwargs: dict[str, Any], samples: int) -> None:
    for leaf in tree_leaves((args, kwargs)):
        if _has_samples(leaf) and leaf.shape[0] != samples:
            raise UsageError(
                f"the conditioning has rows for {samples} samples; an input has {leaf.shape[0]}",
                hint="axis 0 of every input is the batch; or give one conditioning for all",
            )


def _check_alone(network: nn.Module) -> None:
    for name, module in network.named_modules():
        batch = isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        instance = isinstance(module, _InstanceNorm) and module.training and module.track_running_stats
        if batch or instance:
            raise ModelError(
                f"{name or 'the network'} ({type(module).__name__}) takes statistics from the whole batch; "
                "with one conditioning per sample each sample runs alone",
                hint="give one conditioning for the batch, put that layer in eval mode, or use GroupNorm",
            )
