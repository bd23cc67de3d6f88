"""The options that commands share: how each is written, and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ExportForm = Literal["auto", "factored", "folded", "dense"]  # `phnnify.forms` has it too, but needs torch

ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A .safetensors, .pt, .pth, .bin or .pt2 file, told by its contents; a Hugging Face folder "
        "(config.json and .safetensors); or timm:NAME or torchvision:NAME, with weights from its cache.",
    ),
]
N = Annotated[
    int | None,
    typer.Option(
        "--n",
        min=2,
        help="Each converted weight keeps about 1/N of its parameters: 4 by default, or the dimension of "
        "--algebra.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Where the network comes from when MODEL holds only weights: file.py:callable or "
        "package.module:callable, called without arguments; or timm:NAME or torchvision:NAME.",
        metavar="REF",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Permit code stored inside MODEL to run (pickled classes, Python files of a folder)."
    ),
]
InputSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SPEC",
        help="Example input, repeatable: 1x3x32x32, int64:1x128, name=float32:1x80x100; a leading ? marks "
        "an axis whose size may vary (axis 0 always may; in ONNX and .pt2 files, lengths of sequences too).",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Convert only layers with such names, small ones too; repeatable."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Keep layers with such names; repeatable.")
]
LowRank = Annotated[
    str | None,
    typer.Option(
        metavar="auto|off|SHARE",
        help="auto (the default with --data): per weight, at the same size, the blocks, terms and rank that "
        "fit best. off: order N with N terms, as in the papers. SHARE (0 to 1): so much for a low-rank term.",
    ),
]
Embeddings = Annotated[
    bool,
    typer.Option("--embeddings", help="Convert embedding tables too, and the layers tied to them."),
]
AlgebraName = Annotated[
    str | None,
    typer.Option(
        "--algebra",
        metavar="NAME|FILE",
        help="A fixed algebra for all weights instead of learned ones: real, complex, split-complex, "
        "quaternion, tessarine, octonion, cyclic (any N), or a file (.json, .toml, .npy) with constants "
        "(n, n, n): [r][i][j] is the part of e_i in e_r·e_j.",
    ),
]
ShareAlgebra = Annotated[
    bool, typer.Option("--share-algebra", help="All weights of the same order learn one algebra together.")
]
Init = Annotated[
    str,
    typer.Option(
        metavar="fit|fresh",
        help="fit: weights near those of MODEL. fresh: all parameters drawn anew, to be trained from "
        "scratch, in the papers' form; small weights are converted too.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Instead of --n: the size of the whole network, 25% (of its parameters) or 1.5MB. Each weight "
        "gets its own part. Needs --data.",
    ),
]
MinShare = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Keep weights with less than this percentage of the parameters: 0.5 by default, 0 with --init "
        "fresh.",
    ),
]
Reports = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", help="Write the report: .json, .md or .html; repeatable."),
]
FormOption = Annotated[
    ExportForm,
    typer.Option(
        "--form",
        help="How the ONNX file holds converted weights. factored: the graph multiplies with the factors. "
        "folded: the weights are multiplied out once, when the file is loaded. auto: whichever is faster, "
        "layer by layer, for the size of the example input. dense: multiplied out in the file.",
    ),
]
Opset = Annotated[int, typer.Option(min=18, help="The ONNX operator set.")]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="int8|fp16",
        help="Write the ONNX file in smaller numbers. int8 with --data: all layers compute in whole numbers, "
        "their ranges taken on these inputs; without: matrix products only, the ranges found at each call.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="Inputs to fit the weights to, without labels: .npz, .safetensors or .pt with x, a folder or "
        ".zip of images (class/name.jpg), or file.py:callable, which gives batches.",
    ),
]
Samples = Annotated[int, typer.Option(min=1, help="How many inputs of --data are used, drawn with the seed.")]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="REF",
        help="Data, best with labels (y, or the images' classes), on which original and converted are "
        "compared.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Distill for so many steps (1000 by default).")]
Epochs = Annotated[
    float | None, typer.Option(metavar="FLOAT", help="Distill until all of --data was seen so often.")
]
Minutes = Annotated[
    float | None, typer.Option(metavar="FLOAT", help="Distill for so long; cannot be repeated exactly.")
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Samples in a batch, for each process.")]
Optimizer = Annotated[str, typer.Option(metavar="adamw|sgd", help="What moves the weights.")]
Rate = Annotated[
    float | None,
    typer.Option(metavar="FLOAT", help="The highest learning rate; by default a short test finds it."),
]
Loss = Annotated[
    str,
    typer.Option(
        metavar="auto|kl|mse",
        help="kl: soft targets, for classes. mse: relative squared error, for values. auto: as the "
        "answer's shape and the labels say.",
    ),
]
Temperature = Annotated[float | None, typer.Option(metavar="FLOAT", help="Of the soft targets.")]
Labels = Annotated[
    float | None, typer.Option(metavar="FLOAT", help="The weight of true labels, from 0 to 1.")
]
Hidden = Annotated[
    float | None,
    typer.Option(metavar="FLOAT", help="The weight of the errors at the converted layers' outputs."),
]
Augment = Annotated[
    str,
    typer.Option(metavar="LIST", help="What is done to images: flip, crop, mixup, or several."),
]
Precision = Annotated[
    str, typer.Option(metavar="auto|fp32|bf16", help="auto: bf16 where the device has it in hardware.")
]
CheckpointMinutes = Annotated[
    float, typer.Option(metavar="FLOAT", min=0, help="How often the state of the run is saved.")
]
LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Write a line of JSON for each 1/200 of the run.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a distillation that was stopped, from OUTPUT.checkpoint."),
]
Size = Annotated[int | None, typer.Option(min=1, help="Scale images to this height and width.")]
Mean = Annotated[
    str, typer.Option(metavar="A,B,C", help="Per channel, of values in 0 to 1: x becomes (x - mean) / std.")
]
Std = Annotated[str, typer.Option(metavar="A,B,C", help="See --mean.")]
Seed = Annotated[int, typer.Option(help="For everything random.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: cpu, cuda, cuda:1. By default the cpu, and for distillation what Accelerate "
        "finds."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout, and nothing else.")]
