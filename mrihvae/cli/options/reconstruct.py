"""Options of `mrihvae reconstruct`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from mrihvae.coils.settings import MAPS, OUTPUTS, CoilSettings
from mrihvae.inference.settings import ANCHORS, COMBINATIONS, RULES, InferenceSettings, RefinementSettings
from mrihvae.io.formats import KSPACE_FORMATS
from mrihvae.physics.sampling import PATTERNS
from mrihvae.pnp.settings import ENCODERS, FOR_SCANS
from mrihvae.recon.settings import METHODS
from mrihvae.utils.precision import PRECISIONS

AXES = {"W": -1, "H": -2}
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


Group = argparse._ArgumentGroup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options, group by group."""
    for title, add in GROUPS.items():
        add(parser.add_argument_group(title))


def _add_input(group: Group) -> None:
    group.add_argument("input", type=Path, nargs="?", metavar="INPUT", help=f"{KSPACE_FORMATS}; or a folder of them")
    group.add_argument("--data_path", "--data-path", type=Path, help="INPUT, as fastMRI's scripts call it")
    group.add_argument(
        "--output", "--output_path", "--output-path", type=Path, required=True,
        help="folder for reconstructions/, panels/ and a JSON",
    )  # fmt: skip
    group.add_argument("--challenge", choices=tuple(CHALLENGES), help="refuse files of the other kind")
    group.add_argument("--resume", action="store_true", help="leave out volumes that are in --output already")


def _add_sampling(group: Group) -> None:
    group.add_argument("--mask-type", choices=PATTERNS, help="undersample complete scans with this pattern")
    group.add_argument("--acceleration", type=float, default=4, help="nominal acceleration of --mask-type")
    group.add_argument("--center-fraction", type=float, help="of --mask-type; 0.32 / acceleration if left out")
    group.add_argument("--axis", choices=tuple(AXES), help="along which lines of --mask-type differ; W if left out")


def _add_method(group: Group) -> None:
    defaults = InferenceSettings()
    group.add_argument("--method", choices=METHODS, default="hybrid", help="how to reconstruct")
    group.add_argument(
        "--checkpoint", "--state_dict_file", "--state-dict-file",
        help="name of shipped weights, or a .safetensors file; left out, those for one coil or for several, by file",
    )  # fmt: skip
    group.add_argument(
        "--strength", type=float, help="regularisation of sense, wavelet and tv; a tuned one if left out"
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    group.add_argument(
        "--batch-size", type=int, default=8, help="coil images reconstructed together; lower it to save memory"
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, default=defaults.precision, help="auto: bfloat16 where that is faster"
    )


def _add_samples(group: Group) -> None:
    group.add_argument("--samples", type=int, help="draw this many posterior samples; write their mean and deviation")
    group.add_argument("--keep-samples", action="store_true", help="write the samples, too")
    group.add_argument(
        "--temperature", type=float, help="factor on the spread of samples; the weights' own if left out"
    )


def _add_coils(group: Group) -> None:
    usual = CoilSettings()
    group.add_argument("--maps", choices=MAPS, default=usual.maps, help="how coil sensitivities are estimated")
    group.add_argument(
        "--refine-maps", type=int, default=usual.refine_maps,
        help="estimate sensitivity maps again at most so often from completed k-space where calibration lines are few; "
        "0: never",
    )  # fmt: skip
    group.add_argument(
        "--virtual-coils", type=int, default=usual.compress,
        help="number of virtual coils; 0: the coils as they are; left out: as many as keep all but the noise",
    )  # fmt: skip
    group.add_argument(
        "--whiten",
        action=argparse.BooleanOptionalAction,
        help="whiten noise of coils, by the file's noise scan or corners of k-space; left out: if there is a scan",
    )
    group.add_argument("--combine-coils", choices=OUTPUTS, default=usual.output, help="what becomes of several coils")


def _add_inference(group: Group) -> None:
    defaults, usual = InferenceSettings(), RefinementSettings()
    group.add_argument("--views", type=int, default=defaults.views, help="mirrored copies that are averaged (hybrid)")
    group.add_argument("--rounds", type=int, default=defaults.rounds, help="passes of the encoder (hybrid)")
    group.add_argument("--sweeps", type=int, help="refinement steps per level (hybrid: 1, or 0 with --samples)")
    group.add_argument("--rule", choices=RULES, default=usual.rule, help="how a refinement step is taken (hybrid)")
    group.add_argument("--step", type=float, help="size of a step of adam or gradient; the usual if left out")
    group.add_argument("--anchor", choices=ANCHORS, default=usual.anchor, help="what holds latents (hybrid)")
    group.add_argument("--combine", choices=COMBINATIONS, default=defaults.combine, help="what measured bins become")


def _add_pnp(group: Group) -> None:
    group.add_argument("--iterations", type=int, default=FOR_SCANS.iterations, help="passes of the encoder (pnp)")
    group.add_argument(
        "--gamma", type=float, default=FOR_SCANS.gamma, help="how far data may pull from the prior's image (pnp)"
    )
    group.add_argument("--tau", type=float, default=FOR_SCANS.tau, help="temperature of the prior, 0 to 1 (pnp)")
    group.add_argument("--encoder", choices=ENCODERS, default=FOR_SCANS.encoder, help="r, told of data, or q (pnp)")


GROUPS: dict[str, Callable[[Group], None]] = {
    "input and output": _add_input,
    "sampling": _add_sampling,
    "method": _add_method,
    "posterior samples": _add_samples,
    "several coils": _add_coils,
    "inference, for experts": _add_inference,
    "PnP-HVAE, for experts": _add_pnp,
}
