"""What a network costs in a process of its own: the time until its first answer, and the memory that takes.

    peak memory = highest resident size while it is read and called once − resident size before

Python, torch and ONNX Runtime are in memory before, so that they count for none. The network is then read
twice more, and the time is the median: the first time also pays for what happens once in a process.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from phnnify.errors import ModelError

if TYPE_CHECKING:
    from phnnify.inputs import InputSpec

_READINGS = 3
_LIMIT = 900  # seconds


@dataclass(frozen=True)
class Footprint:
    """What a fresh process needs.

    Attributes:
        seconds: To read the network and answer once.
        peak_bytes: Memory at the height of it; None where the system does not tell.
    """

    seconds: float
    peak_bytes: int | None


def measure_footprint(
    path: Path,
    inputs: Sequence[InputSpec],
    *,
    arch: str | None = None,
    trust: bool = False,
    threads: int = 1,
    batch: int = 1,
    seed: int = 0,
) -> Footprint:
    """Read a file in a fresh process and call it once, on random inputs.

    Args:
        path: What `candidates.read_candidate` reads.
        inputs: What the network takes.
        arch: As there.
        trust: As there.
        threads: As there.
        batch: The size of axis 0.
        seed: For the inputs.

    Raises:
        ModelError: it fails there, or takes more than 15 minutes.
    """
    asked = {
        "path": str(path), "arch": arch, "trust": trust, "threads": threads, "batch": batch, "seed": seed,
        "inputs": [(str(spec), spec.high) for spec in inputs],
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "phnnify.comparing.probe"],
            input=json.dumps(asked), capture_output=True, text=True, timeout=_LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path} takes more than {_LIMIT} seconds in a process of its own") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"{path} fails in a process of its own: {why[:240]}")
    return Footprint(**json.loads(done.stdout))


def _answer(
    path: str, arch: str | None, trust: bool, threads: int, batch: int, seed: int, inputs: list[Any]
) -> Footprint:
    """In the fresh process."""
    import onnxruntime  # noqa: F401 (so that it is there before)
    import torch

    from phnnify.comparing.candidates import read_candidate
    from phnnify.inputs import InputSpec, random_example
    from phnnify.measure import forward

    torch.set_num_threads(threads)
    specs = [replace(InputSpec.parse(text), high=high) for text, high in inputs]
    seconds: list[float] = []
    before, _ = _memory()
    peak = None
    for _ in range(_READINGS):
        start = time.perf_counter()
        network = read_candidate(Path(path), arch=arch, trust=trust, threads=threads).network
        forward(network, random_example(specs, network, seed=seed, batch=batch))
        seconds.append(time.perf_counter() - start)
        if peak is None:
            _, peak = _memory()
    return Footprint(median(seconds), None if before is None or peak is None else max(0, peak - before))


def _memory() -> tuple[int | None, int | None]:
    """The resident size of this process now, and the highest so far, in bytes.

    From /proc where there is one: `ru_maxrss` of a process begins with the size of the one that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmRSS" in lines and "VmHWM" in lines:
            now, highest = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
            return now, highest
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        highest *= 1 if sys.platform == "darwin" else 1024
        return highest, highest
    return None, None


def main() -> None:
    """Read what is asked from stdin, and print the footprint; what the network's own code prints is talk."""
    asked: dict[str, Any] = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        found = _answer(**asked)
    json.dump(asdict(found), sys.stdout)


if __name__ == "__main__":
    main()
