"""PnP-HVAE on magnitude images: Rician noise against taking it for Gaussian, and scans whose phase is not known.

    python -m benchmarks.pnp.magnitudes --data DIR --checkpoint restoration

Rician: only y = |x + n| of a real image x and complex noise n is known. f is its exact likelihood, or least squares
with the deviation of one component. r always sees Gaussian data: y, or sqrt(y^2 - sigma^2), whose mean square is that
of x. Bias is the mean of what was restored minus the truth, over sigma, where the truth is dark. Unknown phase:
y = |x + n| of complex simulated scans; x begins without phase, which cannot be known from y, and PSNR is that of |x|.
Writes results/NAME.json, .md and .png, NAME being the protocol's.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.random import RandomState
from torch import Tensor
from tqdm import tqdm

from benchmarks.common.complete_scans import left_out, limited, read_toml, run_command, weights_of, write_results
from benchmarks.common.plots import save
from benchmarks.common.provenance import provenance
from benchmarks.common.simulated_scans import MATRIX, simulate
from benchmarks.pnp.contraction import read_images, stacked
from benchmarks.pnp.temperatures import psnr
from mrihvae.errors import InputError
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.data_fidelity import DataTerm, Differentiable, LeastSquares, PhaseFree, Rician
from mrihvae.physics.degradations import denoising
from mrihvae.physics.fourier import ifft2c, resize_kspace
from mrihvae.physics.scaling import image_scale
from mrihvae.pnp.loop import restore
from mrihvae.pnp.restore import make_posteriors
from mrihvae.pnp.settings import ENCODERS, PnPSettings
from mrihvae.utils.config import from_dict

CASES = ("real images", "unknown phase")
DARK = 0.03  # of the 99th percentile: below it lies background
CHOSEN = ("encoder", "gamma", "result", "seed")
Method = tuple[DataTerm, LeastSquares]  # what the loop minimizes, and what the network is told


@dataclass(frozen=True)
class MagnitudeSettings:
    """What is measured.

    Attributes
    ----------
    checkpoint : weights: shipped, or a file of benchmarks/weights
    sets : folders of images, below the data directory
    matrix : H and W of images and scans, see `degraded_images.read_pictures`
    slices : of each set
    noises : sigma of the complex noise, sqrt(E|n|^2), over the image's 99th percentile
    gamma, gamma_over_noise : of the loop: the greater of the first, and the second times sigma
    steps, step : of Adam in the proximal step of differentiable terms
    seed : of noise and phase
    """

    checkpoint: str = "restoration"
    sets: tuple[str, ...] = ("images/t1ce/val",)
    matrix: int = 128
    slices: int = 2
    noises: tuple[float, ...] = (0.05, 0.1, 0.2)
    gamma: float = 0.05
    gamma_over_noise: float = 1.0
    steps: int = 50
    step: float = 0.01
    seed: int = 9

    def __post_init__(self) -> None:
        if not self.sets or min(self.matrix, self.slices, self.steps) < 1 or min(*self.noises, self.step) <= 0:
            raise ValueError("all numbers must be at least 1, and noises and step above 0")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    weights = {"checkpoint": "weights with r for degraded images"}
    return run_command(measure, __doc__, "pnp_magnitudes.toml", weights, arguments)


def measure(options: argparse.Namespace) -> None:
    """Measure both cases at every noise, with every encoder and data term; write results and figure."""
    settings, loops = read_settings(options.protocol)
    settings = replace(settings, slices=limited(settings.slices, options.limit))
    checkpoint = weights_of(options.checkpoint, settings.checkpoint)
    model = load_model(checkpoint)
    if not model.settings.degraded:
        raise InputError(f"--checkpoint {checkpoint}: has no posterior of degraded images; choose restoration")
    images, large = (
        stacked(read_images(options.data, settings.sets, settings.slices, matrix))
        for matrix in (settings.matrix, MATRIX)
    )
    truths = {"real images": images, "unknown phase": simulated(large, settings.matrix, settings.seed)}
    rows: list[dict[str, Any]] = []
    shown: dict[tuple[str, str], dict[str, Tensor]] = {}
    for case, noise in tqdm([(case, noise) for case in CASES for noise in settings.noises], "magnitudes"):
        truth, data = magnitudes(truths[case], noise, settings.seed)
        rows.append({"case": case, "noise": noise, "encoder": "", "term": "as given", **scores(data, truth, noise)})
        for encoder, loop in loops.items():
            panel = shown.setdefault((case, encoder), {"truth": truth[0]}) if noise == max(settings.noises) else {}
            panel["as given"] = data[0]
            for name, method in methods(case, encoder, data, noise, settings).items():
                decoded, image = solve(model, method, loop, noise, settings)
                panel[name] = decoded[0]
                of_mu = {f"mu_{key}": value for key, value in scores(decoded, truth, noise).items()}
                rows.append({"case": case, "noise": noise, "encoder": encoder, "term": name,
                             **scores(image, truth, noise), **of_mu})  # fmt: skip
    results = {
        **provenance(options.protocol),
        **asdict(settings),
        "checkpoint": fingerprint(find_weights(checkpoint)),
        **{encoder: asdict(loop) for encoder, loop in loops.items()},
        "rows": rows,
    }
    output = options.results / f"{options.protocol.stem}.json"
    write_results(output, results, markdown(results))
    _plot(results, shown, output.with_suffix(".png"))
    print(markdown(results))


def read_settings(path: Path) -> tuple[MagnitudeSettings, dict[str, PnPSettings]]:
    """Read a protocol: what is measured, and the loop of each encoder.

    Raises
    ------
    InputError
        Not readable, or with unknown settings.
    """
    found = read_toml(path)
    loops = {}
    for encoder in ENCODERS:
        own = found.pop(encoder, {})
        left_out(own, CHOSEN, f"{path}, {encoder}")
        loops[encoder] = replace(from_dict(PnPSettings, own, f"{path}, {encoder}"), encoder=encoder)
    return from_dict(MagnitudeSettings, found, str(path)), loops


def simulated(images: Tensor, matrix: int, seed: int) -> Tensor:
    """Simulate complex scans of magnitudes, with a smooth phase and the simulation's own noise: (slices, H, W)."""
    scans = [simulate(image.numpy(), RandomState([seed, number])) for number, image in enumerate(images)]
    return ifft2c(torch.stack([resize_kspace(scan, (matrix, matrix)) for scan in scans]))


def magnitudes(images: Tensor, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Give images (slices, H, W) and |x + n|, both over the 99th percentile of the latter; `noise` is in that unit.

    Noise moves that percentile, so it is added once more where it comes out by more than a thousandth off.
    """
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(images.shape, dtype=torch.complex64, generator=generator)
    scale = image_scale(images)[:, None, None]
    for _ in range(20):
        data = (images + noise * scale * white).abs()
        last, scale = scale, image_scale(data)[:, None, None]
        if bool(((scale / last - 1).abs() < 1e-3).all()):
            break
    return images / last, (images / last + noise * white).abs()


def methods(case: str, encoder: str, data: Tensor, noise: float, settings: MagnitudeSettings) -> dict[str, Method]:
    """Make the data terms of a case, and what the network is told with each."""
    sigma, operator = torch.full((len(data),), noise), denoising()
    gaussian = LeastSquares(operator, data, sigma / math.sqrt(2), real=True)
    rician = Rician(operator, data, sigma)
    if case == "unknown phase":
        told = LeastSquares(operator, data.to(torch.complex64), sigma)

        def differentiable(function: Callable[[Tensor], Tensor]) -> Differentiable:
            return Differentiable(function, steps=settings.steps, step=settings.step)

        phase_free = PhaseFree(data, sigma)
        return {
            "phase-free": (phase_free, told),
            "phase-free, by Adam": (differentiable(phase_free.value), told),
            "Rician of the magnitude, by Adam": (differentiable(lambda x: rician.value(x.abs())), told),
            "Rician, as a real image": (rician, gaussian),
        }
    found: dict[str, Method] = {"Gaussian": (gaussian, gaussian), "Rician": (rician, gaussian)}
    if encoder == "data":
        corrected = replace(gaussian, data=(data**2 - noise**2).clamp_min(0).sqrt())
        found["Rician, r sees corrected data"] = (rician, corrected)
    return found


def solve(
    model: HVAE, method: Method, loop: PnPSettings, noise: float, settings: MagnitudeSettings
) -> tuple[Tensor, Tensor]:
    """Run the loop on data in model units: mu(z) and x, (slices, H, W)."""
    term, told = method
    chosen = replace(loop, gamma=max(settings.gamma, settings.gamma_over_noise * noise))
    with torch.no_grad():
        posteriors, initial = make_posteriors(model, told, chosen)
        found = restore(model, term, posteriors, initial, chosen)
    return found.decoded, found.image


def scores(image: Tensor, truth: Tensor, noise: float) -> dict[str, float]:
    """Compute mean PSNR of magnitudes, dB, and the mean error over sigma where the truth is dark."""
    found, wanted = (one.abs() if one.is_complex() else one for one in (image, truth))
    dark = wanted < DARK
    bias = float((found - wanted)[dark].mean()) / noise if bool(dark.any()) else float("nan")
    return {"PSNR": float(psnr(found, wanted).mean()), "bias": bias}


def markdown(results: dict[str, Any]) -> str:
    """Lay out PSNR and bias over noises, a row per case, encoder and data term."""
    noises = results["noises"]
    lines = ["| case | encoder | data term | of | " + " | ".join(f"noise {noise:g}" for noise in noises) + " |"]
    lines.append("|---" * (4 + len(noises)) + "|")
    for case, encoder, term in dict.fromkeys((row["case"], row["encoder"], row["term"]) for row in results["rows"]):
        own = [row for row in results["rows"] if (row["case"], row["encoder"], row["term"]) == (case, encoder, term)]
        for symbol, prefix in (("x", ""), ("mu", "mu_")) if encoder else (("y", ""),):
            shown = [f"{row[f'{prefix}PSNR']:.2f} ({row[f'{prefix}bias']:+.2f})" for row in own]
            lines.append(f"| {case} | {encoder} | {term} | {symbol} | {' | '.join(shown)} |")
    return "\n".join([
        *lines,
        "",
        "PSNR of magnitudes in dB (bias of the background over sigma). The phase of scans cannot be known from "
        "magnitudes; their truth has noise of its own.",
        "",
    ])  # fmt: skip


def _plot(results: dict[str, Any], shown: dict[tuple[str, str], dict[str, Tensor]], path: Path) -> None:
    """Draw PSNR and bias of mu over noise on top, and mu of the most noise below."""
    columns = max(len(images) for images in shown.values())
    figure = Figure(figsize=(1.9 * columns, 4.2 + 2.2 * len(shown)), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=(4.2, 2.2 * len(shown)))
    axes = top.subplots(1, 4)
    for column, case in enumerate(CASES):
        of_case = [row for row in results["rows"] if row["case"] == case]
        terms = list(dict.fromkeys(row["term"] for row in of_case))
        for encoder, term in dict.fromkeys((row["encoder"], row["term"]) for row in of_case):
            own = [row for row in of_case if (row["encoder"], row["term"]) == (encoder, term)]
            color = "k" if not encoder else colormaps["tab10"](terms.index(term))
            for axis, key in zip(axes[2 * column : 2 * column + 2], ("PSNR", "bias")):
                values = [row[f"mu_{key}" if encoder else key] for row in own]
                style = "-" if encoder == "data" else "--"
                name = f"{term}, {encoder}" if encoder else term
                axis.plot(results["noises"], values, style, color=color, marker=".", label=name)
        for axis, label in zip(axes[2 * column : 2 * column + 2], ("PSNR of |mu| / dB", "background bias / sigma")):
            axis.set_title(f"{case}: {label}", fontsize=8)
            axis.set_xlabel("sigma", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        axes[2 * column].legend(fontsize=5.5)
    panels = below.subplots(len(shown), columns, squeeze=False)
    for axis in panels.flat:
        axis.axis("off")
    for row, ((case, encoder), images) in enumerate(shown.items()):
        bright = float(images["truth"].abs().max())
        for column, (name, image) in enumerate(images.items()):
            panels[row, column].imshow(image.abs().numpy(), cmap="gray", vmin=0, vmax=0.9 * bright)
            title = f"{case}, {encoder}:\n{name}" if column == 0 else name
            panels[row, column].set_title(title, fontsize=7)
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
