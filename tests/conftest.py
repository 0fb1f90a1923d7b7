"""Shared by all tests: real data where they lie, one thread, and single precision."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ["MRIHVAE_PRECISION"] = "float32"  # numbers are asserted: they must be the same on every processor


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Give the folder of real data; without the environment variable MRIHVAE_DATA the test is skipped."""
    if not os.environ.get("MRIHVAE_DATA"):
        pytest.skip("MRIHVAE_DATA is not set")
    return Path(os.environ["MRIHVAE_DATA"])
