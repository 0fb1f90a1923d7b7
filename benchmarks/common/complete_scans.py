"""What benchmarks of inference on complete scans share: their command, protocols, scans and likelihoods."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import HERE
from mrihvae.cli.train_checks import check_fit
from mrihvae.datasets.mixture import load_mixture
from mrihvae.errors import InputError
from mrihvae.inference.encoders import CompleteEncoder
from mrihvae.inference.latents import Inferred, top_down
from mrihvae.model.hvae import HVAE
from mrihvae.model.layers import Gaussian
from mrihvae.training.batches import Scans
from mrihvae.training.draw import SimulationSettings
from mrihvae.training.loop import Batches
from mrihvae.training.objective import dimensions
from mrihvae.training.run import TrainSettings
from mrihvae.utils.files import atomic_write

DIGITS = 6  # of numbers in results


def run_command(
    measure: Callable[[argparse.Namespace], None],
    doc: str | None,
    protocol: str,
    weights: Mapping[str, str],
    arguments: list[str] | None = None,
    further: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> int:
    """Read a benchmark's options and run it; returns its exit status.

    Parameters
    ----------
    measure : does the work
    doc : what the command says of itself
    protocol : the usual one, a file of protocols/
    weights : names of options for weights, and which these are
    arguments : the command line's, if left out
    further : declares options of its own
    """
    name = Path(sys.modules[measure.__module__].__file__ or "").stem
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = HERE.parent / "protocols" / protocol
    parser.add_argument("protocol", type=Path, nargs="?", default=usual, help=f"default: protocols/{protocol}")
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    for option, which in weights.items():
        parser.add_argument(f"--{option}", help=f"{which}, a .safetensors file; default: the protocol's")
    parser.add_argument("--limit", type=int, help="at most this many scans")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    further(parser)
    options = parser.parse_args(arguments)
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        torch.set_num_threads(max(1, options.threads))
        measure(options)
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def write_results(output: Path, results: Mapping[str, Any], table: str) -> None:
    """Write results as JSON, which has no infinity (null), and beside them their table (.md)."""
    with atomic_write(output) as temporary:
        temporary.write_text(layout(results))
    with atomic_write(output.with_suffix(".md")) as temporary:
        temporary.write_text(table)


def layout(results: Mapping[str, Any]) -> str:
    """Write results as JSON: lists of numbers in one line, numbers to `DIGITS` digits."""
    text = json.dumps(_rounded(results), indent=1)
    return re.sub(r"\[\s*([-+.\deE,\s]+?)\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _rounded(value: Any) -> Any:
    """Round numbers, and put None in the place of those that are not finite."""
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def left_out(section: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse settings of a protocol that its benchmark chooses.

    Raises
    ------
    InputError
        Any of them is there.
    """
    for name in names:
        if name in section:
            raise InputError(f"{where}: {name} is chosen by the benchmark; leave it out")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        Not readable.
    """
    try:
        values = tomllib.loads(path.read_text())
        return {key: value for key, value in values.items() if key not in ("kind", "run")}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as TOML ({error}); check the file") from error


def weights_of(given: str | None, name: str) -> str:
    """Take the weights that were given, or those that a protocol names: of the benchmarks, or shipped."""
    own = HERE / "weights" / f"{name}.safetensors"
    return given or (str(own) if own.is_file() else name)


def limited(slices: int, limit: int | None) -> int:
    """Take at most `limit` of so many slices.

    Raises
    ------
    InputError
        A limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: must be at least 1")
    return slices if limit is None else min(slices, limit)


def draw_scans(
    model: HVAE, paths: Sequence[Path | str], shape: tuple[int, int], slices: int, batch: int, seed: int
) -> list[Scans]:
    """Draw complete scans, always the same, in batches.

    Parameters
    ----------
    paths : training data as `mrihvae train` takes them; equal shares
    shape : (H, W)
    slices, batch : how many, and how many at once
    seed : of scans

    Raises
    ------
    InputError
        Data that do not fit the model, or a shape that it cannot take.
    """
    if any(size % model.settings.multiple for size in shape):
        raise InputError(f"shape {shape}: these weights take multiples of {model.settings.multiple}")
    mixture = load_mixture([f"{path}=1" for path in paths], lambda files: iter(tqdm(files, "reading")))
    training = TrainSettings(shapes=(shape,), pixels=batch * shape[0] * shape[1], seed=seed)
    check_fit(mixture, model.settings, training)
    batches = Batches(training, SimulationSettings(), mixture, real=model.settings.real)
    found, left = [], slices
    for number in range(math.ceil(slices / batch)):
        scans = batches[number]
        parts = (scans.kspace, scans.measured, scans.mask, scans.noise)
        found.append(Scans.of_one_coil(*(values[:left] for values in parts)))
        left -= batch
    return found


def log_likelihood(model: HVAE, hhat: Tensor, kspace: Tensor, s: Tensor) -> Tensor:
    """Compute log p(k | z) of white complex noise of deviation s, (slices,), in nats.

    A real image's k-space has half as many free numbers, each counted twice by the squares.
    """
    constant = dimensions(model, kspace) * (torch.log(s) + 0.5 * math.log(math.pi))
    return -(kspace - hhat).abs().square().flatten(1).sum(dim=1) / s**2 - constant


def log_prior(found: Inferred) -> Tensor:
    """Compute log p(z) in nats, (slices,), of inferred latents of all levels."""
    pairs = zip(chain(*found.latents), chain(*found.priors), strict=True)
    return torch.stack([_log_density(z, prior) for z, prior in pairs]).sum(dim=0)


def _log_density(z: Tensor, of: Gaussian) -> Tensor:
    """Compute the log density of a layer's latents, (slices,); numbers that overflow are no error here."""
    density = torch.distributions.Normal(of.mu, of.sigma, validate_args=False)
    return density.log_prob(z).sum(dim=(1, 2, 3))


def objective_of(model: HVAE, found: Inferred, scans: Scans, s: Tensor) -> Tensor:
    """Compute -log p(k, z) of what was inferred, in nats per real dimension, (slices,): what refinement lowers."""
    joint = log_prior(found) + log_likelihood(model, found.kspace, scans.kspace, s)
    return -joint / dimensions(model, scans.kspace)


def evidence_bounds(
    model: HVAE, q: CompleteEncoder, found: Inferred, scans: Scans, s: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Bound -log p(k) from above, in nats per real dimension, (slices,): by the ELBO and importance-weighted.

    Latents are drawn from N(mu_q + u sigma_q, sigma_q^2), where u is how far, in q's deviations, the inferred ones lie
    from q's means: for amortized inference this is q. Infinite where latents so far off were drawn that the decoder's
    numbers overflow.
    """
    shape = (scans.kspace.shape[-2], scans.kspace.shape[-1])
    offsets: dict[tuple[int, int], Tensor] = {}

    def as_inferred(j: int, k: int, state: Tensor, prior: Gaussian) -> Tensor:
        own, z = q(j, k, state, prior), found.latents[j][k]
        offsets[j, k] = (z - own.mu) / own.sigma
        return z

    top_down(model, len(s), shape, as_inferred)

    def log_weight() -> Tensor:
        """Draw latents once: log p(k | z) + log p(z) - log of the density that they were drawn from."""
        total = torch.zeros_like(s)

        def drawn(j: int, k: int, state: Tensor, prior: Gaussian) -> Tensor:
            nonlocal total
            own = q(j, k, state, prior)
            around = Gaussian(own.mu + offsets[j, k] * own.sigma, own.sigma)
            z = around.mu + around.sigma * torch.randn_like(around.sigma)
            total = total - _log_density(z, around)
            return z

        one = top_down(model, len(s), shape, drawn)
        total = total + log_prior(one) + log_likelihood(model, one.kspace, scans.kspace, s)
        return torch.nan_to_num(total, nan=-math.inf, neginf=-math.inf)

    logs = torch.stack([log_weight() for _ in range(samples)])
    count = dimensions(model, scans.kspace)
    return -logs.mean(dim=0) / count, -(torch.logsumexp(logs, dim=0) - math.log(samples)) / count
