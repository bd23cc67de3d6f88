"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from phnnify.batches import Batch
from tests.survey_network import Net, inputs, network

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, also in commands that tests run
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of trained networks and data; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("PHNNIFY_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
    if not (folder / "nets.py").is_file():
        pytest.skip(f"the trained networks are not here ({folder}); PHNNIFY_ASSETS names another folder")
    return folder


@pytest.fixture
def model() -> Net:
    """A network with every kind of layer that is fitted to data."""
    return network()


@pytest.fixture
def batches() -> list[Batch]:
    """Inputs for it."""
    return inputs()
