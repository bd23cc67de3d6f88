"""Where the tables keep their finished cells, so that a script resumes: delete a line to measure it anew."""

from __future__ import annotations

import os
from pathlib import Path


def kept_in(name: str) -> Path:
    """A file in `results/` beside the scripts, or in the folder that $PHNNIFY_RESULTS names."""
    return Path(os.environ.get("PHNNIFY_RESULTS", Path(__file__).parent / "results")) / name
