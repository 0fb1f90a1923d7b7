"""`mrihvae calibrate`: intervals and bounds that hold for new persons, for weights, from fully sampled scans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mrihvae.cli import options
from mrihvae.cli.common import Failures, next_command
from mrihvae.cli.console import progress
from mrihvae.errors import InputError
from mrihvae.evaluation.calibration import CalibrationScan, fit_calibration
from mrihvae.evaluation.calibration_scans import measure_scans, person_of
from mrihvae.inference.calibration import (
    ONE_COIL,
    SEVERAL_COILS,
    Calibration,
    calibration_path,
    load_calibration,
    save_calibration,
)
from mrihvae.io.kspace import list_kspace, open_kspace
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import load_method
from mrihvae.recon.methods import HybridMethod
from mrihvae.utils.text import counted


def run(arguments: options.Calibrate) -> int:
    """Measure all scans, fit, and write the calibration beside the weights, or to --output."""
    weights = find_weights(arguments.checkpoint)
    path = arguments.output or calibration_path(weights)
    if path.exists() and not arguments.overwrite:
        raise InputError(f"{path}: is already there; add --overwrite to replace it, or choose another --output")
    method = load_method("hybrid", arguments.checkpoint, arguments.device)
    assert isinstance(method, HybridMethod)
    method = replace(method, samples=arguments.samples)
    patterns = [Undersampling(arguments.mask_type, one, 0.32 / one) for one in arguments.acceleration]
    files = [file for place in arguments.input for file in list_kspace(place)]
    failures, rows = Failures(len(files)), dict[str, list[CalibrationScan]]()
    for file in progress(files, "measuring", "file"):
        with failures.collect(file.name):
            for scan in open_kspace(file, lazy=True):
                kind = SEVERAL_COILS if scan.coils > 1 else ONE_COIL
                measured = measure_scans(scan, person_of(scan), method, patterns, arguments.work)
                rows.setdefault(kind, []).extend(measured)
    failures.check_any_left(arguments.input[0], "measured")
    found = {kind: fit_calibration(scans, method.calibrated_settings()) for kind, scans in rows.items()}
    mark = fingerprint(weights)
    save_calibration(path, mark, load_calibration(path, mark) | found)
    print("\n".join(describe(found)))
    words = ("--checkpoint", arguments.checkpoint, "--samples", "16", "--output", "out")
    return failures.conclude("measured", path, next_command("reconstruct", "SCANS", *words))


def describe(found: dict[str, Calibration]) -> Iterable[str]:
    """Describe calibrations, a line for each number of coils and acceleration."""
    for kind, calibration in found.items():
        yield f"{kind}: {counted(calibration.scans, 'undersampled scan')} of {counted(calibration.persons, 'subject')}"
        for one in calibration.quantiles:
            yield (
                f"  {one.acceleration:g}x, quantiles of {counted(one.persons, 'subject')}: intervals of "
                f"{one.factor:.2f} expected errors; PSNR bound {one.psnr_margin:.1f} dB below the expected PSNR"
            )
