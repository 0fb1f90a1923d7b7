"""What the record of a volume says of its bounds, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_bounds(row: Mapping[str, Any]) -> str:
    """Say the bounds of a volume in a sentence, from its record."""
    psnr, ssim, sure = row["psnr_at_least"], row["ssim_at_least"], f"{100 * row['level']:g} %"
    return f"PSNR at least {psnr:.1f} dB and SSIM at least {ssim:.3f}, each with {sure} confidence"


def explain_bounds(row: Mapping[str, Any]) -> str:
    """Say what the bounds of a volume promise, and for whom."""
    return (
        f"{describe_bounds(row)}: each holds for that share of new subjects, if their scans resemble those of "
        f"the calibration's {row['calibration_persons']} subjects (anatomy, scanner, mask)"
    )
