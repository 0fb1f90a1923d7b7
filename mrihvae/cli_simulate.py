"""`mrihvae simulate`: images in, fastMRI files of simulated scans out, complete ones and undersampled ones."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mrihvae.commands import is_out_of_memory
from mrihvae.errors import InputError
from mrihvae.patterns import LINE_TYPES
from mrihvae.scanner import FIELDS, ScannerSettings
from mrihvae.simulated_files import ImageGroup, draw_lines, image_groups, simulate_file, undersample_file
from mrihvae.volumes import Undersampling

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


def run(arguments: argparse.Namespace) -> None:
    """Simulate; prints progress on standard error and a line per scan on standard output."""
    settings = _settings(arguments)
    undersampling = _undersampling(arguments)
    groups = image_groups(arguments.images, arguments.every, arguments.limit)
    if undersampling is not None:
        for group in groups:  # so that numbers that give no mask are told of before anything is written
            draw_lines(undersampling, settings.matrix, f"{group.name}.h5")
    kind = "singlecoil" if settings.coils == 1 else "multicoil"
    complete, undersampled = (arguments.output / f"{kind}_{part}" for part in ("val", "test"))
    written = 0
    for number, group in enumerate(groups, start=1):
        name = f"{group.name}.h5"
        slices = _simulate(group, complete / name, settings, arguments.keep_maps, f"{number} of {len(groups)}")
        written += slices
        told = [f"{slices} slices" if slices else "no slice with an object in it; left out"]
        if slices and undersampling is not None:
            effective = undersample_file(complete / name, undersampled / name, undersampling)
            told.append(f"R = {effective:.2f}")
        print(f"{name}: {', '.join(told)}")
    if not written:
        raise InputError(f"{arguments.images}: no slice with an object in it; give other images")
    size = f"{settings.matrix} x {settings.matrix}, {settings.coils} {'coil' if settings.coils == 1 else 'coils'}"
    print(f"{size}: {complete}" + ("" if undersampling is None else f"   undersampled: {undersampled}"))


def _simulate(group: ImageGroup, path: Path, settings: ScannerSettings, keep_maps: bool, number: str) -> int:
    """Write one complete scan; returns how many slices it has."""
    bar = partial(tqdm, desc=f"{path.name} ({number})", unit="slice", leave=False)
    try:
        return simulate_file(group, path, settings, keep_maps, bar)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = f"{settings.coils} x {settings.matrix} x {settings.matrix}"
        raise InputError(f"{path}: too little memory for slices of {size}; lower --coils or --matrix") from error


def _settings(arguments: argparse.Namespace) -> ScannerSettings:
    """Read the options of the scanner."""
    if arguments.coils == 1:
        for option in ("fields", "noise_correlation", "keep_maps"):
            if (given := getattr(arguments, option)) is not None and given is not False:
                raise InputError(f"--{option.replace('_', '-')}: goes with several --coils; add them, or leave it out")
    return ScannerSettings(
        coils=arguments.coils,
        fields=arguments.fields or ScannerSettings.fields,
        matrix=arguments.matrix,
        noise=arguments.noise,
        noise_correlation=arguments.noise_correlation,
        seed=arguments.seed,
    )


def _undersampling(arguments: argparse.Namespace) -> Undersampling | None:
    """Read the options of the mask; none if no undersampled scans are asked for."""
    if arguments.mask_type is None and arguments.acceleration is None:
        if arguments.center_fraction is not None:
            raise InputError("--center-fraction: goes with --acceleration; add it, or leave this option out")
        return None
    acceleration = 4.0 if arguments.acceleration is None else arguments.acceleration
    fraction = 0.32 / max(acceleration, 1) if arguments.center_fraction is None else arguments.center_fraction
    acceleration = int(acceleration) if acceleration.is_integer() else acceleration  # fastMRI's attribute is whole
    return Undersampling(arguments.mask_type or "random", acceleration, fraction)
