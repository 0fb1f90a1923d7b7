"""Uncertainty with a guarantee: the calibration of weights on training persons, and what it holds on others.

    python -m benchmarks.singlecoil.guarantee protocols/singlecoil_calibration.toml --data DIR --fit

fits the calibration of `--checkpoint` on persons of the training folders under the patterns of a protocol, and writes
it beside the weights, where `mrihvae reconstruct --samples` finds it (`--output` writes it elsewhere). About 20 CPU
minutes; what was measured stays in `--work`, from which a further call resumes, also after `--limit`.

    python -m benchmarks.singlecoil.guarantee protocols/singlecoil_calibration.toml --data DIR

measures the scans of the protocol, which are of other persons, and writes benchmarks/results/guarantee.json, a table
(.md) and a picture (.png): coverage of 90 % intervals inside the object, how many bounds hold, Spearman's correlation
of the RMSE of blocks with maps, and the area between sparsification curves over that of a constant map. `--unlike`
adds anatomies that no calibration scan shows. `--picture FILE.h5` draws a slice of a scan, its error and the map at the
protocol's last pattern instead.

    python -m benchmarks.singlecoil.guarantee protocols/multicoil.toml --data DIR --checkpoint multicoil --fit

does the same for several coils, on simulated scans of 4, 8 and 16 coils; without --fit, it measures the scans of that
protocol, and writes benchmarks/results/guarantee_multicoil.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.plots import save
from benchmarks.common.protocol import METHODS, Protocol, ScanSet, add_options, label, read_protocol, scan_files, spread
from benchmarks.multicoil.tables import LABELS as COIL_METHODS
from benchmarks.tables import guarantee_table
from mrihvae import __version__
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.calibration import CalibrationScan, fit_calibration
from mrihvae.evaluation.calibration_scans import measure_scans
from mrihvae.evaluation.judgment import MAPS, REMOVED, Judgment, judge_scan
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.calibration import (
    ONE_COIL,
    SEVERAL_COILS,
    Calibration,
    calibration_path,
    load_calibration,
    save_calibration,
)
from mrihvae.io.fastmri import read_scan
from mrihvae.model.shipped import find_weights
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_scan
from mrihvae.utils.files import atomic_write

SAMPLES = 4
TRAINING = {  # by number of coils; several persons in a file of pictures, one in a volume
    ONE_COIL: (
        ScanSet("raw 0.055 T", "ulf_singlecoil/train"),
        ScanSet("T1ce, simulated", "images/t1ce/train", every=65),
        ScanSet("T1, T2, FLAIR, simulated", "images/ms_t1_t2_flair/train", every=12),
        ScanSet("T1 brain, simulated", "images/t1_brain/train", every=8),
    ),
    SEVERAL_COILS: (
        ScanSet("T1ce, 8 coils", "images/t1ce/train", every=104, coils=8),
        ScanSet("T1, T2, FLAIR, 16 coils", "images/ms_t1_t2_flair/train", every=12, limit=15, coils=16),
        ScanSet("T1 brain, 4 coils", "images/t1_brain/train", every=8, limit=20, coils=4),
    ),
}
RESULTS = {ONE_COIL: "guarantee", SEVERAL_COILS: "guarantee_multicoil"}
UNLIKE = (
    ScanSet("heart", "images/heart/val", every=10),
    ScanSet("knee", "images/knee/val", every=10),
    ScanSet("spine", "images/spine/val", every=10),
)
SLICES = 2  # of a volume
PICTURED = 16  # samples of the picture


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        protocol = read_protocol(options.protocol, (*METHODS, *COIL_METHODS))
        if options.unlike and _coils_of(protocol) == SEVERAL_COILS:
            raise InputError("--unlike: its scans have one coil; leave it out for protocols of several coils")
        method = load_method("hybrid", options.checkpoint)
        assert isinstance(method, HybridMethod)
        task = fit if options.fit else picture if options.picture else check
        task(protocol, replace(method, samples=SAMPLES), options)
    except InputError as error:
        print(f"guarantee: error: {error}", file=sys.stderr)
        return 2
    return 0


def fit(protocol: Protocol, method: HybridMethod, options: argparse.Namespace) -> None:
    """Fit the calibration, and write it."""
    kind = _coils_of(protocol)
    scans = [row for _, rows in _measure(TRAINING[kind], protocol, method, options) for row in rows]
    found = fit_calibration(scans, method.calibrated_settings())
    path = options.output or calibration_path(find_weights(options.checkpoint))
    save_calibration(path, method.weights, {**load_calibration(path, method.weights), kind: found})
    print(f"{path}: {found.scans} undersampled scans of {found.persons} persons")


def check(protocol: Protocol, method: HybridMethod, options: argparse.Namespace) -> None:
    """Judge the calibration on the scans of a protocol, and write JSON, table and picture."""
    path = options.output or calibration_path(find_weights(options.checkpoint))
    kind = _coils_of(protocol)
    calibration = load_calibration(path, method.weights).get(kind)
    if calibration is None:
        raise InputError(f"{path}: no calibration of these weights; make it with --fit")
    sets = protocol.scans + (UNLIKE if options.unlike else ())
    found = [(scans.name, row) for scans, rows in _measure(sets, protocol, method, options) for row in rows]
    write_results(calibration, found, method.weights, options.results / RESULTS[kind])


def picture(protocol: Protocol, method: HybridMethod, options: argparse.Namespace) -> None:
    """Draw the middle slice of a scan, its error and the uncertainty map."""
    scan = read_scan(options.picture)
    scan = scan.single_slice(len(scan.kspace) // 2)
    found = reconstruct_scan(scan, mask_of(scan, protocol.patterns[-1]), method, samples=PICTURED)
    if found.std is None or found.bounds is None or scan.target is None:
        raise InputError(f"{options.picture}: no calibration of these weights, or no target")
    error, white = np.abs(found.magnitude - scan.target)[0], float(np.percentile(scan.target, 99.5))
    figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained")
    images = (scan.target[0], found.magnitude[0], error, found.std[0])
    shown = dict(zip(("fully sampled", "reconstruction", "|error|", "uncertainty (SD)"), images))
    for place, (axis, (name, image)) in enumerate(zip(axes, shown.items())):
        axis.imshow(image, cmap="gray" if place < 2 else "inferno", vmin=0, vmax=white if place < 2 else white / 4)
        axis.set(title=name, xticks=[], yticks=[])
    bounds, real = found.bounds, score_volume(scan.target, found.magnitude)
    figure.suptitle(
        f"{label(protocol.patterns[-1])}: PSNR at least {bounds.psnr_at_least:.1f} dB (it is {real['PSNR']:.1f}), "
        f"SSIM at least {bounds.ssim_at_least:.2f} (it is {real['SSIM']:.2f})"
    )
    save(figure, options.results / "guarantee_scan.png")


def write_results(
    calibration: Calibration, found: list[tuple[str, CalibrationScan]], weights: str, output: Path
) -> None:
    """Judge scans, given with the name of their set; write results as .json, .md and .png."""
    judged = [(name, row.acceleration, judge_scan(calibration, row)) for name, row in found]
    groups = list(dict.fromkeys((acceleration, name) for name, acceleration, _ in judged))
    rows = []
    for acceleration, name in sorted(groups, key=lambda group: group[0]):
        own = [one for set_name, nominal, one in judged if (nominal, set_name) == (acceleration, name)]
        rows.append({"set": name, "acceleration": acceleration, **summarize(own)})
    named = (*MAPS, "error")
    curves = {name: np.mean([one.curves[name] for *_, one in judged], axis=0).round(4).tolist() for name in named}
    results = {
        "mrihvae": __version__, "torch": str(torch.__version__), "weights": weights, "level": calibration.level,
        "persons": calibration.persons, "scans": calibration.scans, "guarantee": rows, "removed": REMOVED.tolist(),
        "curves": curves,
    }  # fmt: skip
    with atomic_write(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    with atomic_write(output.with_suffix(".md")) as temporary:
        temporary.write_text(guarantee_table(results))
    save(draw(results), output.with_suffix(".png"))
    print(guarantee_table(results))


def summarize(judged: list[Judgment]) -> dict[str, Any]:
    """Average over the scans of a set."""
    return {
        "scans": len(judged),
        "coverage": round(float(np.mean([one.covered for one in judged])), 4),
        "psnr_holds": round(float(np.mean([one.psnr_spare >= 0 for one in judged])), 4),
        "ssim_holds": round(float(np.mean([one.ssim_spare >= 0 for one in judged])), 4),
        "psnr_spare": round(float(np.median([one.psnr_spare for one in judged])), 2),
        "warned": round(float(np.mean([one.p_value <= 0.05 for one in judged])), 4),
        "correlation": {name: _mean([one.correlation[name] for one in judged]) for name in MAPS},
        "pixel_sparsification": {name: _mean([one.pixel_sparsification[name] for one in judged]) for name in MAPS},
        "sparsification": {name: _mean([one.sparsification[name] for one in judged]) for name in MAPS},
    }


def draw(results: dict[str, Any]) -> Any:
    """Draw coverage by set and sparsification curves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rows = results["guarantee"]
    names = [f"{row['set']}, {row['acceleration']:g}x" for row in rows]
    left.barh(names[::-1], [100 * row["coverage"] for row in rows][::-1], color="#4477aa")
    left.axvspan(88, 94, color="#bbbbbb", alpha=0.5, zorder=0)
    left.set(xlim=(60, 100), xlabel="pixels inside 90 % intervals, %")
    for name, curve in results["curves"].items():
        right.plot(100 * np.array(results["removed"]), curve, label=name, linestyle="--" if name == "error" else "-")
    right.axhline(1, color="black", linewidth=0.8, label="constant map")
    right.set(xlabel="most uncertain blocks left out, %", ylabel="RMSE of the rest, over that of all", ylim=(0, 1.05))
    right.legend()
    return figure


def _measure(
    sets: tuple[ScanSet, ...], protocol: Protocol, method: HybridMethod, options: argparse.Namespace
) -> Iterator[tuple[ScanSet, list[CalibrationScan]]]:
    """Measure the scans of sets, a person each, in a mixed order, so that any number of them is of all sets."""
    todo = [(scans, file) for scans in sets for file in scan_files(scans, options.data, options.work)]
    if options.limit:
        todo = [(scans, file) for scans in sets for file in spread([f for s, f in todo if s is scans], options.limit)]
    for scans, file in tqdm(todo, "measuring"):
        for person, scan in _persons(scans, read_scan(file)):
            coils = f"_coils{scans.coils}" if scans.coils > 1 else ""
            folder = options.work / "guarantee" / (scans.path.replace("/", "_") + coils)
            yield scans, measure_scans(scan, person, method, protocol.patterns, folder)


def _coils_of(protocol: Protocol) -> str:
    """Return whether the scans of a protocol have one coil or several, by the name of their calibration."""
    return SEVERAL_COILS if any(scans.coils > 1 for scans in protocol.scans) else ONE_COIL


def _persons(scans: ScanSet, scan: Scan) -> Iterator[tuple[str, Scan]]:
    """Yield who was scanned, and the scan: of pictures each slice, as those of a file are of several persons."""
    stem = Path(scan.name).stem
    if "t1ce" in scans.path:
        for k in range(len(scan.kspace)):
            yield f"{stem}_{k}", replace(scan.single_slice(k), name=f"{stem}_{k}.h5")
        return
    count = len(scan.kspace)
    chosen = [(2 * k + 1) * count // (2 * min(SLICES, count)) for k in range(min(SLICES, count))]
    assert scan.target is not None
    part = replace(scan, kspace=scan.kspace[chosen], target=scan.target[chosen])
    yield "_".join(stem.split("_")[: 2 if scans.kind == "raw" else 1]), part


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return round(float(np.mean(known)), 3) if known else 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=HERE.parent / "protocols/singlecoil_calibration.toml")
    parser.add_argument("--fit", action="store_true", help="fit the calibration on training persons instead")
    parser.add_argument("--output", type=Path, help="the calibration, where it is not beside the weights")
    parser.add_argument("--picture", type=Path, help="draw a slice of this scan instead")
    parser.add_argument("--unlike", action="store_true", help="also anatomies that no calibration scan shows")
    parser.add_argument("--limit", type=int, help="at most this many files of each set")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
