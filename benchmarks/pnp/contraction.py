"""Where PnP-HVAE's loop contracts, and whether it converges there: ratios, norms of Jacobians, and three starts.

    python -m benchmarks.pnp.contraction --data DIR --checkpoint restoration

Ratios |F(x1) - F(x2)| / |x1 - x2| are of pairs of one image with independent noise (PnP-HVAE, section 4), norms those
of the Jacobian at such an image, by power iteration: bounds from below, which rise with its iterations. F is
x -> HVAE_tau(x), and an iteration of the loop, x -> prox(HVAE_tau(x)). Then the loop runs from three starts on the same
data, and it is seen whether it ends at one image wherever its late steps shrink. Writes results/NAME.json, .md and
.png, NAME being the protocol's, and pnp_convergence.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.complete_scans import left_out, limited, read_toml, run_command, weights_of, write_results
from benchmarks.common.provenance import provenance
from benchmarks.pnp.contraction_tables import SAME, STARTS, markdown, plot_ratios, plot_runs
from benchmarks.pnp.degraded_images import TASKS, Picture, TaskSettings, degrade, read_pictures
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.data_fidelity import DataTerm, LeastSquares
from mrihvae.physics.degradations import Inpainting
from mrihvae.pnp.contraction import encode_and_decode, noisy_pairs, ratio, spectral_norm, whole_loop
from mrihvae.pnp.loop import Restored, restore
from mrihvae.pnp.restore import in_model_units, make_posteriors
from mrihvae.pnp.settings import ENCODERS, PnPSettings
from mrihvae.utils.config import from_dict
from mrihvae.utils.notices import collect_notices

ROUNDING = 1e-6  # relative steps below this are single precision's
POINTS = 200  # of a curve, at most
ROUNDED_J = 1e-5  # the same of J, a sum over all latents


@dataclass(frozen=True)
class ContractionSettings:
    """What is measured.

    Attributes
    ----------
    checkpoint : weights: shipped, or a file of benchmarks/weights
    sets : folders of images, below the data directory
    matrix : H and W of images, see `degraded_images.read_pictures`
    slices, norm_slices, loop_slices : of each set for ratios; in all for Jacobians; in all for the starts
    taus : temperatures, the same for all levels
    noises : of the pairs, over the image's 99th percentile
    pairs : of each image
    data_noise : of the data of all tasks
    gamma : of the loop
    first_steps, steps : power iterations at the first tau, and at each further one, which starts where that ended
    loop_tau : temperatures of the runs from three starts
    loop_iterations : of each run
    seed : of pairs and directions
    """

    checkpoint: str = "restoration"
    sets: tuple[str, ...] = ("images/t1ce/val",)
    matrix: int = 128
    slices: int = 1
    norm_slices: int = 1
    loop_slices: int = 1
    taus: tuple[float, ...] = (1.0, 0.95, 0.9, 0.8, 0.6, 0.3)
    noises: tuple[float, ...] = (0.01, 0.03, 0.05, 0.1)
    pairs: int = 2
    data_noise: float = 0.05
    gamma: float = 0.05
    first_steps: int = 12
    steps: int = 4
    loop_tau: tuple[float, ...] = (0.9,)
    loop_iterations: int = 60
    seed: int = 9

    def __post_init__(self) -> None:
        numbers = (self.matrix, self.slices, self.norm_slices, self.loop_slices, self.pairs)
        if not self.sets or min(*numbers, self.first_steps, self.steps) < 1 or self.loop_iterations < 4:
            raise ValueError("all numbers must be at least 1, and loop_iterations 4")
        if min(*self.noises, self.data_noise) <= 0 or not all(0 <= tau <= 1 for tau in (*self.taus, *self.loop_tau)):
            raise ValueError("noises must be above 0, and temperatures in [0, 1]")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    weights = {"checkpoint": "weights with r for degraded images"}
    return run_command(measure, __doc__, "pnp_contraction.toml", weights, arguments)


def measure(options: argparse.Namespace) -> None:
    """Measure ratios, norms and runs; write results and figures."""
    settings, task_settings = read_settings(options.protocol)
    settings = replace(
        settings,
        **{name: limited(getattr(settings, name), options.limit) for name in ("slices", "norm_slices", "loop_slices")},
    )
    checkpoint = weights_of(options.checkpoint, settings.checkpoint)
    model = load_model(checkpoint)
    if not model.settings.degraded:
        raise InputError(f"--checkpoint {checkpoint}: has no posterior of degraded images; choose restoration")
    pictures = read_images(options.data, settings.sets, settings.slices, settings.matrix)
    results = {
        **provenance(options.protocol),
        **asdict(settings),
        "checkpoint": fingerprint(find_weights(checkpoint)),
        "task": asdict(task_settings),
        "ratios": ratios(model, pictures, settings, task_settings),
        "norms": norms(model, pictures[: settings.norm_slices], settings, task_settings),
        "runs": [
            run for picture in pictures[: settings.loop_slices] for run in runs(model, picture, settings, task_settings)
        ],
    }
    output = options.results / f"{options.protocol.stem}.json"
    write_results(output, results, markdown(results))
    plot_ratios(results, output.with_suffix(".png"))
    of_first = results["runs"][: len(TASKS) * len(ENCODERS) * len(settings.loop_tau)]
    plot_runs(of_first, output.with_name("pnp_convergence.png"))
    print(markdown(results))


def read_settings(path: Path) -> tuple[ContractionSettings, TaskSettings]:
    """Read a protocol: what is measured, and how images are degraded.

    Raises
    ------
    InputError
        Not readable, or with unknown settings.
    """
    found = read_toml(path)
    task_settings = read_task(found, path)
    return from_dict(ContractionSettings, found, str(path)), task_settings


def read_task(protocol: dict[str, Any], path: Path) -> TaskSettings:
    """Take the section `task` out of a protocol: how images are degraded, but for the noise.

    Raises
    ------
    InputError
        Unknown settings.
    """
    own = protocol.pop("task", {})
    left_out(own, ("noise",), f"{path}, task")
    return from_dict(TaskSettings, own, f"{path}, task")


# --- images and their degradation ------------------------------------------------------------------------------------


def read_images(data: Path, folders: Sequence[str], slices: int, matrix: int) -> list[Picture]:
    """Read as many images of each folder, their 99th percentile 1."""
    return [picture for folder in folders for picture in read_pictures(data, folder, slices, matrix)]


def stacked(pictures: Sequence[Picture]) -> Tensor:
    """Put images in a batch, real (slices, H, W)."""
    return torch.stack([picture.image for picture in pictures])


def degraded(pictures: Sequence[Picture], task: str, noise: float, settings: TaskSettings) -> LeastSquares:
    """Degrade images, a batch."""
    terms = [degrade(picture, task, noise, settings).term for picture in pictures]
    masks = [term.operator.mask for term in terms if isinstance(term.operator, Inpainting)]
    operator = Inpainting(torch.cat(masks)) if masks else terms[0].operator
    data, sigma = (torch.cat([getattr(term, name) for term in terms]) for name in ("data", "noise"))
    return LeastSquares(operator, data, sigma, real=True)


# --- ratios and norms ------------------------------------------------------------------------------------------------


def ratios(
    model: HVAE, pictures: Sequence[Picture], settings: ContractionSettings, degradation: TaskSettings
) -> list[dict[str, Any]]:
    """Measure ratios of both maps for every encoder, task, temperature and noise of pairs: a row each."""
    rows, images = [], stacked(pictures)
    terms = {task: in_model_units(degraded(pictures, task, settings.data_noise, degradation)) for task in TASKS}
    for encoder, task in tqdm([(e, t) for e in ENCODERS for t in (TASKS if e == "data" else ("",))], "ratios"):
        term, scale = terms[task or "denoising"]
        (posterior,), _ = make_posteriors(model, term, PnPSettings(encoder=encoder, precision="float32"))
        for tau in settings.taus:
            chosen = PnPSettings(encoder=encoder, tau=tau, gamma=settings.gamma, precision="float32")
            function = encode_and_decode(model, posterior, chosen)
            for noise in settings.noises:
                found: dict[tuple[str, str], list[Tensor]] = {}
                for pair in noisy_pairs(images / scale[:, None, None], noise, settings.pairs, settings.seed):
                    with torch.no_grad():
                        mapped = (function(pair[0]), function(pair[1]))
                    found.setdefault(("HVAE", task), []).append(ratio(mapped, pair))
                    for one in (task,) if task else TASKS:
                        stepped = [terms[one][0].prox(image, settings.gamma) for image in mapped]
                        found.setdefault(("loop", one), []).append(ratio((stepped[0], stepped[1]), pair))
                for (which, one), values in found.items():
                    of_all = torch.stack(values)
                    rows.append({"encoder": encoder, "map": which, "task": one, "tau": tau, "noise": noise,
                                 "mean": float(of_all.mean()), "max": float(of_all.max())})  # fmt: skip
    return rows


def norms(
    model: HVAE, pictures: Sequence[Picture], settings: ContractionSettings, degradation: TaskSettings
) -> list[dict[str, Any]]:
    """Bound norms of Jacobians at noisy images: of q's map at every noise, of r's and of loops at the data's."""
    cases: list[tuple[str, str, str, float]] = [("complete", "HVAE", "", noise) for noise in settings.noises]
    cases += [("data", "HVAE", task, settings.data_noise) for task in TASKS]
    cases += [(encoder, "loop", task, settings.data_noise) for encoder in ENCODERS for task in TASKS]
    rows, images = [], stacked(pictures)
    for encoder, which, task, noise in tqdm(cases, "norms"):
        term, scale = in_model_units(degraded(pictures, task or "denoising", settings.data_noise, degradation))
        (at, _), *_ = noisy_pairs(images / scale[:, None, None], noise, 1, settings.seed)
        (posterior,), _ = make_posteriors(model, term, PnPSettings(encoder=encoder, precision="float32"))
        direction: Tensor | None = None
        for tau in settings.taus:
            chosen = PnPSettings(encoder=encoder, tau=tau, gamma=settings.gamma, precision="float32")
            loop = whole_loop(model, posterior, term, chosen)
            function = loop if which == "loop" else encode_and_decode(model, posterior, chosen)
            steps = settings.first_steps if direction is None else settings.steps
            found = spectral_norm(function, at, steps, settings.seed, direction)
            direction = found.direction
            last = found.history[-2:]
            rows.append({"encoder": encoder, "map": which, "task": task, "tau": tau, "noise": noise,
                         "bound": float(found.bound.max()),
                         "last_rise": float((last[-1] - last[0]).max())})  # fmt: skip
    return rows


# --- three starts ----------------------------------------------------------------------------------------------------


@dataclass
class Recorded:
    """A data term that keeps what its proximal steps gave."""

    term: DataTerm
    images: list[Tensor] = field(default_factory=list)

    @property
    def real(self) -> bool:
        """Whether images are real."""
        return self.term.real

    def value(self, image: Tensor) -> Tensor:
        """Compute f(x), (slices,)."""
        return self.term.value(image)

    def prox(self, v: Tensor, gamma: Tensor | float) -> Tensor:
        """Compute the proximal step, and keep it."""
        self.images.append(self.term.prox(v, gamma))
        return self.images[-1]


def runs(
    model: HVAE, picture: Picture, settings: ContractionSettings, degradation: TaskSettings
) -> list[dict[str, Any]]:
    """Run the loop on an image from all starts, for every task, encoder and temperature: a row each."""
    rows = []
    cases = [(task, encoder, tau) for task in TASKS for encoder in ENCODERS for tau in settings.loop_tau]
    for task, encoder, tau in tqdm(cases, "starts"):
        one = degraded([picture], task, settings.data_noise, degradation)
        repeated = (len(STARTS), *[1] * (one.data.ndim - 1))
        term, _ = in_model_units(replace(one, data=one.data.repeat(repeated), noise=one.noise.repeat(len(STARTS))))
        chosen = PnPSettings(
            iterations=settings.loop_iterations, encoder=encoder, tau=tau, gamma=settings.gamma, tolerance=ROUNDING,
            precision="float32",
        )  # fmt: skip
        recorded = Recorded(term)
        with torch.no_grad(), collect_notices():  # runs that run away stand in the results
            posteriors, initial = make_posteriors(model, term, chosen)
            noise = torch.randn(initial[0].shape, generator=torch.Generator().manual_seed(settings.seed))
            start = torch.stack([initial[0], torch.zeros_like(initial[0]), noise])
            found = restore(model, recorded, posteriors, start, chosen)
        rows.append({"task": task, "encoder": encoder, "tau": tau, **summary(found, recorded.images)})
    return rows


def summary(found: Restored, images: Sequence[Tensor]) -> dict[str, Any]:
    """Sum up runs of one problem from several starts, slices of the loop.

    Parameters
    ----------
    found : of the loop, with a tolerance of no more than `ROUNDING`
    images : x after each iteration, (starts, H, W)

    Returns
    -------
    late_ratio : mean ratio (geometric) of steps above rounding in the second half, the largest of all starts; NaN if
        none is
    distance : largest relative distance of two starts' last images
    reach : what is left to go of two runs by the late ratio: twice the last step times q / (1 - q)
    held : whether they came to one image, or the late ratio is no contraction's
    monotone, rise : whether J never rose by more than rounding; its largest rise in an iteration, over its whole range
    curves : steps, J and ratios of each start, and the distance of starts, after one of `every` iterations
    """
    residual, objective = torch.stack(found.residual), torch.stack(found.objective).double()
    step = torch.stack(found.ratio or [torch.full_like(residual[0], torch.nan)])
    half = len(residual) // 2
    late = step[max(half - 1, 0) :]
    logs = torch.where(residual[-len(late) :] > ROUNDING, late.log(), torch.nan).nanmean(dim=0)
    logs = logs[~logs.isnan()]
    q = float(logs.max().exp()) if logs.numel() else float("nan")
    distances = [_spread(x) for x in images]
    rises = objective.diff(dim=0).amax(dim=0)
    size = objective.abs().amax(dim=0)
    extent = (objective.amax(dim=0) - objective.amin(dim=0)).clamp_min(ROUNDED_J * size)
    every = -(-len(residual) // POINTS)
    contracts = not (q >= 1 or found.diverged.any())  # where nothing above rounding is left it has converged
    return {
        "diverged": found.diverged.tolist(),
        "residual": float(residual[-1].max()),
        "late_ratio": q,
        "distance": distances[-1],
        "reach": float(2 * residual[-1].max() * q / (1 - q)) if q < 1 else None,
        "contracts": contracts,
        "held": not contracts or distances[-1] < SAME,
        "monotone": bool((rises <= ROUNDED_J * size).all()),
        "rise": float((rises / extent).max().clamp_min(0)),
        "every": every,
        "curves": {
            "residual": _rounded(residual[::every]),
            "objective": _rounded(objective[::every]),
            "ratio": _rounded(step[::every]),
            "distance": _rounded(torch.tensor(distances[::every])),
        },
    }


def _rounded(values: Tensor) -> Any:
    """List numbers with six digits."""
    return [float(f"{v:.6g}") for v in values.tolist()] if values.ndim == 1 else [_rounded(row) for row in values]


def _spread(images: Tensor) -> float:
    """Compute the largest distance of two images over the norm of the first."""
    apart = torch.stack([(a - b).norm() for a in images for b in images])
    return float(apart.max() / images[0].norm().clamp_min(1e-12))


if __name__ == "__main__":
    sys.exit(main())
