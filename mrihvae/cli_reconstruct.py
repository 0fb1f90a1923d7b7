"""`mrihvae reconstruct`: undersampled scans in, reconstructions in fastMRI's form and pictures out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.classical import DEFAULT_STRENGTH
from mrihvae.errors import InputError
from mrihvae.fastmri_files import Scan, list_files, read_scan, write_reconstruction
from mrihvae.figures import volume_panel
from mrihvae.files import replacing
from mrihvae.inference import ANCHORS, COMBINATIONS, InferenceSettings
from mrihvae.masks import MASK_TYPES, effective_acceleration
from mrihvae.settings import from_dict
from mrihvae.volumes import METHODS, MODEL_METHODS, Method, Undersampling, lines_of, reconstruct_volume
from mrihvae.weights import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    defaults = InferenceSettings()
    parser.add_argument("input", type=Path, metavar="INPUT", help="fastMRI HDF5 file, or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for reconstructions/, panels/ and a JSON")
    parser.add_argument("--method", choices=METHODS, default="hybrid", help="how to reconstruct")
    parser.add_argument("--mask-type", choices=MASK_TYPES, help="undersample complete scans with this fastMRI mask")
    parser.add_argument("--acceleration", type=int, default=4, help="nominal acceleration of --mask-type")
    parser.add_argument("--center-fraction", type=float, help="of --mask-type; 0.32 / acceleration if left out")
    parser.add_argument("--checkpoint", default="default", help="name of shipped weights, or a .safetensors file")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="coil images reconstructed together; lower it to save memory"
    )
    parser.add_argument("--sweeps", type=int, default=defaults.sweeps, help="refinement steps per level (hybrid)")
    parser.add_argument("--step", type=float, default=defaults.step, help="size of a refinement step (hybrid)")
    parser.add_argument("--anchor", choices=ANCHORS, default=defaults.anchor, help="what holds latents (hybrid)")
    parser.add_argument("--combine", choices=COMBINATIONS, default=defaults.combine, help="what measured bins become")
    parser.add_argument("--strength", type=float, help="regularisation of wavelet and tv; a tuned one if left out")
    parser.add_argument("--resume", action="store_true", help="leave out volumes that are in --output already")


def run(arguments: argparse.Namespace) -> None:
    """Reconstruct; prints progress on standard error and a line per volume on standard output."""
    method = _method(arguments)
    undersampling = _undersampling(arguments)
    files = list_files(arguments.input)
    summary = _summary(arguments, method, undersampling)
    done = _done_before(arguments.output / "reconstruct.json", summary) if arguments.resume else {}
    for file in files:
        output = arguments.output / "reconstructions" / file.name
        if file.name in done and output.is_file():
            print(f"{file.name}: already there")
            continue
        done[file.name] = _reconstruct_file(file, output, method, undersampling, arguments)
        with replacing(arguments.output / "reconstruct.json") as temporary:
            temporary.write_text(json.dumps({**summary, "volumes": list(done.values())}, indent=2) + "\n")


def _summary(arguments: argparse.Namespace, method: Method, undersampling: Undersampling | None) -> dict[str, Any]:
    """Say how volumes are reconstructed: all that must be the same in one output folder."""
    inference = dataclasses.asdict(method.inference) | ({} if method.name == "hybrid" else {"sweeps": 0})
    modelled = method.name in MODEL_METHODS
    return {
        "mrihvae": __version__,
        "torch": str(torch.__version__),
        "method": method.name,
        "checkpoint": arguments.checkpoint if modelled else None,
        "inference": inference if modelled else None,
        "strength": method.strength or DEFAULT_STRENGTH.get(method.name),
        "undersampling": dataclasses.asdict(undersampling) if undersampling else None,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
    }


def _done_before(path: Path, summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read which volumes an earlier call finished; it must have made them in the same way."""
    if not path.is_file():
        return {}
    try:
        earlier = json.loads(path.read_text())
        volumes = {volume["file"]: volume for volume in earlier["volumes"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a summary of this command ({error}); leave out --resume") from error
    for key in ("method", "checkpoint", "inference", "strength", "undersampling"):
        if earlier.get(key) != summary[key]:
            raise InputError(
                f"{path}: was made with {key} {earlier.get(key)}, not {summary[key]}; choose another --output, or "
                "leave out --resume to replace it"
            )
    return volumes


def _reconstruct_file(
    file: Path, output: Path, method: Method, undersampling: Undersampling | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Reconstruct one volume and write it and its panel."""
    scan = read_scan(file)
    lines = lines_of(scan, undersampling)
    effective = round(effective_acceleration(lines), 3)
    began = time.perf_counter()
    with tqdm(total=len(scan.kspace), desc=file.name, unit="slice", leave=False) as bar:
        try:
            volume = reconstruct_volume(scan, lines, method, arguments.batch_size, bar.update)
        except (MemoryError, torch.OutOfMemoryError) as error:
            size = " x ".join(map(str, scan.kspace.shape[-2:]))
            raise InputError(f"{file}: too little memory for slices of {size}; lower --batch-size") from error
    seconds = (time.perf_counter() - began) / len(volume)
    attributes: dict[str, Any] = {"method": method.name, "effective_acceleration": effective}
    acceleration = undersampling.acceleration if undersampling else scan.attributes.get("acceleration")
    if acceleration is not None:
        attributes["acceleration"] = acceleration
    write_reconstruction(output, volume, attributes)
    _panel(arguments.output / "panels" / f"{file.stem}.png", scan, lines, method, volume, effective)
    print(f"{file.name}: {len(volume)} slices, R = {effective:.2f}, {seconds:.2f} s per slice")
    return {"file": file.name, "slices": len(volume), "effective_acceleration": effective, "seconds_per_slice": seconds}


def _panel(path: Path, scan: Scan, lines: np.ndarray, method: Method, volume: np.ndarray, effective: float) -> None:
    """Draw the middle slice: zero-filled, reconstruction, target, errors."""
    middle = len(volume) // 2
    one = scan.one(middle)
    zero_filled = reconstruct_volume(one, lines, Method("zero-filled"))
    images = {"zero-filled": zero_filled, method.name: volume[middle : middle + 1]}
    volume_panel(path, f"{scan.name}, slice {middle}, R = {effective:.2f}", images, one.target)


def _method(arguments: argparse.Namespace) -> Method:
    """Read the options of the method, and load the model if it needs one."""
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if arguments.strength is not None and not arguments.strength > 0:
        raise InputError(f"--strength {arguments.strength}: must be above 0")
    names = ("sweeps", "step", "anchor", "combine")
    options = {name: getattr(arguments, name) for name in names}
    inference = from_dict(InferenceSettings, options, "inference settings")
    model = None
    if arguments.method in MODEL_METHODS:
        try:
            model = load_model(arguments.checkpoint, torch.device(arguments.device))
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--device {arguments.device}: cannot be used ({reason}); try cpu") from error
    return Method(arguments.method, model, inference, arguments.strength)


def _undersampling(arguments: argparse.Namespace) -> Undersampling | None:
    """Read the options of the mask; without --mask-type the file's own mask counts."""
    if arguments.mask_type is None:
        if arguments.center_fraction is not None:
            raise InputError("--center-fraction: goes with --mask-type; add it, or leave this option out")
        return None
    fraction = arguments.center_fraction
    if fraction is None:
        fraction = 0.32 / max(arguments.acceleration, 1)
    return Undersampling(arguments.mask_type, arguments.acceleration, fraction)
