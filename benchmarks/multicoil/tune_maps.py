"""Show on training images what it is worth to refine maps of the kernel that a small calibration region allows.

    python -m benchmarks.multicoil.tune_maps --data DIR

simulates slices of training images with 8 and 16 random coils. For each with a calibration region that is small for
its coils it notes by how many dB the usual kernel predicts held-out samples better than the kernel that the region
allows (the lead), and the root-sum-of-squares PSNR of the hybrid with maps of the usual kernel, with those of the
smaller kernel alone, and with refined maps.
`mrihvae.coils.map_refinement.MARGIN_DB` is the lead up to which refined maps are taken; results/tune_maps.json has
every slice, what each margin gives on average, over all and where little was sampled, and the share of slices that it
harms.
Chosen is the margin of the largest gain among those that harm at most one slice in 20.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.protocol import label
from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.espirit import MAX_KERNEL_SIZE, calibration_box, calibration_data, fast_maps, kernel_size
from mrihvae.coils.map_refinement import lead_of_usual_kernel, refined_maps
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import weights_for
from mrihvae.model.weights import load_model
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.undersampling import mask_of
from mrihvae.simulation.files import image_groups, simulate_file
from mrihvae.simulation.settings import ScannerSettings
from mrihvae.utils.files import atomic_write

FOLDERS = ("t1ce", "ms_t1_t2_flair", "t1_brain", "t1_sagittal", "spine")
COILS = (8, 16)
MATRICES = (96, 128, 192)
PATTERNS = (
    Undersampling("random", 4, 0.08),
    Undersampling("equispaced_fraction", 4, 0.08),
    Undersampling("random", 8, 0.04),
)
MARGINS = (
    -99.0,
    -0.5,
    -0.25,
    0.0,
    0.25,
    0.5,
    1.0,
    2.0,
    99.0,
)  # the first always takes the usual kernel, the last never
SPARSE = 6.0  # acceleration from which little is sampled
REPETITIONS = 2
HARM = 0.1  # dB


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        tune(options)
    except InputError as error:
        print(f"tune_maps: error: {error}", file=sys.stderr)
        return 2
    return 0


def tune(options: argparse.Namespace) -> None:
    """Score every slice, and write results after each."""
    model, rows = load_model(weights_for(2)), []
    cases = [(folder, coils, matrix) for folder in FOLDERS for coils in COILS for matrix in MATRICES]
    for number, (folder, coils, matrix) in enumerate(tqdm(cases, "maps")):
        scan = simulated(options.data / "images" / folder / "train", coils, matrix, number)
        for pattern in PATTERNS:
            row = row_of(scan, pattern, model)
            if row is not None:
                rows.append({"set": folder, "coils": coils, "matrix": matrix, "pattern": label(pattern), **row})
        with atomic_write(options.results / "tune_maps.json") as temporary:
            temporary.write_text(json.dumps({"margins": gains(rows), "slices": rows}, indent=1) + "\n")
    print(json.dumps(gains(rows), indent=1))


def simulated(images: Path, coils: int, matrix: int, number: int) -> Scan:
    """Simulate a slice of a folder, another one for each number."""
    groups = image_groups(images, limit=40)
    group = groups[number % len(groups)]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{group.name}.h5"
        count = simulate_file(group, path, ScannerSettings(coils=coils, matrix=matrix, fields="random", seed=number))
        return read_scan(path).single_slice(count // 2)


def row_of(scan: Scan, pattern: Undersampling, model: HVAE) -> dict[str, Any] | None:
    """Score both kinds of maps on a slice; None where the calibration region is large enough for the usual kernel."""
    assert scan.target is not None
    shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
    mask = torch.from_numpy(mask_of(scan, pattern)).expand(shape).contiguous()
    kspace = torch.where(mask, torch.from_numpy(np.asarray(scan.kspace[0])), torch.zeros((), dtype=torch.complex64))
    calibration = calibration_data(kspace, mask)
    if kernel_size((calibration.shape[-2], calibration.shape[-1]), len(kspace)) == MAX_KERNEL_SIZE:
        return None

    def quality(maps: torch.Tensor) -> float:
        with torch.no_grad():
            image = reconstruct(model, kspace[None], mask, maps[None])
        found = root_sum_of_squares(image, maps[None], kspace[None], mask).numpy().astype(np.float32)
        return round(score_volume(scan.target, found)["PSNR"], 3)

    smaller, refined = (
        refined_maps(kspace, mask, mask, fast_maps, repetitions, margin=float("inf"))
        for repetitions in (0, REPETITIONS)
    )
    return {
        "R": round(effective_acceleration(mask.numpy()), 2),
        "lines": calibration_box(mask)[1],
        "lead": round(lead_of_usual_kernel(kspace, mask, mask, fast_maps), 3),
        "usual": quality(fast_maps(calibration, shape, kernel=MAX_KERNEL_SIZE)),
        "smaller": quality(smaller),
        "refined": quality(refined),
    }


def gains(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Average what each margin gains over the usual kernel, in dB, and count the share of slices that lose `HARM`."""
    parts = {
        "all": rows,
        "sparse": [r for r in rows if r["R"] >= SPARSE],
        "dense": [r for r in rows if r["R"] < SPARSE],
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, some in parts.items():
        for margin in MARGINS if some else ():
            gained = [(r["refined"] - r["usual"]) * (r["lead"] <= margin) for r in some]
            harmed = sum(gain < -HARM for gain in gained) / len(some)
            row = {"gain": round(sum(gained) / len(some), 3), "harmed": round(harmed, 3)}
            found.setdefault(name, {})[str(margin)] = row
    return found


if __name__ == "__main__":
    sys.exit(main())
