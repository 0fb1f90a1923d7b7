"""What changes draws of the prior at inference alone: do they show anatomy, and from where on does the prior know it?

    python -m benchmarks.singlecoil.prior_draws --data DIR

draws images in several ways, and computes the Frechet distance (`benchmarks.common.frechet`) of their magnitudes to
real slices of the training folders, which have noise:

- temperatures: the same for all levels, falling or rising from coarse to fine;
- truncation: random numbers beyond a limit are drawn again;
- size: images of 64 x 64, of which the coarsest level sees more at once, against real slices of that size;
- passes: draws are encoded by q and decoded again, 1 and 8 times, which pulls them towards what the network knows;
- fitted: latents of the coarsest levels from a normal distribution, fitted to those that q infers for real slices;
- real: latents of the coarsest levels are those of a real slice, the prior draws the rest.

All of it is on training slices. Writes results/prior_draws.json, .md and .png, or NAME with --name.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.complete_scans import draw_scans, write_results
from benchmarks.common.frechet import GABOR, frechet_distance, gabor_features
from benchmarks.common.plots import shrink
from benchmarks.common.protocol import spread
from benchmarks.common.provenance import provenance
from benchmarks.singlecoil.realism_tables import prior_draws_table
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import image_grid
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import Inferred, top_down
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian
from mrihvae.model.weights import load_model
from mrihvae.physics.fourier import ifft2c

FOLDERS = ("images/t1ce/train", "images/t1_brain/train", "images/ms_t1_t2_flair/train")
SHAPE, SMALL, BATCH = (128, 128), (64, 64), 8
LIMIT = 1.0  # of truncated normal numbers
SHRINKAGE = 0.1  # of a fitted covariance towards its diagonal
SHOWN, LETTERS = 4, 17  # images of each way in the picture, letters in a line of its names
FILES = 40  # of each folder
Choose = Callable[[int, int, Tensor, Gaussian], Tensor]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        if options.draws < 4:
            raise InputError(f"--draws {options.draws}: must be at least 4")
        with torch.no_grad():
            measure(options)
    except InputError as error:
        print(f"prior_draws: error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(options: argparse.Namespace) -> None:
    """Draw in every way, score, and write the results."""
    model = load_model(options.checkpoint)
    real = {shape: _real(model, options, shape) for shape in (SHAPE, SMALL)}
    features = {shape: gabor_features(ifft2c(kspace).abs()).numpy() for shape, kspace in real.items()}
    rows: list[dict[str, Any]] = []
    shown = {"real slices": ifft2c(real[SHAPE][:SHOWN]).abs().numpy()}
    for name, draw in tqdm(ways(model, real[SHAPE]).items(), "ways"):
        shape = SMALL if name.startswith("size") else SHAPE
        images = torch.cat([draw(first) for first in range(0, options.draws, BATCH)])[: options.draws]
        distance = frechet_distance(gabor_features(images).numpy(), features[shape])
        rows.append({"way": name, "frechet": distance})
        if shape == SHAPE:
            shown[name] = images[:SHOWN].numpy()
    halves = frechet_distance(features[SHAPE][::2], features[SHAPE][1::2])
    results = {
        **provenance(weights=options.checkpoint),
        "command": "python -m benchmarks.singlecoil.prior_draws",
        "draws": options.draws,
        "data": list(FOLDERS),
        "shape": list(SHAPE),
        "features": GABOR,
        "frechet_of_halves": halves,
        "rows": rows,
    }
    output: Path = options.results / f"{options.name}.json"
    write_results(output, results, prior_draws_table(results))
    names = [textwrap.fill(name, LETTERS) for name in shown]
    rows_of_images = [list(row) for row in zip(*shown.values(), strict=True)]
    image_grid(output.with_suffix(".png"), "training slices, and draws of the prior", rows_of_images, names)
    shrink(output.with_suffix(".png"))
    print(output.with_suffix(".md").read_text())


def ways(model: HVAE, real: Tensor) -> dict[str, Callable[[int], Tensor]]:
    """Give the ways of drawing by name: from the number of the first image, magnitudes (BATCH, h, w)."""
    levels = model.settings.levels

    def draws(
        choose: Callable[[int], Choose], shape: tuple[int, int] = SHAPE, passes: int = 0
    ) -> Callable[[int], Tensor]:
        def images(first: int) -> Tensor:
            found = top_down(model, BATCH, shape, choose(first))
            for _ in range(passes):
                found = decode_again(model, found)
            return ifft2c(found.kspace).abs()

        return images

    def prior(temperatures: Sequence[float], limit: float = np.inf) -> Callable[[int], Choose]:
        return lambda first: partial(_draw, generator=_generator(first), temperatures=temperatures, limit=limit)

    one, falling = [1.0] * levels, list(np.linspace(1, 0.5, levels))
    found = {
        "temperature 1": draws(prior(one)),
        "temperature 0.7": draws(prior([0.7] * levels)),
        "temperature from 1 (coarse) to 0.5 (fine)": draws(prior(falling)),
        "temperature from 0.5 (coarse) to 1 (fine)": draws(prior(falling[::-1])),
        f"truncated at {LIMIT:g} SD": draws(prior(one, LIMIT)),
        f"size {SMALL[0]} x {SMALL[1]}": draws(prior(one), SMALL),
        "encoded and decoded once": draws(prior(one), passes=1),
        "encoded and decoded 8 times": draws(prior(one), passes=8),
    }
    inferred = encode(model, real)
    for count in (1, 2):
        fits = fitted(inferred, count)
        found[f"coarsest {count} fitted to real slices"] = draws(
            lambda first, count=count, fits=fits: _from_fit(prior(one)(first), fits, _generator(first, 1), count)
        )
    for count in range(1, levels):
        found[f"coarsest {count} of a real slice"] = draws(
            lambda first, count=count: _from_real(prior(one)(first), inferred, first, count)
        )
    return found


def encode(model: HVAE, kspace: Tensor) -> Inferred:
    """Infer the latents of complete slices: samples of q."""
    generator, parts = _generator(0, 2), []
    for first in range(0, len(kspace), BATCH):
        batch = kspace[first : first + BATCH]
        parts.append(top_down(model, len(batch), SHAPE, _sampling(CompleteEncoder(model, batch), generator)))
    found = Inferred()
    for j, level in enumerate(parts[0].latents):
        found.latents.append([torch.cat([part.latents[j][k] for part in parts]) for k in range(len(level))])
    return found


def decode_again(model: HVAE, drawn: Inferred) -> Inferred:
    """Encode images by the means of q, and decode them."""
    kspace = drawn.kspace
    encoder = CompleteEncoder(model, kspace)
    shape = (kspace.shape[-2], kspace.shape[-1])
    return top_down(model, len(kspace), shape, lambda j, k, state, prior: encoder(j, k, state, prior).mu)


def fitted(inferred: Inferred, count: int) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Fit normal distributions to the latents of the `count` coarsest levels, all layers of a level together.

    Returns
    -------
    under (level, 0) mean and Cholesky factor of the covariance, shrunk towards its diagonal
    """
    found = {}
    for j in range(count):
        flat = torch.cat([z.flatten(1) for z in inferred.latents[j]], dim=1).double()
        covariance = torch.cov(flat.T)
        diagonal = torch.diag(covariance.diagonal())
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal + 1e-6 * torch.eye(len(covariance)).double()
        found[j, 0] = flat.mean(dim=0), torch.linalg.cholesky(shrunk)
    return found


def _draw(
    j: int,
    k: int,
    state: Tensor,
    prior: Gaussian,
    generator: torch.Generator,
    temperatures: Sequence[float],
    limit: float,
) -> Tensor:
    """Draw the latents of a layer from the prior."""
    numbers = torch.randn(prior.mu.shape, generator=generator)
    while bool((beyond := numbers.abs() > limit).any()):
        numbers[beyond] = torch.randn(int(beyond.sum()), generator=generator)
    return prior.mu + temperatures[j] * prior.sigma * numbers


def _sampling(encoder: CompleteEncoder, generator: torch.Generator) -> Choose:
    def choose(j: int, k: int, state: Tensor, prior: Gaussian) -> Tensor:
        q = encoder(j, k, state, prior)
        return q.mu + q.sigma * torch.randn(q.mu.shape, generator=generator)

    return choose


def _from_fit(
    otherwise: Choose, fits: dict[tuple[int, int], tuple[Tensor, Tensor]], generator: torch.Generator, count: int
) -> Choose:
    """Draw the coarsest levels from fitted distributions, the others otherwise."""
    drawn: dict[int, Tensor] = {}

    def choose(j: int, k: int, state: Tensor, prior: Gaussian) -> Tensor:
        if j >= count:
            return otherwise(j, k, state, prior)
        if k == 0:
            mean, factor = fits[j, 0]
            drawn[j] = mean + torch.randn(BATCH, len(mean), generator=generator).double() @ factor.T
        size = prior.mu[0].numel()
        return drawn[j][:, k * size : (k + 1) * size].reshape(prior.mu.shape).float()

    return choose


def _from_real(otherwise: Choose, inferred: Inferred, first: int, count: int) -> Choose:
    """Take the coarsest levels of real slices, the others otherwise."""

    def choose(j: int, k: int, state: Tensor, prior: Gaussian) -> Tensor:
        if j >= count:
            return otherwise(j, k, state, prior)
        z = inferred.latents[j][k]
        return z[torch.arange(first, first + BATCH) % len(z)]

    return choose


def _real(model: HVAE, options: argparse.Namespace, shape: tuple[int, int]) -> Tensor:
    """Draw complete training slices, with noise, from some files of each folder: k-space (n, H, W)."""
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / folder for folder in FOLDERS]
        for folder, path in zip(FOLDERS, paths, strict=True):
            path.mkdir(parents=True)
            for file in spread(sorted((options.data / folder).iterdir()), FILES):
                (path / file.name).symlink_to(file.resolve())
        batches = draw_scans(model, paths, shape, options.draws, BATCH, seed=0)
    return torch.cat([scans.kspace for scans in batches])


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--checkpoint", default="default", help="a shipped name or a .safetensors file")
    parser.add_argument("--draws", type=int, default=96, help="draws, and real slices")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--name", default="prior_draws", help="of the results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
