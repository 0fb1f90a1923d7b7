"""How far the hybrid depends on what is arbitrary about a scan, and what blending towards total variation does.

    python -m benchmarks.singlecoil.trust --data DIR

reconstructs the middle slice of each scan of `ulf_singlecoil/val` at 4x and 8x, random masks.

- Arbitrary: a global phase, the unit of k-space, conjugated k-space, mirrored images, images shifted by whole pixels,
  and k-space whose peak lies off the center. Each is undone in the result; a row gives the difference from the plain
  result in dB below the image (20 log10(|x| / |x - x'|)), the least over the scans, and the mean change of PSNR.
- Blending: PSNR of the whole scan with `tv_blend` less that without, and for the slice with white phase less that of
  total variation.

Writes trust.json and trust.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_scan
from mrihvae.io.formats import list_files
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import sampling_pattern
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import Method
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.utils.files import atomic_write

ACCELERATIONS = (4, 8)
Change = Callable[[np.ndarray], np.ndarray]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--limit", type=int, help="only the first scans, to try it")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("--data: give the data directory, or set MRIHVAE_DATA")
    try:
        files = list_files(options.data / "ulf_singlecoil" / "val", (".h5",), "no scan", "check --data")
        scans = [read_scan(file) for file in files][: options.limit]
    except InputError as error:
        print(f"trust: error: {error}", file=sys.stderr)
        return 2
    results = study(scans)
    with atomic_write(options.results / "trust.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with atomic_write(options.results / "trust.md") as temporary:
        temporary.write_text(table(results))
    print(table(results))
    return 0


def study(scans: list[Scan]) -> dict[str, Any]:
    """Measure both, on the scans: rows of `arbitrary` and of `blending`."""
    hybrid, plain, tv = load_method(), load_method(tv_blend=False), load_method("tv")
    arbitrary: dict[str, list[tuple[float, float]]] = {name: [] for name in changes((2, 2))}
    blending = []
    jobs = [(scan, acceleration) for scan in scans for acceleration in ACCELERATIONS]
    for scan, acceleration in tqdm(jobs, leave=False):
        lines = _lines(scan, acceleration)
        for name, pair in _differences(scan.single_slice(len(scan.kspace) // 2), lines, plain).items():
            arbitrary[name].append(pair)
        with_it, without = (reconstruct_scan(scan, lines, method) for method in (hybrid, plain))
        row = {"scan": scan.name, "acceleration": acceleration, "tv_shares": with_it.tv_shares}
        row["gain"] = _psnr(with_it.magnitude, scan.target) - _psnr(without.magnitude, scan.target)
        white = with_white_phase(scan.single_slice(len(scan.kspace) // 2))
        truth = ifft2c(torch.from_numpy(white.kspace)).abs().numpy()
        over = [_psnr(reconstruct_scan(white, lines, method).magnitude, truth) for method in (hybrid, plain, tv)]
        blending.append({**row, "white_over_tv": over[0] - over[2], "white_over_tv_without": over[1] - over[2]})
    return {
        "arbitrary": {
            name: {"least_db": min(db for db, _ in pairs), "psnr_change": float(np.mean([gain for _, gain in pairs]))}
            for name, pairs in arbitrary.items()
        },
        "blending": blending,
    }


def changes(shape: tuple[int, int]) -> dict[str, tuple[Change, Change, Change]]:
    """Return changes of k-space (slices, H, W), by name, that of its mask (W,), and what undoes it in images."""
    height, width = shape

    def mirrored(axis: int) -> Change:
        return lambda array: np.roll(np.flip(array, axis), 1 - array.shape[axis] % 2, axis)

    def rotated(array: np.ndarray) -> np.ndarray:
        return mirrored(-1)(mirrored(-2)(array))

    def ramp(pixels: int, size: int) -> np.ndarray:
        return np.exp(-2j * np.pi * pixels * (np.arange(size) - size // 2) / size).astype(np.complex64)

    same: Change = lambda array: array  # noqa: E731
    return {
        "global phase of 1 radian": (lambda k: k * np.complex64(np.exp(1j)), same, same),
        "unit, 1e-12": (lambda k: k * np.float32(1e-12), same, lambda x: x * np.float32(1e12)),
        "k-space conjugated": (np.conj, same, rotated),
        "image mirrored along H": (mirrored(-2), same, mirrored(-2)),
        "image mirrored along W": (mirrored(-1), mirrored(-1), mirrored(-1)),
        "image shifted by 3 pixels along H": (
            lambda k: k * ramp(3, height)[:, None], same, lambda x: np.roll(x, -3, -2)
        ),
        "image shifted by 3 pixels along W": (lambda k: k * ramp(3, width), same, lambda x: np.roll(x, -3, -1)),
        "peak of k-space 8 samples off along H": (lambda k: np.roll(k, 8, -2), same, same),
        "peak of k-space 5 samples off along W": (lambda k: np.roll(k, 5, -1), lambda m: np.roll(m, 5, -1), same),
    }  # fmt: skip


def with_white_phase(scan: Scan) -> Scan:
    """Return a scan whose image has a random phase in every pixel."""
    image = ifft2c(torch.from_numpy(np.asarray(scan.kspace)))
    angle = 2 * torch.pi * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    return replace(scan, kspace=fft2c(image * torch.polar(torch.ones_like(angle), angle)).numpy(), target=None)


def table(results: dict[str, Any]) -> str:
    """Lay out the results as Markdown."""
    lines = ["| changed | dB below the image, least | PSNR, mean change in dB |", "|---|--:|--:|"]
    lines += [
        f"| {name} | {row['least_db']:.1f} | {row['psnr_change']:+.3f} |" for name, row in results["arbitrary"].items()
    ]
    lines += ["", "| scan | R | gain of blending, dB | white phase: over TV, dB | without |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row['scan']} | {row['acceleration']} | {row['gain']:+.3f} | {row['white_over_tv']:+.2f} | "
        f"{row['white_over_tv_without']:+.2f} |"
        for row in results["blending"]
    ]
    return "\n".join(lines) + "\n"


def _differences(scan: Scan, lines: np.ndarray, method: Method) -> dict[str, tuple[float, float]]:
    """Compute, by change, by how many dB the difference lies below the image, and the change of PSNR."""
    usual = reconstruct_scan(scan, lines, method).magnitude.astype(np.float64)
    found = {}
    for name, (change, change_mask, undo) in changes(scan.kspace.shape[-2:]).items():
        kspace = np.ascontiguousarray(change(np.asarray(scan.kspace)), np.complex64)
        other = reconstruct_scan(replace(scan, kspace=kspace), change_mask(lines), method).magnitude
        image = undo(other).astype(np.float64)
        difference = np.linalg.norm(image - usual) / np.linalg.norm(usual)
        decibels = float(-20 * np.log10(max(difference, 1e-10)))
        found[name] = (decibels, _psnr(image, scan.target) - _psnr(usual, scan.target))
    return found


def _lines(scan: Scan, acceleration: int) -> np.ndarray:
    shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
    return sampling_pattern("random", shape, acceleration, 0.32 / acceleration, seed=0)


def _psnr(image: np.ndarray, target: np.ndarray | None) -> float:
    assert target is not None  # all of these scans have one
    return float(20 * np.log10(target.max()) - 10 * np.log10(np.mean((image - target) ** 2)))


if __name__ == "__main__":
    sys.exit(main())
