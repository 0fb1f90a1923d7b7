"""`mrihvae simulate`: images in, fastMRI files of simulated scans out, fully sampled and undersampled."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from mrihvae.cli import options
from mrihvae.cli.common import check_output, next_command
from mrihvae.cli.console import progress
from mrihvae.errors import InputError
from mrihvae.physics.sampling import Undersampling
from mrihvae.simulation.files import ImageGroup, draw_lines, image_groups, simulate_file, undersample_file
from mrihvae.simulation.settings import ScannerSettings
from mrihvae.utils.config import setting_names
from mrihvae.utils.memory import is_out_of_memory
from mrihvae.utils.text import counted


def run(arguments: options.Simulate) -> None:
    """Simulate; prints progress on standard error and a line per scan on standard output."""
    settings = _settings(arguments)
    undersampling = _undersampling(arguments)
    check_output(arguments.output)
    groups = image_groups(arguments.images, arguments.every, arguments.limit)
    if undersampling is not None:
        for group in groups:  # so that numbers that give no mask are refused before anything is written
            draw_lines(undersampling, settings.matrix, f"{group.name}.h5")
    kind = "singlecoil" if settings.coils == 1 else "multicoil"
    complete, undersampled = (arguments.output / f"{kind}_{part}" for part in ("val", "test"))
    written = 0
    for number, group in enumerate(groups, start=1):
        name = f"{group.name}.h5"
        slices = _simulate(group, complete / name, settings, arguments.keep_maps, f"{number} of {len(groups)}")
        written += slices
        notes = [counted(slices, "slice") if slices else "no slice with an object in it; left out"]
        if slices and undersampling is not None:
            effective = undersample_file(complete / name, undersampled / name, undersampling)
            notes.append(f"R = {effective:.2f}")
        print(f"{name}: {', '.join(notes)}")
    if not written:
        raise InputError(f"{arguments.images}: no slice with an object in it; give other images")
    size = f"{settings.matrix} x {settings.matrix}, {settings.coils} {'coil' if settings.coils == 1 else 'coils'}"
    print(f"{size}: {complete}" + ("" if undersampling is None else f"   undersampled: {undersampled}"))
    words = [str(complete), "--mask-type", "random"] if undersampling is None else [str(undersampled)]
    print(next_command("reconstruct", *words, "--output", "out"), file=sys.stderr)


def _simulate(group: ImageGroup, path: Path, settings: ScannerSettings, keep_maps: bool, number: str) -> int:
    """Write one fully sampled scan, and return its number of slices."""
    bar = partial(progress, title=f"{path.name} ({number})", unit="slice")
    try:
        return simulate_file(group, path, settings, keep_maps, bar)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = f"{settings.coils} x {settings.matrix} x {settings.matrix}"
        raise InputError(f"{path}: too little memory for slices of {size}; lower --coils or --matrix") from error


def _settings(arguments: options.Simulate) -> ScannerSettings:
    """Read the options of the scanner."""
    if arguments.coils == 1:
        for option in ("fields", "noise_correlation", "keep_maps"):
            if (given := getattr(arguments, option)) is not None and given is not False:
                raise InputError(f"--{option.replace('_', '-')}: needs several --coils; add them, or leave it out")
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    return ScannerSettings(**{name: given[name] for name in setting_names(ScannerSettings) if name in given})


def _undersampling(arguments: options.Simulate) -> Undersampling | None:
    """Read the options of the mask; None if no undersampled scans are requested."""
    if arguments.mask_type is None and arguments.acceleration is None:
        if arguments.center_fraction is not None:
            raise InputError("--center-fraction: needs --acceleration; add it, or leave this option out")
        return None
    acceleration = 4.0 if arguments.acceleration is None else arguments.acceleration
    fraction = 0.32 / max(acceleration, 1) if arguments.center_fraction is None else arguments.center_fraction
    acceleration = int(acceleration) if acceleration.is_integer() else acceleration  # fastMRI's attribute is whole
    return Undersampling(arguments.mask_type or "random", acceleration, fraction)
