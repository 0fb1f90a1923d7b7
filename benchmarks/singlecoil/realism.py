"""Do posterior samples look like scans: their power over spatial frequency, Frechet distance and PSNR by temperature.

    python -m benchmarks.singlecoil.realism --data DIR

takes --slices slices of each set of a protocol, and draws posterior samples of each at temperatures 0 to 1. Of single
samples, of their mean, of the hybrid reconstruction and of total variation it computes

- power: the power of the magnitude image over that of the truth, by spatial frequency, up to half a cycle a pixel;
- the Frechet distance (`benchmarks.common.frechet`) of all images to the true slices, and, for scale, that of one half
  of the true slices to the other;
- PSNR / dB, of a slice against its own maximum.

"with noise" are samples at temperature 1 whose k-space has noise, as strong as the scan's, where nothing was acquired:
true slices have it. Draws of the prior at the same temperatures are compared with real slices of 128 x 128, which have
noise, too. Writes results/realism.json, .md and .png, or NAME with --name. For other weights: --checkpoint FILE.
Images are kept below --work, so that a call goes on where one was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.complete_scans import draw_scans, write_results
from benchmarks.common.frechet import GABOR, frechet_distance, gabor_features
from benchmarks.common.plots import save
from benchmarks.common.protocol import ScanSet, add_options, label, read_protocol, scan_files, spread
from benchmarks.common.provenance import provenance
from benchmarks.common.spectra import BANDS, band_power, decibels
from benchmarks.singlecoil.contestants import TUNED, Ours, read_strengths, strength_for
from benchmarks.singlecoil.realism_tables import draw_figure, markdown
from mrihvae.data.scan import Scan, delivered_shape
from mrihvae.errors import InputError
from mrihvae.inference.latents import generate
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.physics.fourier import center_crop, fft2c, ifft2c
from mrihvae.physics.noise import line_noise
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.methods import HybridMethod
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.utils.files import atomic_write

TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWN_SHAPE = (128, 128)
DRAWN_BATCH = 8
SHOWN_DRAWS = 2  # of each temperature, in the picture
NOISY = "sample, 1, with noise"
TRUTH = "truth"


@dataclass(frozen=True)
class Slice:
    """One slice of a scan under one pattern, and its images by name: float32 (h, w), in units of the scan."""

    scans: str
    pattern: str
    truth: np.ndarray
    images: Mapping[str, list[np.ndarray]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        if options.slices < 1 or options.samples < 2 or options.draws < 4:
            raise InputError("--slices must be at least 1, --samples at least 2, --draws at least 4")
        measure(options)
    except InputError as error:
        print(f"realism: error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(options: argparse.Namespace) -> None:
    """Reconstruct and draw, score, and write the results."""
    protocol, ours = read_protocol(options.protocol), Ours.load(options.checkpoint)
    strengths = read_strengths(options.strengths)
    jobs = [
        (pattern, scans, scan)
        for pattern in protocol.patterns
        for scans in protocol.scans
        for scan in chosen_slices(scans, options)
    ]
    slices = []
    for pattern, scans, scan in tqdm(jobs, "slices"):
        strength = strength_for(strengths, "tv", pattern.acceleration, scans.kind)
        slices.append(kept(options.work, ours, scans.name, scan, pattern, options.samples, strength))
    real, drawn = draws_of_prior(ours.model, options, [scans.path for scans in protocol.scans])
    results = {
        **provenance(options.protocol, options.checkpoint),
        "command": "python -m benchmarks.singlecoil.realism",
        "slices": options.slices,
        "samples": options.samples,
        "draws": options.draws,
        "temperatures": list(TEMPERATURES),
        "features": GABOR,
        "frequencies": [round(float(center), 4) for center in BANDS],
        "rows": [row for pattern in _names(slices) for row in score(pattern, slices)],
        "prior": score_draws(real, drawn),
    }
    output: Path = options.results / f"{options.name}.json"
    write_results(output, results, markdown(results))
    save(draw_figure(results, pictures(slices), prior_pictures(real, drawn)), output.with_suffix(".png"))
    print(output.with_suffix(".md").read_text())


def chosen_slices(scans: ScanSet, options: argparse.Namespace) -> list[Scan]:
    """Take some slices of a set, spread over all of its files."""
    files = scan_files(scans, options.data, options.work, options.limit or 0)
    found = [(file, k) for file in files for k in range(len(read_scan(file).kspace))]
    return [read_scan(file).single_slice(k) for file, k in spread(found, options.slices)]


def kept(work: Path, ours: Ours, name: str, scan: Scan, pattern: Undersampling, samples: int, strength: float) -> Slice:
    """Reconstruct a slice, or read what an interrupted call with these weights and settings made of it."""
    about = repr((ours.fingerprint, name, scan.name, label(pattern), samples, strength, TEMPERATURES))
    digest = hashlib.sha256(about.encode() + scan.kspace.tobytes()).hexdigest()[:16]
    path = work / "realism" / f"{digest}.npz"
    if path.is_file():
        with np.load(path) as found:
            images = {key: list(found[key]) for key in found.files if key != TRUTH}
            return Slice(name, label(pattern), found[TRUTH], images)
    made = reconstruct_slice(ours, name, scan, pattern, samples, strength)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{TRUTH: made.truth}, **{key: np.stack(images) for key, images in made.images.items()})
    return made


def reconstruct_slice(
    ours: Ours, name: str, scan: Scan, pattern: Undersampling, samples: int, strength: float
) -> Slice:
    """Reconstruct a slice in all ways that are compared."""
    if scan.target is None:
        raise InputError(f"{scan.name}: has no target to compare with; leave it out of the folder")
    mask = mask_of(scan, pattern)
    images: dict[str, list[np.ndarray]] = {}
    for temperature in TEMPERATURES:
        count = samples if temperature else 1
        sampler = make_method("samples", ours.model, replace(ours.inference, temperature=temperature), count)
        assert isinstance(sampler, HybridMethod)
        found, noisy = draw_samples(scan, mask, sampler)
        images[f"sample, {temperature:g}"] = found[:-1]
        images[f"mean, {temperature:g}"] = found[-1:]
    images[NOISY] = noisy
    images["hybrid"] = list(reconstruct_volume(scan, mask, make_method("hybrid", ours.model, ours.inference)))
    images["tv"] = list(reconstruct_volume(scan, mask, make_method("tv", strength=strength)))
    return Slice(name, label(pattern), scan.target[0], images)


def draw_samples(scan: Scan, mask: np.ndarray, sampler: HybridMethod) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw samples of a slice: their magnitudes and that of their mean; and the samples with noise."""
    sliced = SlicedScan(scan, mask, sampler.coils)
    batch = sliced.batch(0, 1)
    images = sampler.sample(batch)[:, 0]
    power = line_noise(batch.kspace)  # 0 where a line was not acquired
    deviation = float(power[power > 0].mean()) ** 0.5 if bool((power > 0).any()) else 0.0
    generator = torch.Generator().manual_seed(0)
    numbers = torch.complex(*(torch.randn(images.shape, generator=generator) for _ in range(2)))
    missing = ~batch.known.expand(images.shape[-2:])
    noisy = ifft2c(fft2c(images) + deviation / 2**0.5 * numbers * missing)

    def delivered(many: Tensor) -> list[np.ndarray]:
        return list(center_crop(sliced.restore(many).abs(), delivered_shape(scan)).contiguous().numpy())

    return delivered(torch.cat([images, images.mean(dim=0, keepdim=True)])), delivered(noisy)


def score(pattern: str, slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """Score all kinds of images under a pattern; the truth comes last."""
    own = [one for one in slices if one.pattern == pattern]
    truth = _features([one.truth for one in own], own)
    rows = []
    for name in own[0].images:
        count = len(own[0].images[name])
        distances = [
            frechet_distance(_features([one.images[name][k] for one in own], own), truth) for k in range(count)
        ]
        rows.append(
            {
                "pattern": pattern,
                "images": name,
                "slices": len(own),
                "PSNR": float(np.mean([psnr(one.truth, image) for one in own for image in one.images[name]])),
                "frechet": float(np.mean(distances)),
                "power_dB": {
                    scans: _power([one for one in own if one.scans == scans], name)
                    for scans in dict.fromkeys(one.scans for one in own)
                },
            }
        )
    halves = frechet_distance(truth[::2], truth[1::2]) if len(truth) > 3 else None
    return [*rows, {"pattern": pattern, "images": TRUTH, "slices": len(own), "frechet": halves}]


def psnr(truth: np.ndarray, image: np.ndarray) -> float:
    """Compute the PSNR / dB of a slice against its own maximum."""
    return float(10 * np.log10(truth.max() ** 2 / np.mean((truth - image) ** 2)))


def _power(own: Sequence[Slice], name: str) -> list[float]:
    """Compute the power of images over that of the truth in each band of frequencies, in dB."""
    made = [np.mean([band_power(image) for image in one.images[name]], axis=0) for one in own]
    return decibels(np.array(made) / np.array([band_power(one.truth) for one in own]))


def _features(images: Sequence[np.ndarray], own: Sequence[Slice]) -> np.ndarray:
    """Compute features of images, each in units of the 99th percentile of its truth."""
    found = [
        gabor_features(torch.from_numpy(image / np.percentile(one.truth, 99))[None].float())
        for image, one in zip(images, own, strict=True)
    ]
    return torch.cat(found).numpy()


def draws_of_prior(
    model: HVAE, options: argparse.Namespace, paths: Sequence[str]
) -> tuple[Tensor, dict[float, Tensor]]:
    """Give as many real slices (n, h, w) as draws, and draws at every temperature."""
    folders = [options.data / path for path in paths]
    batches = draw_scans(model, folders, DRAWN_SHAPE, options.draws, DRAWN_BATCH, seed=0)
    real = torch.cat([ifft2c(scans.kspace) for scans in batches]).abs()
    drawn = {}
    for temperature in tqdm(TEMPERATURES, "draws of the prior"):
        images = [
            ifft2c(generate(model, DRAWN_BATCH, DRAWN_SHAPE, temperature, seed).kspace).abs()
            for seed in range(-(-options.draws // DRAWN_BATCH))
        ]
        drawn[temperature] = torch.cat(images)[: options.draws]
    return real, drawn


def score_draws(real: Tensor, drawn: Mapping[float, Tensor]) -> list[dict[str, Any]]:
    """Score draws of the prior against real slices; the last row is of one half of these against the other."""
    features = gabor_features(real).numpy()
    power = np.mean([band_power(image) for image in real.numpy()], axis=0)
    rows: list[dict[str, Any]] = [
        {
            "temperature": temperature,
            "frechet": frechet_distance(gabor_features(images).numpy(), features),
            "power_dB": decibels(np.mean([band_power(one) for one in images.numpy()], axis=0)[None] / power),
        }
        for temperature, images in drawn.items()
    ]
    return [*rows, {"temperature": None, "frechet": frechet_distance(features[::2], features[1::2])}]


def pictures(slices: Sequence[Slice]) -> list[tuple[str, np.ndarray]]:
    """Choose the images to show: the middle simulated slice at the highest acceleration."""
    own = [one for one in slices if one.pattern == slices[-1].pattern and one.scans != slices[0].scans] or slices
    one = own[len(own) // 6]
    shown = [f"sample, {temperature:g}" for temperature in TEMPERATURES]
    names = [*shown, NOISY, f"mean, {TEMPERATURES[-1]:g}", "hybrid", "tv"]
    return [(TRUTH, one.truth), *((name, one.images[name][0]) for name in names)]


def prior_pictures(real: Tensor, drawn: Mapping[float, Tensor]) -> list[tuple[str, np.ndarray]]:
    """Choose draws and real slices to show."""
    found = [(f"prior, {temperature:g}", images[k].numpy()) for temperature, images in drawn.items()
             for k in range(SHOWN_DRAWS if temperature else 1)]  # fmt: skip
    return [("real", real[0].numpy()), *found]


def _names(slices: Sequence[Slice]) -> list[str]:
    return list(dict.fromkeys(one.pattern for one in slices))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=HERE.parent / "protocols/singlecoil_calibration.toml")
    parser.add_argument("--slices", type=int, default=10, help="of each set, spread over its files")
    parser.add_argument("--samples", type=int, default=4, help="of each slice and temperature")
    parser.add_argument("--draws", type=int, default=48, help="of the prior at each temperature")
    parser.add_argument("--limit", type=int, help="at most this many files of each set")
    parser.add_argument("--strengths", type=Path, default=TUNED, help="results of tune_classical.py")
    parser.add_argument("--name", default="realism", help="of the results")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
