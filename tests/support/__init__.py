"""Helpers of the tests."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
