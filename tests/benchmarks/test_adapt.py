"""The benchmark of adapting: slices that are adapted to and others, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.singlecoil.adapt import METHODS, PARTS, draw_site, table, write
from tests.support.files import write_scan


def test_slices_to_adapt_to_and_others_are_disjoint(tmp_path: Path) -> None:
    files = [write_scan(tmp_path / name, (5, 16, 64), seed=k) for k, name in enumerate(("a.h5", "b.h5"))]
    site = draw_site(files, 4)
    adapted, others = ([k.tobytes() for scan, _ in part for k in scan.kspace] for part in (site.adapted, site.others))
    assert (len(adapted), len(others)) == (4, 4) and not set(adapted) & set(others)
    for scan, mask in (*site.adapted, *site.others):
        assert len(scan.kspace) == len(scan.target) and mask.shape == (64,) and not mask.all()
    masks = {scan.name: mask for scan, mask in site.adapted}
    assert all(np.array_equal(mask, masks[scan.name]) for scan, mask in site.others)


def test_table_and_picture(tmp_path: Path) -> None:
    score = {method: {part: {"PSNR": 30.0, "SSIM": 0.8} for part in PARTS} for method in METHODS}
    better = {method: {part: {"PSNR": 30.5, "SSIM": 0.81} for part in PARTS} for method in METHODS}
    run = {
        "set": "knee", "name": "default", "before": score, "after": better, "start": 2.0, "best": 1.5, "best_step": 40,
        "step": 60, "seconds": 12.0, "checks": [[0, 2.0], [20, 1.7], [40, 1.5], [60, 1.6]],
    }  # fmt: skip
    write(tmp_path / "adapt.json", [run])
    row = (
        "| knee | default | others | hybrid | 30.00 | 30.50 | +0.50 | 0.8000 | 0.8100 | 2.00 to 1.50 | 40 of 60 | 12 |"
    )
    assert row in table([run]) and (tmp_path / "adapt.md").read_text() == table([run])
    assert json.loads((tmp_path / "adapt.json").read_text())["runs"] == [run]
    assert (tmp_path / "adapt.png").stat().st_size > 1000
