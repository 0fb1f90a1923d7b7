"""`mrihvae reconstruct`: undersampled scans of any format in, reconstructions in fastMRI's form and pictures out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mrihvae import __version__
from mrihvae.cli.common import finished_before, reading_of
from mrihvae.cli.options import Reconstruct
from mrihvae.cli.options.common import AXES, CHALLENGES
from mrihvae.cli.reconstruct_files import describe, reconstruct_file
from mrihvae.cli.reconstruction_images import check_format, images_path
from mrihvae.coils.settings import CoilSettings
from mrihvae.errors import InputError
from mrihvae.io.formats import check_names
from mrihvae.io.kspace import head_of, list_kspace
from mrihvae.model.shipped import weights_for
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.methods import (
    ClassicalMethod,
    HybridMethod,
    Method,
    ModelMethod,
    PnPMethod,
    SampleMeanMethod,
    load_method,
)
from mrihvae.recon.settings import SAMPLING_METHODS, setting_names_of
from mrihvae.utils.config import as_dict, from_dict
from mrihvae.utils.files import atomic_write

SAME = (  # in a folder
    "method", "checkpoint", "weights", "inference", "samples", "pnp", "strength", "coils", "undersampling", "reading",
)  # fmt: skip


def run(arguments: Reconstruct) -> None:
    """Reconstruct; prints progress on standard error and a line per volume on standard output."""
    undersampling = _undersampling(arguments)
    check_format(arguments.format)
    files = list_kspace(_input(arguments), arguments.key)
    heads = {file: head_of(file, arguments.key) for file in files}
    check_names((file, name) for file, (names, _) in heads.items() for name in names)
    checkpoints = {file: _checkpoint(file, coils, arguments) for file, (_, coils) in heads.items()}
    methods = {name: _method(arguments, name) for name in dict.fromkeys(checkpoints.values())}
    summary = _summary(arguments, methods, undersampling)
    done = finished_before(arguments.output / "reconstruct.json", summary, SAME, "volumes") if arguments.resume else {}
    for file in files:
        if _is_done(file, done, arguments.output, arguments.format):
            print(f"{file.name}: already there")
            continue
        use_samples, kept = arguments.samples is not None, arguments.keep_samples
        method = methods[checkpoints[file]]
        settings = (method, undersampling, arguments.batch_size, use_samples, kept, 0, "--", arguments.format)
        for row in reconstruct_file(file, arguments.output, *settings, reading=reading_of(arguments)):
            print(describe(row))
            done[row["file"]] = row
        with atomic_write(arguments.output / "reconstruct.json") as temporary:
            temporary.write_text(json.dumps({**summary, "volumes": list(done.values())}, indent=2) + "\n")


def _is_done(file: Path, done: Mapping[str, Any], folder: Path, form: str) -> bool:
    """Tell whether all scans of a file were reconstructed, and their files are there still."""
    rows = [row for row in done.values() if row.get("source", row["file"]) == file.name]
    whole = bool(rows) and len(rows) == rows[0].get("scans", 1)
    return whole and all(images_path(folder, row["file"], one).exists() for row in rows for one in {"h5", form})


def _input(arguments: Reconstruct) -> Path:
    """Return INPUT, or --data_path in its place."""
    path = arguments.input or arguments.data_path
    if path is None or None not in (arguments.input, arguments.data_path):
        raise InputError("INPUT: give a file with k-space or a folder of them, here or by --data_path")
    return path


def _checkpoint(file: Path, coils: int | None, arguments: Reconstruct) -> str:
    """Choose the weights for a file, and check that it is of the challenge."""
    if arguments.challenge is not None and coils is not None and min(coils, 2) != CHALLENGES[arguments.challenge]:
        kind = "one coil" if coils == 1 else f"{coils} coils"
        raise InputError(f"{file}: is of {kind}, not of challenge '{arguments.challenge}'; leave it out, or the option")
    return arguments.checkpoint or weights_for(coils or 1)


def _summary(arguments: Reconstruct, methods: dict[str, Method], undersampling: Undersampling | None) -> dict[str, Any]:
    """Return the settings of a reconstruction, which must be the same in one output folder."""
    method = next(iter(methods.values()))
    use_samples = isinstance(method, SampleMeanMethod) or arguments.samples is not None
    inference = None
    if isinstance(method, HybridMethod):
        inference = as_dict(method.sampling if use_samples else method.inference)
    return {
        "mrihvae": __version__,
        "input": str(_input(arguments)),
        "reading": reading_of(arguments) or None,
        "torch": str(torch.__version__),
        "method": method.name,
        "checkpoint": ", ".join(methods) if isinstance(method, ModelMethod) else None,
        "weights": ", ".join(m.weights for m in methods.values() if isinstance(m, ModelMethod)) or None,
        "inference": inference,
        "samples": method.samples if use_samples and isinstance(method, HybridMethod) else None,
        "pnp": as_dict(method.pnp) if isinstance(method, PnPMethod) else None,
        "strength": _strength(method),
        "coils": as_dict(method.coils),
        "undersampling": as_dict(undersampling) if undersampling else None,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
    }


def _strength(method: Method) -> float | dict[str, float | None] | None:
    """Return the strength of a classical method, or the tuned ones for one coil and for several; None for others."""
    if not isinstance(method, ClassicalMethod):
        return None
    usual = dict(zip(("one coil", "several coils"), method.usual_strengths(), strict=True))
    return usual if method.strength is None else method.strength


def _method(arguments: Reconstruct, checkpoint: str) -> Method:
    """Read the options of the method, and load the model if it needs one."""
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if arguments.strength is not None and not arguments.strength > 0:
        raise InputError(f"--strength {arguments.strength}: must be above 0")
    if arguments.samples is not None and arguments.samples < 2:
        raise InputError(f"--samples {arguments.samples}: a standard deviation takes at least 2")
    if arguments.samples is not None and arguments.method not in SAMPLING_METHODS:
        raise InputError(
            f"--samples: {arguments.method} does not support posterior sampling; choose --method "
            f"{' or '.join(SAMPLING_METHODS)}"
        )
    if arguments.samples is None and (arguments.keep_samples or arguments.temperature is not None):
        raise InputError("--keep-samples and --temperature: go with --samples; add it, or leave them out")
    named = {"maps": arguments.maps, "refine_maps": arguments.refine_maps, "compress": arguments.virtual_coils}
    named |= {"whiten": arguments.whiten, "output": arguments.combine_coils}
    coils = from_dict(CoilSettings, named, "coil settings")
    known = set(setting_names_of(arguments.method))
    if arguments.method in SAMPLING_METHODS:
        known -= {"iterations"}  # the option is of pnp; of refinement it is not one
    settings = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
    if arguments.samples is not None and "sweeps" in settings:
        settings["sample_sweeps"] = settings["sweeps"]
    return load_method(arguments.method, checkpoint, arguments.device, coils=coils, **settings)


def _undersampling(arguments: Reconstruct) -> Undersampling | None:
    """Read the options of the mask; without --mask-type the file's own mask counts."""
    if arguments.mask_type is None:
        for name in ("center_fraction", "axis"):
            if getattr(arguments, name) is not None:
                raise InputError(f"--{name.replace('_', '-')}: goes with --mask-type; add it, or leave this option out")
        return None
    fraction = arguments.center_fraction
    if fraction is None:
        fraction = 0.32 / max(arguments.acceleration, 1)
    acceleration = float(arguments.acceleration)
    acceleration = int(acceleration) if acceleration.is_integer() else acceleration
    return Undersampling(arguments.mask_type, acceleration, fraction, AXES[arguments.axis or "W"])
