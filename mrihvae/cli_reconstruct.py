"""`mrihvae reconstruct`: undersampled scans of any format in, reconstructions in fastMRI's form and pictures out."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mrihvae import __version__
from mrihvae.classical import COIL_STRENGTH, DEFAULT_STRENGTH
from mrihvae.commands import finished_before, inference_of, load_on, reconstruct_file, told
from mrihvae.errors import InputError
from mrihvae.files import replacing
from mrihvae.inference import COMBINATIONS, InferenceSettings
from mrihvae.kspace_files import FORMATS, check_names, head_of, list_kspace
from mrihvae.multicoil import MAPS, OUTPUTS, CoilSettings
from mrihvae.patterns import PATTERNS
from mrihvae.pnp import ENCODERS, PnPSettings
from mrihvae.precision import PRECISIONS
from mrihvae.refinement import ANCHORS, RULES
from mrihvae.restore import FOR_SCANS
from mrihvae.settings import from_dict
from mrihvae.volumes import METHODS, MODEL_METHODS, SAMPLING_METHODS, Method, Undersampling
from mrihvae.weights import find_weights, fingerprint, load_card, weights_for

AXES = {"W": -1, "H": -2}
SAME = (  # in a folder
    "method", "checkpoint", "weights", "inference", "samples", "pnp", "strength", "coils", "undersampling",
)  # fmt: skip
# what fastMRI's own inference scripts call a challenge, and ours by the kind of file
CHALLENGES = {
    "singlecoil": 1,
    "multicoil": 2,
    "unet_knee_sc": 1,
    "unet_knee_mc": 2,
    "unet_brain_mc": 2,
    "varnet_knee_mc": 2,
    "varnet_brain_mc": 2,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    defaults = InferenceSettings()
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help=f"{FORMATS}; or a folder of them")
    parser.add_argument("--data_path", "--data-path", type=Path, help="INPUT, as fastMRI's scripts call it")
    parser.add_argument(
        "--output", "--output_path", "--output-path", type=Path, required=True,
        help="folder for reconstructions/, panels/ and a JSON",
    )  # fmt: skip
    parser.add_argument("--challenge", choices=tuple(CHALLENGES), help="refuse files of the other kind")
    parser.add_argument("--method", choices=METHODS, default="hybrid", help="how to reconstruct")
    parser.add_argument("--mask-type", choices=PATTERNS, help="undersample complete scans with this pattern")
    parser.add_argument("--acceleration", type=float, default=4, help="nominal acceleration of --mask-type")
    parser.add_argument("--center-fraction", type=float, help="of --mask-type; 0.32 / acceleration if left out")
    parser.add_argument("--axis", choices=tuple(AXES), help="along which lines of --mask-type differ; W if left out")
    parser.add_argument(
        "--checkpoint", "--state_dict_file", "--state-dict-file",
        help="name of shipped weights, or a .safetensors file; left out, those for one coil or for several, by file",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--batch-size", type=int, default=8, help="coil images reconstructed together; lower it to save memory"
    )
    parser.add_argument("--samples", type=int, help="draw this many posterior samples; write their mean and deviation")
    parser.add_argument("--keep-samples", action="store_true", help="write the samples, too")
    parser.add_argument(
        "--temperature", type=float, help="factor on the spread of samples; the weights' own if left out"
    )
    parser.add_argument("--views", type=int, default=defaults.views, help="mirrored copies that are averaged (hybrid)")
    parser.add_argument("--rounds", type=int, default=defaults.rounds, help="passes of the encoder (hybrid)")
    parser.add_argument("--sweeps", type=int, help="refinement steps per level (hybrid: 1, or 0 with --samples)")
    parser.add_argument("--rule", choices=RULES, default=defaults.rule, help="how a refinement step is taken (hybrid)")
    parser.add_argument("--step", type=float, help="size of a step of adam or gradient; the usual if left out")
    parser.add_argument("--anchor", choices=ANCHORS, default=defaults.anchor, help="what holds latents (hybrid)")
    parser.add_argument("--combine", choices=COMBINATIONS, default=defaults.combine, help="what measured bins become")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=defaults.precision, help="auto: bfloat16 where that is faster"
    )
    parser.add_argument("--iterations", type=int, default=FOR_SCANS.iterations, help="passes of the encoder (pnp)")
    parser.add_argument(
        "--gamma", type=float, default=FOR_SCANS.gamma, help="how far data may pull from the prior's image (pnp)"
    )
    parser.add_argument("--tau", type=float, default=FOR_SCANS.tau, help="temperature of the prior, 0 to 1 (pnp)")
    parser.add_argument("--encoder", choices=ENCODERS, default=FOR_SCANS.encoder, help="r, told of data, or q (pnp)")
    parser.add_argument(
        "--strength", type=float, help="regularisation of sense, wavelet and tv; a tuned one if left out"
    )
    usual = CoilSettings()
    parser.add_argument("--maps", choices=MAPS, default=usual.maps, help="how coil sensitivities are estimated")
    parser.add_argument(
        "--refine-maps", type=int, default=usual.refine_maps,
        help="estimate sensitivity maps again at most so often from completed k-space where calibration lines are few; "
        "0: never",
    )  # fmt: skip
    parser.add_argument(
        "--virtual-coils", type=int, default=usual.compress,
        help="number of virtual coils; 0: the coils as they are; left out: as many as keep all but the noise",
    )  # fmt: skip
    parser.add_argument(
        "--whiten",
        action=argparse.BooleanOptionalAction,
        help="whiten noise of coils, by the file's noise scan or corners of k-space; left out: if there is a scan",
    )
    parser.add_argument("--combine-coils", choices=OUTPUTS, default=usual.output, help="what becomes of several coils")
    parser.add_argument("--resume", action="store_true", help="leave out volumes that are in --output already")


def run(arguments: argparse.Namespace) -> None:
    """Reconstruct; prints progress on standard error and a line per volume on standard output."""
    undersampling = _undersampling(arguments)
    files = list_kspace(_input(arguments))
    heads = {file: head_of(file) for file in files}
    check_names((file, name) for file, (names, _) in heads.items() for name in names)
    checkpoints = {file: _checkpoint(file, coils, arguments) for file, (_, coils) in heads.items()}
    methods = {name: _method(arguments, name) for name in dict.fromkeys(checkpoints.values())}
    summary = _summary(arguments, methods, undersampling)
    done = finished_before(arguments.output / "reconstruct.json", summary, SAME, "volumes") if arguments.resume else {}
    for file in files:
        if _is_there(file, done, arguments.output / "reconstructions"):
            print(f"{file.name}: already there")
            continue
        sampled, kept = arguments.samples is not None, arguments.keep_samples
        method = methods[checkpoints[file]]
        for row in reconstruct_file(file, arguments.output, method, undersampling, arguments.batch_size, sampled, kept):
            print(told(row))
            done[row["file"]] = row
        with replacing(arguments.output / "reconstruct.json") as temporary:
            temporary.write_text(json.dumps({**summary, "volumes": list(done.values())}, indent=2) + "\n")


def _is_there(file: Path, done: Mapping[str, Any], folder: Path) -> bool:
    """Tell whether all scans of a file were reconstructed, and their files are there still."""
    rows = [row for row in done.values() if row.get("source", row["file"]) == file.name]
    whole = bool(rows) and len(rows) == rows[0].get("scans", 1)
    return whole and all((folder / row["file"]).is_file() for row in rows)


def _input(arguments: argparse.Namespace) -> Path:
    """Take INPUT, or --data_path for it."""
    if (arguments.input is None) == (arguments.data_path is None):
        raise InputError("INPUT: give a file with k-space or a folder of them, here or by --data_path")
    path: Path = arguments.input or arguments.data_path
    return path


def _checkpoint(file: Path, coils: int | None, arguments: argparse.Namespace) -> str:
    """Choose the weights for a file, and see that it is of the challenge."""
    if arguments.challenge is not None and coils is not None and min(coils, 2) != CHALLENGES[arguments.challenge]:
        kind = "one coil" if coils == 1 else f"{coils} coils"
        raise InputError(f"{file}: is of {kind}, not of challenge '{arguments.challenge}'; leave it out, or the option")
    return arguments.checkpoint or weights_for(coils or 1)


def _summary(
    arguments: argparse.Namespace, methods: dict[str, Method], undersampling: Undersampling | None
) -> dict[str, Any]:
    """Say how volumes are reconstructed: all that must be the same in one output folder."""
    method = next(iter(methods.values()))
    modelled = method.name in MODEL_METHODS
    samples = method.samples if arguments.samples is not None or method.name == "samples" else None
    return {
        "mrihvae": __version__,
        "input": str(_input(arguments)),
        "torch": str(torch.__version__),
        "method": method.name,
        "checkpoint": ", ".join(methods) if modelled else None,
        "weights": ", ".join(fingerprint(find_weights(name)) for name in methods) if modelled else None,
        "inference": inference_of(method),
        "samples": samples,
        "pnp": dataclasses.asdict(method.pnp) if method.name == "pnp" else None,
        "strength": method.strength or _usual_strength(method.name),
        "coils": dataclasses.asdict(method.coils),
        "undersampling": dataclasses.asdict(undersampling) if undersampling else None,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
    }


def _usual_strength(name: str) -> dict[str, float | None] | None:
    """Give the strength of a classical method for one coil and for several; None for other methods."""
    if name not in COIL_STRENGTH:
        return None
    return {"one coil": DEFAULT_STRENGTH.get(name), "several coils": COIL_STRENGTH[name]}


def _method(arguments: argparse.Namespace, checkpoint: str) -> Method:
    """Read the options of the method, and load the model if it needs one."""
    if arguments.batch_size < 1:
        raise InputError(f"--batch-size {arguments.batch_size}: must be at least 1")
    if arguments.strength is not None and not arguments.strength > 0:
        raise InputError(f"--strength {arguments.strength}: must be above 0")
    if arguments.samples is not None and arguments.samples < 2:
        raise InputError(f"--samples {arguments.samples}: a deviation takes at least 2")
    if arguments.samples is not None and arguments.method not in SAMPLING_METHODS:
        raise InputError(f"--samples: {arguments.method} draws none; choose --method {' or '.join(SAMPLING_METHODS)}")
    if arguments.samples is None and (arguments.keep_samples or arguments.temperature is not None):
        raise InputError("--keep-samples and --temperature: go with --samples; add it, or leave them out")
    names = ("views", "rounds", "rule", "step", "anchor", "combine", "precision")
    options = {name: getattr(arguments, name) for name in names}
    usual = InferenceSettings.sweeps if arguments.samples is None else 0
    options["sweeps"] = usual if arguments.sweeps is None else arguments.sweeps
    model = None
    if arguments.method in MODEL_METHODS:
        model = load_on(checkpoint, arguments.device)
        card = load_card(find_weights(checkpoint))
        options |= {name: card.get(name, 1.0) for name in ("temperature", "spread")}
        if arguments.temperature is not None:
            options["temperature"] = arguments.temperature
    inference = from_dict(InferenceSettings, options, "inference settings")
    looped = {
        name: getattr(arguments, name) for name in ("iterations", "gamma", "tau", "encoder", "views", "precision")
    }
    looped["sweeps"] = FOR_SCANS.sweeps if arguments.sweeps is None else arguments.sweeps
    pnp = from_dict(PnPSettings, {**dataclasses.asdict(FOR_SCANS), **looped}, "pnp settings")
    named = {"maps": arguments.maps, "refine_maps": arguments.refine_maps, "compress": arguments.virtual_coils}
    named |= {"whiten": arguments.whiten, "output": arguments.combine_coils}
    coils = from_dict(CoilSettings, named, "coil settings")
    samples = arguments.samples or Method.samples
    return Method(arguments.method, model, inference, samples, arguments.strength, pnp, coils)


def _undersampling(arguments: argparse.Namespace) -> Undersampling | None:
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
