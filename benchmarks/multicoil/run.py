"""Reconstruct multi-coil scans with every method on the same masks and maps, and score them in two ways.

    python -m benchmarks.multicoil.run protocols/multicoil.toml --data DIR --varnet runs/varnet/weights.safetensors

writes benchmarks/results/PROTOCOL.json after every volume, tables beside it (.md), and a panel per volume below --work.
A row is one volume, method and pattern, with fastMRI's scores of two images:

- root-sum-of-squares: the coils' images with measured k-space put in, against fastMRI's target, all of it;
- coil-combined: the magnitude of the image that the maps combine, against that of complete k-space by the same maps,
  where there is an object (`support`): outside of it maps mean nothing. Methods that give none have no such score.

All methods have the same maps, `mrihvae.coils.maps.estimate_maps`, but for those that find their own (nlinv, VarNet,
and BART's ESPIRiT, `ecalib-...`). --resume keeps rows that are there and were made by the same weights and settings.
Seconds to quote are of

    python -m benchmarks.multicoil.run protocols/multicoil.toml --time

which takes one slice of 256 x 256 with 8 coils and one of 640 x 372 with 15, maps included, and writes
multicoil_seconds.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.protocol import Protocol, add_options, label, read_protocol, subset
from benchmarks.common.provenance import provenance
from benchmarks.multicoil.tables import LABELS, multicoil_tables
from benchmarks.peers import bart, multicoil_peers
from benchmarks.peers.varnet import TrainedVarNet, load_varnet, untrained_varnet
from benchmarks.peers.varnet import reconstruct as varnet_image
from benchmarks.singlecoil.contestants import strength_for
from benchmarks.singlecoil.quality import (
    SECONDS_NOTE,
    Job,
    earlier_rows,
    finite,
    is_current,
    list_jobs,
    write_results,
)
from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.espirit import calibration_box
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import volume_panel
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.inference.settings import InferenceSettings, RefinementSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights, weights_for
from mrihvae.model.weights import fingerprint, load_card, load_model
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.fourier import ifft2c
from mrihvae.physics.kernels import apply_transfer, gaussian_kernel, transfer_of
from mrihvae.recon.sliced_scan import SlicedScan
from mrihvae.recon.undersampling import mask_of

TUNED = HERE / "results" / "tune_multicoil.json"
OURS = {
    "amortized": InferenceSettings(views=1, rounds=1, refinement=RefinementSettings(sweeps=0)),
    "hybrid": InferenceSettings(),
}
NOT_SHOWN = ("amortized", "bart-tv", "sense", "wavelet")  # in panels, which have little room
OBJECT = 0.1  # of the 99th percentile of the blurred target, from which on there is an object
BLUR = 3.0  # pixels of that blur
Solve = Callable[[np.ndarray, np.ndarray, np.ndarray], "Answer"]


@dataclass(frozen=True)
class Answer:
    """What a method makes of a slice, (H, W): root-sum-of-squares, and the combined complex image if there is one."""

    rss: np.ndarray
    combined: np.ndarray | None


@dataclass(frozen=True)
class Contestant:
    """One method, ready to run.

    Attributes
    ----------
    name : one of `multicoil_tables.LABELS`
    run : from k-space (coils, H, W), 0 where not measured, mask bool (H, W) and maps (coils, H, W)
    made_by : weights and settings; results with another one are out of date
    """

    name: str
    run: Solve
    made_by: str


@dataclass(frozen=True)
class Ours:
    """Our weights."""

    model: HVAE
    fingerprint: str
    steps: int

    @classmethod
    def load(cls, checkpoint: str) -> Ours:
        """Load weights by name or path."""
        path = find_weights(checkpoint)
        steps = load_card(path).get("counters", {}).get("step", 0)
        return cls(load_model(checkpoint), fingerprint(path), steps)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        protocol = read_protocol(options.protocol, tuple(LABELS))
        ours = Ours.load(options.checkpoint)
        varnet = None if options.varnet is None else load_varnet(options.varnet)
        if options.time and varnet is None:
            varnet = untrained_varnet()
        methods = _methods(protocol, varnet, options.methods)
        if options.time:
            from benchmarks.multicoil.seconds import write_seconds

            best, kernels = _tuned(options), _tuned(options, "kernels")
            write_seconds(lambda name: contestant(name, ours, varnet, best, 4.0, kernels), methods, options)
        else:
            benchmark(protocol, ours, varnet, methods, options)
    except InputError as error:
        print(f"multicoil: error: {error}", file=sys.stderr)
        return 2
    return 0


def benchmark(
    protocol: Protocol, ours: Ours, varnet: TrainedVarNet | None, methods: list[str], options: argparse.Namespace
) -> None:
    """Run everything that is missing, and write results after every volume."""
    if options.data is None:
        raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
    output: Path = options.results / f"{options.protocol.stem}.json"
    rows = earlier_rows(output, options)
    jobs = list(list_jobs(protocol, options))
    order = [job.key(method) for job in jobs for method in LABELS]
    about = {
        **provenance(options.protocol),
        "bart": bart.version(),
        "checkpoint": Path(options.checkpoint).name,
        "weights": ours.fingerprint,
        "training_steps": ours.steps,
        "inference": dataclasses.asdict(OURS["hybrid"]),
        "varnet": _kept_varnet(output, options)
        if varnet is None
        else {"weights": varnet.fingerprint, "minutes": varnet.settings.minutes},
        "seconds_are": SECONDS_NOTE,
    }
    kernels = _tuned(options, "kernels")
    for job in tqdm(jobs, options.protocol.stem):
        ready = [contestant(name, ours, varnet, _tuned(options), job.pattern.acceleration, kernels) for name in methods]
        missing = [c for c in ready if not is_current(rows.get(job.key(c.name)), c, job)]
        if missing:
            rows |= {job.key(row["method"]): row for row in run_job(job, missing, options)}
            kept = [key for key in order if key in rows] + [key for key in rows if key not in order]
            write_results(output, about, [rows[key] for key in kept], multicoil_tables)
    if rows:
        print(output.with_suffix(".md").read_text())


def _kept_varnet(output: Path, options: argparse.Namespace) -> Any:
    """Say of which VarNet the rows are that --resume keeps where no weights of it are given."""
    return json.loads(output.read_text()).get("varnet") if options.resume and output.is_file() else None


def contestant(
    name: str,
    ours: Ours,
    varnet: TrainedVarNet | None,
    strengths: list[dict[str, Any]],
    acceleration: float,
    kernels: list[dict[str, Any]] | None = None,
) -> Contestant:
    """Prepare a method for an acceleration; `kernels` are those of BART's ESPIRiT by number of calibration lines."""
    if name in OURS:
        settings = OURS[name]
        told = ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(settings).items())
        return Contestant(name, _ours(ours.model, settings), f"weights {ours.fingerprint}, {told}")
    if name == "varnet":
        assert varnet is not None
        network = varnet
        return Contestant(
            name, lambda y, known, maps: Answer(varnet_image(network, y, known), None), f"weights {varnet.fingerprint}"
        )
    strength = None
    if name not in ("zero-filled", "nlinv"):
        tuned = name.replace(multicoil_peers.OWN_MAPS, "bart-")
        strength = strength_for(strengths, tuned, acceleration, "simulated")

    def run(kspace: np.ndarray, known: np.ndarray, maps: np.ndarray) -> Answer:
        lines = calibration_box(torch.from_numpy(known.copy()))[1]
        kernel = multicoil_peers.kernel_for(kernels or [], lines, acceleration)
        found = multicoil_peers.reconstruct(name, kspace, known, maps, strength, kernel=kernel)
        own = None if name == "nlinv" or name.startswith(multicoil_peers.OWN_MAPS) else found.image
        return Answer(multicoil_peers.to_rss(found.image, found.maps, kspace, known), own)

    made_by = multicoil_peers.arguments(name, strength)
    if name.startswith(multicoil_peers.OWN_MAPS) and kernels:
        by_lines = ", ".join(f"{row['kernel']} at {row['lines']} lines {row['acceleration']}x" for row in kernels)
        made_by += f", kernel {by_lines}"
    return Contestant(name, run, made_by)


def _ours(model: HVAE, settings: InferenceSettings) -> Solve:
    def run(kspace: np.ndarray, known: np.ndarray, maps: np.ndarray) -> Answer:
        y, mask, s = (torch.from_numpy(np.array(array)) for array in (kspace, known, maps))
        image = reconstruct(model, y[None], mask, s[None], settings)
        return Answer(root_sum_of_squares(image, s[None], y[None], mask)[0].numpy(), image[0].numpy())

    return run


def run_job(job: Job, contestants: list[Contestant], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Reconstruct a scan with these methods; gives a row for each."""
    scan = read_scan(job.file)
    if scan.target is None or scan.coils < 2:
        raise InputError(f"{job.file}: has no target, or one coil; leave it out of the protocol")
    mask = mask_of(scan, job.pattern)
    volume = SlicedScan(scan, mask, CoilSettings(compress=0))  # all methods have the same coils
    pattern = np.broadcast_to(volume.known.numpy(), scan.kspace.shape[-2:])
    wanted, inside = complete_images(scan, volume), support(scan.target)
    rows, shown = [], {}
    for one in contestants:
        began = time.perf_counter()
        answers = []
        for k in range(len(volume)):
            batch = volume.batch(k, k + 1)
            answers.append(one.run(batch.kspace[0].numpy(), pattern, batch.maps[0].numpy()))
        seconds = (time.perf_counter() - began) / len(volume)
        shown[one.name] = np.stack([answer.rss for answer in answers]).astype(np.float32)
        scores = {key: finite(value) for key, value in score_volume(scan.target, shown[one.name]).items()}
        combined = [np.abs(answer.combined) for answer in answers if answer.combined is not None]
        if combined:
            found = score_volume(wanted * inside, np.stack(combined).astype(np.float32) * inside)
            scores |= {f"combined {key}": finite(value) for key, value in found.items()}
        rows.append(
            {
                "set": job.scans.name,
                "file": job.file.name,
                "pattern": label(job.pattern),
                "center_fraction": job.pattern.center_fraction,
                "method": one.name,
                "every": job.scans.every,
                "coils": scan.coils,
                "slices": len(volume),
                "R": round(effective_acceleration(mask), 3),
                **scores,
                "seconds": seconds,
                "made_by": one.made_by,
            }
        )
    if not options.no_panels:
        folder = options.work / options.protocol.stem / label(job.pattern).replace(" ", "_")
        title = f"{job.scans.name}, {scan.name}, {label(job.pattern)}, R = {effective_acceleration(mask):.2f}"
        some = {name: image for name, image in shown.items() if name not in NOT_SHOWN} or shown
        volume_panel(folder / f"{job.scans.coils}_{job.file.stem}.png", title, some, scan.target)
    return rows


def complete_images(scan: Scan, volume: SlicedScan) -> np.ndarray:
    """Combine complete k-space by the maps of the undersampled scan: float32 magnitude (slice, H, W)."""
    images = []
    for k in range(len(volume)):
        maps = volume.batch(k, k + 1).maps[0]
        images.append((maps.conj() * ifft2c(torch.from_numpy(scan.kspace[k]))).sum(dim=0).abs().numpy())
    return np.stack(images).astype(np.float32)


def support(target: np.ndarray) -> np.ndarray:
    """Mark where there is an object, from the blurred target (slice, H, W): bool of the same shape."""
    images = torch.from_numpy(np.ascontiguousarray(target, dtype=np.float32))
    blurred = apply_transfer(transfer_of(gaussian_kernel(BLUR), (images.shape[-2], images.shape[-1])), images)
    limit = OBJECT * torch.quantile(blurred.flatten(1), 0.99, dim=1)
    return (blurred > limit[:, None, None]).numpy()


def _tuned(options: argparse.Namespace, what: str = "best") -> list[dict[str, Any]]:
    """Read the best strengths, or the best "kernels" if there are any, from `benchmarks/multicoil/tune.py`."""
    try:
        results = json.loads(options.strengths.read_text())
        best: list[dict[str, Any]] = results.get(what, []) if what == "kernels" else results[what]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{options.strengths}: no results of tuning ({type(error).__name__}: {error}); run "
            "benchmarks/multicoil/tune.py"
        ) from error
    return best


def _methods(protocol: Protocol, varnet: TrainedVarNet | None, wanted: list[str] | None) -> list[str]:
    """Choose the methods that are asked for and can run; tells of each that cannot."""
    chosen = subset(tuple(LABELS), wanted or protocol.methods, "method")
    for name in list(chosen):
        why = None
        if name in multicoil_peers.BART and bart.version() is None:
            why = "bart is not installed (apt-get install bart)"
        if name == "varnet" and varnet is None:
            why = "no weights are given (--varnet FILE)"
        if why:
            print(f"multicoil: {name}: left out, since {why}", file=sys.stderr)
            chosen.remove(name)
    if not chosen:
        raise InputError("no method is left to run; choose others by --methods")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--varnet", type=Path, help="weights of benchmarks/peers/varnet.py")
    parser.add_argument("--strengths", type=Path, default=TUNED, help="results of benchmarks/multicoil/tune.py")
    parser.add_argument("--methods", nargs="+", help="instead of the protocol's")
    parser.add_argument("--sets", nargs="+", help="only these sets of scans, by name")
    parser.add_argument("--limit", type=int, help="at most this many files of each set")
    parser.add_argument("--resume", action="store_true", help="keep rows made by the same weights and settings")
    parser.add_argument("--time", action="store_true", help="time single slices instead; leave the machine alone")
    parser.add_argument("--no-panels", action="store_true")
    add_options(parser)
    parser.set_defaults(checkpoint=weights_for(2))
    return parser


if __name__ == "__main__":
    sys.exit(main())
