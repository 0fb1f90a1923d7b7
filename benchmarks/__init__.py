"""Benchmarks, studies and training of mrihvae: `python -m benchmarks.GROUP.NAME`, from the root of a checkout."""

from pathlib import Path

HERE = Path(__file__).parent
