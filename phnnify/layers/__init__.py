"""PHM layers: drop-in replacements of torch's dense and convolutional layers, and of its embedding tables.

Each holds the factors of its weight instead of the weight:

    W = Σ_r A_r ⊗ S_r + U V,    A: (terms, n_out, n_in),    S: (terms, out/n_out, in/n_in, *kernel)

with U (out, rank) and V (rank, in, *kernel) where there is a low-rank term

(`phnnify.algebra`; PHM, arXiv 2102.08597 for linear layers, PHNNs, arXiv 2110.04176 for convolutions).
For a convolution `in` is in_channels/groups. A transposed convolution stores its dense weight as
(in, out/groups, *kernel); its factors describe the weight with the first two axes swapped.

Three ways to run, by kind:

- Linear, and convolutions with a kernel of size 1 and one group, multiply with the factors
  (`products.multiply`), unless that takes many times the multiplications of W itself, or they learn from so
  many rows at once that composing W is nothing beside the product with it.
- A convolution of one group with nothing but a low-rank term is two: a thin one with V, then one with U.
- Everything else composes W, which is cheap beside the convolution itself, and hands it to the
  forward of its dense twin, so that every constructor field means exactly what it means in torch. In eval
  mode the composed weight is kept until a factor changes, the module moves, or train mode returns. (Writes
  through `factor.data` are invisible to torch's version counter, and so to this cache.)
"""

from phnnify.layers.base import PHMLayer
from phnnify.layers.conv import (
    PHMConv1d,
    PHMConv2d,
    PHMConv3d,
    PHMConvTranspose1d,
    PHMConvTranspose2d,
    PHMConvTranspose3d,
)
from phnnify.layers.embedding import PHMEmbedding
from phnnify.layers.linear import PHMLinear

__all__ = [
    "PHMConv1d",
    "PHMConv2d",
    "PHMConv3d",
    "PHMConvTranspose1d",
    "PHMConvTranspose2d",
    "PHMConvTranspose3d",
    "PHMEmbedding",
    "PHMLayer",
    "PHMLinear",
]
