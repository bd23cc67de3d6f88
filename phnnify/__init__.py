"""Make a trained PyTorch network 1/n of its size with parameterized hypercomplex weights.

    import phnnify
    result = phnnify.convert(model, n=4)
    phnnify.save(result.model, "small.safetensors")
    model = phnnify.load("small.safetensors", model=Net())

Names are imported when they are first used, so that `phnnify --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from phnnify.algebra import Factors, Order, compose
    from phnnify.comparing.comparison import Comparison
    from phnnify.comparing.contest import compare
    from phnnify.distilling.augment import Augmentation
    from phnnify.distilling.recipe import Recipe, RunFiles
    from phnnify.errors import PhnnifyError
    from phnnify.export import export_onnx
    from phnnify.factorization import factorize
    from phnnify.forms import set_form_
    from phnnify.hyper.network import HyperNetwork, hypernetize
    from phnnify.layers import (
        PHMConv1d,
        PHMConv2d,
        PHMConv3d,
        PHMConvTranspose1d,
        PHMConvTranspose2d,
        PHMConvTranspose3d,
        PHMLinear,
    )
    from phnnify.pipeline import Result, convert, distill, inspect
    from phnnify.quantizing.quantized import export_quantized
    from phnnify.store import from_pretrained, load, save

_HOMES = {
    "Augmentation": "distilling.augment",
    "Comparison": "comparing.comparison",
    "Factors": "algebra",
    "HyperNetwork": "hyper.network",
    "Order": "algebra",
    "PHMConv1d": "layers",
    "PHMConv2d": "layers",
    "PHMConv3d": "layers",
    "PHMConvTranspose1d": "layers",
    "PHMConvTranspose2d": "layers",
    "PHMConvTranspose3d": "layers",
    "PHMLinear": "layers",
    "PhnnifyError": "errors",
    "Recipe": "distilling.recipe",
    "Result": "pipeline",
    "RunFiles": "distilling.recipe",
    "compare": "comparing.contest",
    "compose": "algebra",
    "convert": "pipeline",
    "distill": "pipeline",
    "export_onnx": "export",
    "export_quantized": "quantizing.quantized",
    "factorize": "factorization",
    "from_pretrained": "store",
    "hypernetize": "hyper.network",
    "inspect": "pipeline",
    "load": "store",
    "save": "store",
    "set_form_": "forms",
}

__all__ = [
    "Augmentation",
    "Comparison",
    "Factors",
    "HyperNetwork",
    "Order",
    "PHMConv1d",
    "PHMConv2d",
    "PHMConv3d",
    "PHMConvTranspose1d",
    "PHMConvTranspose2d",
    "PHMConvTranspose3d",
    "PHMLinear",
    "PhnnifyError",
    "Recipe",
    "Result",
    "RunFiles",
    "__version__",
    "compare",
    "compose",
    "convert",
    "distill",
    "export_onnx",
    "export_quantized",
    "factorize",
    "from_pretrained",
    "hypernetize",
    "inspect",
    "load",
    "save",
    "set_form_",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phnnify' has no attribute {name!r}")
    return getattr(import_module(f"phnnify.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
