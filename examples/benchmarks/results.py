"""What the scripts that print tables share: where finished cells are kept, and on how many threads they run.

A script resumes where it stopped; delete a line of its file to measure that cell anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch


def kept_in(name: str) -> Path:
    """A file in `results/` beside the scripts, or in the folder that $PHNNIFY_RESULTS names."""
    return Path(os.environ.get("PHNNIFY_RESULTS", Path(__file__).parent / "results")) / name


def use_two_threads() -> None:
    """Run on 2 threads, or on as many as $OMP_NUM_THREADS says: where others use the machine, on one."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
