"""A checkpoint larger than the memory, converted tensor by tensor: peak memory and time.

    python examples/benchmarks/shards.py [GIGABYTES] [WORKERS] [FOLDER]

Writes a synthetic Llama checkpoint of that apparent size (20; in bfloat16, one file for each tensor, random
numbers of which a block is repeated) into FOLDER (by default that for temporary files), runs
`phnnify convert --stream` on it at n = 4 as a user would, prints what that took, looks whether all numbers
written are finite, opens the result in a fresh process, lets it answer four tokens, and removes everything.
Needs a third more disk than GIGABYTES, and half as much memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

GIGABYTE = 10**9
BLOCK = 2**22  # random numbers, repeated
OPEN = """
import resource, sys, time, torch, phnnify
began = time.monotonic()
model = phnnify.from_pretrained(sys.argv[1])
opened = time.monotonic()
with torch.no_grad():
    assert model(torch.tensor([[1, 2, 3, 4]])).logits.isfinite().all()
print(opened - began, time.monotonic() - opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def network(gigabytes: float) -> tuple[LlamaConfig, nn.Module]:
    """A Llama of at least that size in bfloat16, without data; wide ones have the widths of Llama 2 70B."""
    width, inner = (8192, 28672) if gigabytes >= 5 else (512, 1792)
    layer = 2 * (4 * width * width + 3 * width * inner)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_attention_heads=width // 128, vocab_size=32000,
        num_hidden_layers=max(1, -int(-gigabytes * GIGABYTE // layer)), architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        return config, LlamaForCausalLM(config)


def write(folder: Path, gigabytes: float) -> int:
    """Write the checkpoint; gives the bytes of its largest tensor."""
    config, model = network(gigabytes)
    config.save_pretrained(folder)
    noise = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    places = {}
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        values = noise.repeat(-(-size // BLOCK))[:size].view(parameter.shape)
        places[name] = f"{name}.safetensors"
        save_file({name: values}, folder / places[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return max(2 * parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Write, convert, look, and remove."""
    given = sys.argv[1:]
    gigabytes, workers = float(given[0]) if given else 20.0, int(given[1]) if len(given) > 1 else 2
    place = given[2] if len(given) > 2 else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        original, small = Path(folder) / "net", Path(folder) / "small"
        original.mkdir()
        largest = write(original, gigabytes)
        size = sum(file.stat().st_size for file in original.glob("*.safetensors"))
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "phnnify", "convert", str(original), "--stream", "--workers", str(workers),
             "--n", "4", "--min-share", "0", "-o", str(small), "--quiet"], check=True,
        )  # fmt: skip
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        files = sorted(small.glob("*.safetensors"))
        tensors = 0
        for path in files:
            with safe_open(path, framework="pt") as file:
                tensors += sum(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118
        written = sum(file.stat().st_size for file in files)
        done = subprocess.run([sys.executable, "-c", OPEN, small], check=True, capture_output=True, text=True)
        opening, answering, peak_open = map(float, done.stdout.split())
        opened = f"{opening:.0f} s, {answering:.0f} s, {peak_open / GIGABYTE:.2f} GB"
        print("| checkpoint | largest tensor | processes | largest process | time | written |", end="")
        print(" opening, four tokens, memory |\n|---|---|---|---|---|---|---|")
        read, most, held, left = (f"{count / GIGABYTE:.2f} GB" for count in (size, largest, peak, written))
        result = f"{left} in {len(files)} files, {tensors} finite tensors"
        print(f"| {read} | {most} | {workers} | {held} | {seconds:.0f} s | {result} | {opened} |")


if __name__ == "__main__":
    main()
