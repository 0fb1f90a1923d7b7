"""What benchmarks of inference on complete scans share: their command, protocols, scans and likelihoods."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mrihvae.bands import merge
from mrihvae.cli_train import check_fit
from mrihvae.errors import InputError
from mrihvae.files import replacing
from mrihvae.iahvae import FromComplete, Inferred
from mrihvae.model import HVAE
from mrihvae.objective import Scans, dimensions
from mrihvae.runs import TrainSettings
from mrihvae.simulate import SimulationSettings
from mrihvae.slices import load_mixture
from mrihvae.training import Batches

HERE = Path(__file__).parent


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
    """Write results as JSON, and beside them their table (.md)."""
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    with replacing(output.with_suffix(".md")) as temporary:
        temporary.write_text(table)


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
        return tomllib.loads(path.read_text())
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
        found.append(Scans(*(getattr(scans, one.name)[:left] for one in fields(scans))))
        left -= batch
    return found


def log_likelihood(model: HVAE, hhat: Tensor, kspace: Tensor, s: Tensor) -> Tensor:
    """Compute log p(k | z) of white complex noise of deviation s, (slices,), in nats.

    A real image's k-space has half as many free numbers, each counted twice by the squares.
    """
    constant = dimensions(model, kspace) * (torch.log(s) + 0.5 * math.log(math.pi))
    return -(kspace - hhat).abs().square().flatten(1).sum(dim=1) / s**2 - constant


def log_prior(model: HVAE, latents: Sequence[Sequence[Tensor]], shape: tuple[int, int]) -> Tensor:
    """Compute log p(z) in nats, (slices,), of the latents of every level of images of (H, W)."""
    total = torch.zeros(len(latents[0][0]), device=latents[0][0].device)
    state = model.begin(len(total), shape)
    for j, own in enumerate(latents):
        state = model.enter(j, state)
        for layer, z in zip(model.layers(j), own):
            prior, state = layer.look_ahead(state)
            total = total + torch.distributions.Normal(prior.mu, prior.sigma).log_prob(z).sum(dim=(1, 2, 3))
            state = layer(state, z)
    return total


def objective_of(model: HVAE, found: Inferred, scans: Scans, s: Tensor) -> Tensor:
    """Compute -log p(k, z) of what was inferred, in nats per real dimension, (slices,): what refinement lowers."""
    shape = (scans.kspace.shape[-2], scans.kspace.shape[-1])
    joint = log_prior(model, found.latents, shape) + log_likelihood(model, found.kspace, scans.kspace, s)
    return -joint / dimensions(model, scans.kspace)


def evidence_bounds(
    model: HVAE, q: FromComplete, found: Inferred, scans: Scans, s: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Bound -log p(k) from above, in nats per real dimension, (slices,): by the ELBO and importance-weighted.

    Latents are drawn from N(mu_q + u sigma_q, sigma_q^2), where u is how far, in q's deviations, the inferred ones lie
    from q's means: for amortised inference this is q.
    """
    offsets = [[] for _ in range(model.settings.levels)]  # type: list[list[Tensor]]
    shape = (scans.kspace.shape[-2], scans.kspace.shape[-1])
    state = model.begin(len(s), shape)
    for j in range(model.settings.levels):
        state = model.enter(j, state)
        for k, (layer, z) in enumerate(zip(model.layers(j), found.latents[j])):
            prior, ahead = layer.look_ahead(state)
            own = q(j, k, state, prior)
            offsets[j].append((z - own.mu) / own.sigma)
            state = layer(ahead, z)
    logs = torch.stack([_log_weight(model, q, offsets, scans, s) for _ in range(samples)])
    count = dimensions(model, scans.kspace)
    return -logs.mean(dim=0) / count, -(torch.logsumexp(logs, dim=0) - math.log(samples)) / count


def _log_weight(model: HVAE, q: FromComplete, offsets: list[list[Tensor]], scans: Scans, s: Tensor) -> Tensor:
    """Draw latents once: log p(k | z) + log p(z) - log of the density that they were drawn from.

    Minus infinity where latents so far off were drawn that the decoder's numbers overflow.
    """
    shape = (scans.kspace.shape[-2], scans.kspace.shape[-1])
    state, total, bands = model.begin(len(s), shape), torch.zeros_like(s), []
    for j in range(model.settings.levels):
        state = model.enter(j, state)
        for k, (layer, u) in enumerate(zip(model.layers(j), offsets[j])):
            prior, ahead = layer.look_ahead(state)
            own = q(j, k, state, prior)
            drawn = torch.distributions.Normal(own.mu + u * own.sigma, own.sigma, validate_args=False)
            z = drawn.loc + drawn.scale * torch.randn_like(drawn.scale)  # numbers that overflow are no error here
            given = torch.distributions.Normal(prior.mu, prior.sigma, validate_args=False)
            total = total + (given.log_prob(z) - drawn.log_prob(z)).sum(dim=(1, 2, 3))
            state = layer(ahead, z)
        if any(j == group[-1] for group in model.groups):
            bands.append(model.head(j, state, shape))
    return torch.nan_to_num(
        total + log_likelihood(model, merge(bands), scans.kspace, s), nan=-math.inf, neginf=-math.inf
    )
