"""Options of `mrihvae simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mrihvae.physics.sampling import LINE_TYPES
from mrihvae.simulation.settings import FIELDS, ScannerSettings

ABOUT = (
    "OUTPUT/multicoil_val/NAME.h5 (singlecoil_val for one coil) are complete scans: kspace, complex64 (slices, coils, "
    "H, W), or (slices, H, W) of one coil; the target reconstruction_rss, or reconstruction_esc of one coil, with the "
    "scan's noise; ismrmrd_header; the attributes acquisition, patient_id, max, norm, and noise, the standard "
    "deviation per complex bin in each slice. With --acceleration or --mask-type, OUTPUT/multicoil_test/NAME.h5 "
    "(singlecoil_test) are the same scans undersampled: kspace with zeros in place of what was not measured, mask "
    "(W,), the attributes acceleration and num_low_frequency, and no target. Every NIfTI volume becomes a file, of its "
    "slices with an object in them, and so do 10 pictures."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add, usual = parser.add_argument, ScannerSettings()
    parser.epilog = ABOUT
    add("images", type=Path, metavar="IMAGES", help="folder of NIfTI volumes, JPEG or PNG pictures, or one of them")
    add("--output", type=Path, required=True, help="folder for multicoil_val/ and multicoil_test/, or singlecoil_...")
    add("--coils", type=int, default=usual.coils, help="number of receive coils")
    add("--fields", choices=FIELDS, help="of several coils: all alike around the object; or drawn at random for each "
        "file; birdcage if left out")  # fmt: skip
    add("--matrix", type=int, default=usual.matrix, help="H and W; larger images are resampled to it by cropping "
        "k-space, smaller ones are surrounded with zeros")  # fmt: skip
    add("--noise", type=float, default=usual.noise, help="standard deviation per complex bin and coil, over the 99th "
        "percentile of the slice's target without noise")  # fmt: skip
    add("--noise-correlation", type=float, help="share of the noise's power, 0 to below 1, that coils have in common "
        "through their fields; files then have a noise scan, noise, complex64 (coils, samples)")  # fmt: skip
    add("--keep-maps", action="store_true", help="write the true sensitivity_maps, complex64 (1, coils, H, W), "
        "root-sum-of-squares 1")  # fmt: skip
    add("--every", type=int, default=1, help="take every N-th slice with an object in it, or every N-th picture")
    add("--limit", type=int, help="write at most N scans, spread evenly over the folder")
    add("--mask-type", choices=LINE_TYPES, help="write undersampled scans, too, with these masks, seeded by the file's "
        "name as fastMRI does; random if --acceleration alone is given")  # fmt: skip
    add("--acceleration", type=float, help="nominal acceleration of the masks; 4 if --mask-type alone is given")
    add("--center-fraction", type=float, help="of lines, measured around DC; 0.32 / acceleration if left out")
    add("--seed", type=int, default=usual.seed, help="of fields, phase and noise, beside the names of the images")
