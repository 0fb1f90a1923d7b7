"""How well posterior samples know their error: coverage of intervals, and correlation of deviation with error.

    python -m benchmarks.singlecoil.calibration protocols/singlecoil_calibration.toml --data DIR

draws samples of the scans of a protocol and writes benchmarks/results/calibration.json, a table (.md) and a reliability
plot (.png) beside it. The central interval at level c is mean +/- z std with P(|N(0, 1)| < z) = c, of the mean and
deviation of `mrihvae.recon.volumes.sample_volume`; it should hold the target, whose noise that deviation counts in, in
a fraction c of the pixels inside the head. The correlation is Pearson's, of deviation with |error| over these pixels,
in each slice; the mean over slices is shown.

    python -m benchmarks.singlecoil.calibration protocols/singlecoil_calibration.toml --data DIR --fit

finds the factor on the samples' deviation (`InferenceSettings.spread`), beside each scan's own, at which 90 % intervals
hold 90 % of the pixels of training scans, a mean over slices, under the protocol's patterns, and writes
results/calibration_fit.json; benchmarks/training/publish.py puts it into the card of the weights, from where
`mrihvae reconstruct` and this take it. A higher temperature would widen samples, too, but at twice the deviation the
decoder makes noise of them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from scipy import ndimage  # type: ignore[import-untyped]
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.ceiling import WINDOW, amplitude_of, pixel_noise
from benchmarks.common.plots import reliability, save
from benchmarks.common.protocol import Protocol, add_options, label, read_protocol, scan_files, subset
from benchmarks.common.provenance import provenance
from benchmarks.singlecoil.contestants import Ours
from benchmarks.singlecoil.tune_classical import training_scans
from benchmarks.tables import calibration_table
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.io.fastmri import read_scan
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import Method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import sample_volume
from mrihvae.utils.files import atomic_write

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
INSIDE = 0.1  # of the 99th percentile: darker is outside the head
CHANCE = 0.7  # of the noise: what averages of noise alone hardly reach
FITTED = 0.9
RANGE = (0.2, 20.0)  # of factors
HALVINGS = 16


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        if options.samples < 2:
            raise InputError(f"--samples {options.samples}: a standard deviation takes at least 2")
        protocol, ours = read_protocol(options.protocol), Ours.load(options.checkpoint)
        (fit_and_write if options.fit else calibrate)(protocol, ours, options)
    except InputError as error:
        print(f"calibration: error: {error}", file=sys.stderr)
        return 2
    return 0


def calibrate(protocol: Protocol, ours: Ours, options: argparse.Namespace) -> None:
    """Measure coverage and correlation on the scans of a protocol, and write JSON, table and plot."""
    method = _method(ours, options)
    names = subset([scans.name for scans in protocol.scans], options.sets, "--sets:")
    rows = []
    for pattern in protocol.patterns:
        for scans in (scans for scans in protocol.scans if scans.name in names):
            files = scan_files(scans, options.data, options.work, options.limit or 0)
            found = []
            for file in tqdm(files, f"{scans.name}, {label(pattern)}"):
                found += list(slices_of(read_scan(file), pattern, method))
            rows.append({"set": scans.name, "pattern": label(pattern), **summary(found)})
    results = {**_provenance(ours, options, method), "levels": LEVELS, "calibration": rows}
    output = options.results / "calibration.json"
    _write_json(output, results)
    with atomic_write(output.with_suffix(".md")) as temporary:
        temporary.write_text(calibration_table(results))
    save(reliability(results), output.with_suffix(".png"))
    print(calibration_table(results))


def fit_and_write(protocol: Protocol, ours: Ours, options: argparse.Namespace) -> None:
    """Fit the spread on training scans, and write it."""
    scans = [scan for scan, _ in training_scans(options.data)][: options.limit]
    method = _method(ours, options)
    pairs = [(scan, pattern) for scan in scans for pattern in protocol.patterns]
    found = [one for scan, pattern in tqdm(pairs, "fitting") for one in slices_of(scan, pattern, method)]
    spread = bisect(lambda factor: coverage_of(found, factor), FITTED)
    results = {
        **_provenance(ours, options, method),
        "level": FITTED,
        "slices": len(scans),
        "spread": spread,
        "ratio": round(float(np.exp(np.mean([np.log(one["ratio"]) for one in found]))), 4),
        "coverage": {f"{factor:g}": round(coverage_of(found, factor), 4) for factor in (1.0, spread)},
    }
    _write_json(options.results / "calibration_fit.json", results)
    print(json.dumps(results, indent=1))


def coverage_of(found: list[dict[str, Any]], factor: float) -> float:
    """Compute which share of pixels intervals of `FITTED` hold if samples deviate `factor` times as much."""
    z = NormalDist().inv_cdf((1 + FITTED) / 2)
    held = [one["error"] <= z * np.sqrt(factor**2 * one["variance"] + one["noise"] ** 2) for one in found]
    return float(np.mean([one.mean() for one in held]))


def bisect(coverage_at: Callable[[float], float], wanted: float) -> float:
    """Find the factor in `RANGE`, by halving its logarithm, at which a growing coverage is `wanted`."""
    low, high = (math.log(end) for end in RANGE)
    if not coverage_at(RANGE[0]) < wanted < coverage_at(RANGE[1]):
        raise InputError(
            f"no factor from {RANGE[0]} to {RANGE[1]} covers {wanted:.0%}; the weights are not trained, or the noise is"
        )
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if coverage_at(math.exp(middle)) < wanted else (low, middle)
    return round(math.exp(0.5 * (low + high)), 3)


def slices_of(scan: Scan, pattern: Undersampling, method: Method) -> Iterator[dict[str, Any]]:
    """Sample a scan; for each slice with a head give its pixels, the covered ones at each level and the correlation."""
    if scan.target is None:
        raise InputError(f"{scan.name}: has no target to compare with; leave it out of the folder")
    posterior = sample_volume(scan, mask_of(scan, pattern), method)
    volumes = (scan.target, posterior.magnitude, posterior.std, posterior.samples, pixel_noise(scan))
    for target, mean, std, samples, noise in zip(*volumes, strict=True):
        inside = head_mask(target, noise)
        if inside.any():
            error = np.abs(target - mean)[inside]
            yield {
                "pixels": len(error),
                "covered": covered(error, std[inside]),
                "correlation": correlation(std[inside], error),
                "relative": [float(np.sqrt(np.mean(std[inside] ** 2))), float(np.sqrt(np.mean(error**2)))],
                "error": error,
                "variance": posterior.ratio**2 * samples.var(axis=0, ddof=1)[inside],
                "noise": posterior.noise,
                "ratio": posterior.ratio,
            }


def correlation(std: np.ndarray, error: np.ndarray) -> float:
    """Compute Pearson's correlation; 0 where one of the two does not vary."""
    return float(np.corrcoef(std, error)[0, 1]) if min(np.ptp(std), np.ptp(error)) > 0 else 0.0


def covered(error: np.ndarray, std: np.ndarray) -> list[int]:
    """Count the pixels whose |error| lies in the central interval, for each of `LEVELS`."""
    return [int(np.count_nonzero(error <= NormalDist().inv_cdf((1 + level) / 2) * std)) for level in LEVELS]


def head_mask(target: np.ndarray, noise: float) -> np.ndarray:
    """Mark the pixels of a magnitude image (h, w) that are inside the head: bool (h, w).

    Brighter than a tenth of the 99th percentile once the power of the noise is taken from local averages of squares,
    so that the floor of a noisy image is not bright; gaps are closed, holes filled, the largest part is kept, and what
    averaging has spread it is taken off.
    """
    bright = amplitude_of(target, noise**2) > max(INSIDE * np.percentile(target, 99), CHANCE * noise)
    size = max(1, round(0.02 * max(target.shape)))
    closed = ndimage.binary_closing(np.pad(bright, 2 * size), iterations=size)
    smooth = ndimage.binary_opening(ndimage.binary_fill_holes(closed), iterations=size)
    parts, count = ndimage.label(smooth)
    if count == 0:
        return np.zeros(target.shape, dtype=bool)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    inside = ndimage.binary_erosion(parts == largest, iterations=WINDOW // 2)
    return np.asarray(inside)[2 * size : -2 * size, 2 * size : -2 * size]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Pool slices: coverage over all pixels, and as a mean over slices; mean correlation; deviation over error."""
    if not found:
        raise InputError("no slice has a head in it; check the scans of the protocol")
    counts = np.array([one["covered"] for one in found])
    pixels = np.array([one["pixels"] for one in found])
    ratios = [np.log(one["relative"][0] / one["relative"][1]) for one in found]
    return {
        "slices": len(found),
        "pixels": int(pixels.sum()),
        "coverage": _by_level(counts.sum(axis=0) / pixels.sum()),
        "coverage_of_slices": _by_level((counts / pixels[:, None]).mean(axis=0)),
        "correlation": round(float(np.mean([one["correlation"] for one in found])), 4),
        "deviation_over_error": round(float(np.exp(np.mean(ratios))), 4),
    }


def _by_level(values: np.ndarray) -> dict[str, float]:
    return {f"{level:g}": round(float(value), 4) for level, value in zip(LEVELS, values)}


def _method(ours: Ours, options: argparse.Namespace) -> Method:
    chosen = {name: getattr(options, name) for name in ("temperature", "spread") if getattr(options, name) is not None}
    return make_method(options.method, ours.model, replace(ours.inference, **chosen), options.samples)


def _provenance(ours: Ours, options: argparse.Namespace, method: Method) -> dict[str, Any]:
    return {
        **provenance(options.protocol),
        "checkpoint": Path(options.checkpoint).name,
        "weights": ours.fingerprint,
        "method": method.name,
        "samples": method.samples,
        "temperature": method.inference.temperature,
        "spread": method.inference.spread,
    }


def _write_json(path: Path, results: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=HERE.parent / "protocols/singlecoil_calibration.toml")
    parser.add_argument("--fit", action="store_true", help="fit the spread on training scans instead")
    parser.add_argument("--temperature", type=float, help="the one in the weights' card, or 1, if left out")
    parser.add_argument("--spread", type=float, help="the same")
    parser.add_argument("--method", choices=("samples", "hybrid"), default="samples", help="hybrid refines each sample")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--sets", nargs="+", help="only these sets of scans, by name")
    parser.add_argument("--limit", type=int, help="at most this many files of each set; with --fit, this many scans")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
