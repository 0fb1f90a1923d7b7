"""Compare sensitivity maps on scans with few calibration lines: the hybrid's image by each, and BART's.

    python -m benchmarks.multicoil.maps --data DIR

A row is one slice under one pattern, and PSNR / dB of two images by each kind of maps (`MAPS`): root-sum-of-squares
with acquired k-space put in, and the same where there is an object (`multicoil.support`), without the background's
noise, which is great where coils are many. Beside them are BART's nlinv, and BART's ESPIRiT + L1-wavelet at the kernel
and strength that are the best on that very scan, which no one can know in use. Scans are real ones, and slices
simulated from images that are in no training split.

Results go to results/maps.json after every scan, with a table (.md) and a plot (.png); --resume keeps the rows that are
there, and --hours stops before a scan that would begin later.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.protocol import label
from benchmarks.common.provenance import provenance
from benchmarks.multicoil.run import support
from benchmarks.peers import bart, multicoil_peers
from mrihvae.coils.combine import root_sum_of_squares
from mrihvae.coils.espirit import MAX_ACS_SIZE, MAX_KERNEL_SIZE, calibration_box, calibration_data, fast_maps
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import save_figure, subplots
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.model.shipped import find_weights, weights_for
from mrihvae.model.weights import fingerprint, load_model
from mrihvae.physics.fourier import center_crop
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.undersampling import mask_of
from mrihvae.simulation.files import image_groups, simulate_file
from mrihvae.simulation.settings import ScannerSettings
from mrihvae.utils.files import atomic_write

KERNELS = (3, 4, 5, 6)  # of BART's ESPIRiT
STRENGTHS = (0.0003, 0.0006, 0.0012, 0.0025, 0.005)  # of its L1-wavelet
FIRST = 0.0012  # the strength with which kernels are compared
MAPS = {
    "kernel 6": "one kernel for all (6)",
    "chosen kernel": "0 repetitions",
    "refined": "in use",
    "complete": "of complete k-space",
    "nlinv": "nlinv (BART)",
    **{f"ecalib {kernel}": f"ecalib -k {kernel} (BART)" for kernel in KERNELS},
}
BEST = "BART"  # its own reconstruction, at its best kernel and strength
REAL = ("pulseq_brain16", "pulseq_phantom16", "usc_mprage")
REAL_PATTERNS = (
    Undersampling("random", 4, 0.08),
    Undersampling("equispaced_fraction", 4, 0.08),
    Undersampling("random", 8, 0.04),
)
SIMULATED = ("images/t1ce/val", "images/ms_t1_t2_flair/val", "images/t1_brain/val")
SIMULATED_PATTERNS = REAL_PATTERNS[:2]
MATRICES = (96, 128)
COILS = 16
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One slice under one pattern; `load` reads or simulates it."""

    name: str
    pattern: Undersampling
    load: Callable[[], Scan]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        benchmark(options)
    except InputError as error:
        print(f"maps: error: {error}", file=sys.stderr)
        return 2
    return 0


def benchmark(options: argparse.Namespace) -> None:
    """Run every scan that is missing, and write results after each."""
    began, path = time.monotonic(), options.results / "maps.json"
    model, weights = load_model(options.checkpoint), fingerprint(find_weights(options.checkpoint))
    rows: Rows = []
    if options.resume and path.is_file():
        earlier = json.loads(path.read_text())
        rows = earlier["scans"] if earlier["weights"] == weights else []
    about = {
        **provenance(),
        "bart": bart.version(),
        "checkpoint": Path(options.checkpoint).name,
        "weights": weights,
    }
    done = {(row["scan"], row["pattern"]) for row in rows}
    chosen = [case for case in cases(options.data) if (case.name, label(case.pattern)) not in done]
    for case in tqdm(chosen, "maps"):
        if options.hours and time.monotonic() - began > 3600 * options.hours:
            break
        rows.append(row_of(case, model))
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**about, "scans": rows}, indent=1) + "\n")
        with atomic_write(path.with_suffix(".md")) as temporary:
            temporary.write_text(table(rows))
        save_figure(plot(rows), path.with_suffix(".png"))
    if rows:
        print(table(rows))


def cases(data: Path) -> list[Case]:
    """List the scans."""

    def real(path: Path) -> Callable[[], Scan]:
        return lambda: read_scan(path).single_slice(0)

    def drawn(images: Path, matrix: int) -> Callable[[], Scan]:
        return lambda: simulated(images, matrix)

    found = [Case(name, pattern, real(data / "multicoil" / f"{name}.h5")) for name in REAL for pattern in REAL_PATTERNS]
    return found + [
        Case(f"{Path(images).parent.name}, {COILS} coils, {matrix} x {matrix}", pattern, drawn(data / images, matrix))
        for matrix in MATRICES
        for images in SIMULATED
        for pattern in SIMULATED_PATTERNS
    ]


def simulated(images: Path, matrix: int) -> Scan:
    """Simulate the middle slice of the first images of a folder with random coils."""
    group = image_groups(images, limit=1)[0]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"{group.name}.h5"
        count = simulate_file(group, path, ScannerSettings(coils=COILS, matrix=matrix, fields="random"))
        return read_scan(path).single_slice(count // 2)


def row_of(case: Case, model: HVAE) -> dict[str, Any]:
    """Score a scan with all kinds of maps."""
    scan = case.load()
    if scan.target is None:
        raise InputError(f"{case.name}: has no target; leave it out")
    shape = (scan.kspace.shape[-2], scan.kspace.shape[-1])
    complete = torch.from_numpy(scan.kspace[0])
    mask = torch.from_numpy(mask_of(scan, case.pattern)).expand(shape).contiguous()
    kspace = torch.where(mask, complete, torch.zeros((), dtype=complete.dtype))
    calibration = calibration_data(kspace, mask)
    pattern = mask.numpy()
    inside, target = support(scan.target), scan.target

    def scores(image: np.ndarray) -> dict[str, float]:
        whole = image[None].astype(np.float32)
        found = {
            "PSNR": score_volume(target, whole)["PSNR"],
            "object PSNR": score_volume(target * inside, whole * inside)["PSNR"],
        }
        return {key: round(value, 3) for key, value in found.items()}

    def hybrid(maps: Tensor) -> dict[str, float]:
        with torch.no_grad():
            image = reconstruct(model, kspace[None], mask, maps[None])
        return scores(root_sum_of_squares(image, maps[None], kspace[None], mask)[0].numpy())

    seconds: dict[str, float] = {}

    def timed(name: str, settings: CoilSettings) -> Tensor:
        start = time.process_time()
        maps = estimate_maps(kspace[None], mask, settings)[0]
        seconds[name] = round(time.process_time() - start, 3)
        return maps

    ours = {
        "kernel 6": fast_maps(calibration, shape, kernel=MAX_KERNEL_SIZE),
        "chosen kernel": timed("chosen kernel", CoilSettings(refine_maps=0)),
        "refined": timed("refined", CoilSettings()),
        "complete": fast_maps(center_crop(complete, (min(MAX_ACS_SIZE, shape[0]), min(MAX_ACS_SIZE, shape[1]))), shape),
    }
    row: dict[str, Any] = {
        "scan": case.name,
        "pattern": label(case.pattern),
        "coils": len(kspace),
        "matrix": list(shape),
        "lines": calibration_box(mask)[1],
        "maps": {name: hybrid(maps) for name, maps in ours.items()},
        "seconds of maps": seconds,
    }
    if bart.version() is not None:
        usable = [kernel for kernel in KERNELS if kernel < row["lines"]]  # BART takes an even number of lines
        row["maps"] |= _of_bart(kspace.numpy(), pattern, usable, hybrid)
        row[BEST] = _best_of_bart(kspace.numpy(), pattern, usable, scores)
    return row


def _of_bart(
    kspace: np.ndarray, mask: np.ndarray, usable: list[int], hybrid: Callable[[Tensor], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Score the hybrid with BART's maps, of root-sum-of-squares 1 or 0."""
    scale = np.float32(np.abs(kspace).max())
    found = {"nlinv": hybrid(torch.from_numpy(multicoil_peers.reconstruct("nlinv", kspace, mask).maps))}
    for kernel in usable:
        maps = bart.ecalib(kspace / scale, (*multicoil_peers.ECALIB, "-k", str(kernel)))
        found[f"ecalib {kernel}"] = hybrid(torch.from_numpy(maps))
    return found


def _best_of_bart(
    kspace: np.ndarray, mask: np.ndarray, usable: list[int], scores: Callable[[np.ndarray], dict[str, float]]
) -> dict[str, Any]:
    """Find the kernel, and with it the strength, at which BART's ESPIRiT + L1-wavelet is the best on a scan."""

    def tried(kernel: int, strength: float) -> dict[str, Any]:
        answer = multicoil_peers.reconstruct("ecalib-wavelet", kspace, mask, strength=strength, kernel=kernel)
        image = multicoil_peers.to_rss(answer.image, answer.maps, kspace, mask)
        return {"kernel": kernel, "strength": strength, **scores(image)}

    def quality(one: dict[str, Any]) -> float:
        return float(one["PSNR"])

    found = [tried(kernel, FIRST) for kernel in usable]
    best = max(found, key=quality)
    return max([best, *(tried(best["kernel"], one) for one in STRENGTHS if one != FIRST)], key=quality)


def table(rows: Rows) -> str:
    """Lay out PSNR / dB, a row a scan."""
    tried = [str(kernel) for kernel in KERNELS if any(f"ecalib {kernel}" in row["maps"] for row in rows)]
    lines = [
        "Root-sum-of-squares PSNR / dB (where there is an object) of mrihvae (hybrid) by sensitivity maps, and of "
        f"BART's ESPIRiT + L1-wavelet at the best kernel ({', '.join(tried)}) and strength for each scan\n",
        "| scan | lines | " + " | ".join(MAPS.values()) + " | BART, best | s of maps in use |",
        "| --- | --- |" + " --- |" * (len(MAPS) + 2),
    ]
    for row in rows:
        cells = [_pair(row["maps"].get(name)) for name in MAPS]
        best = row.get(BEST)
        told = _pair(best) + (f", -k {best['kernel']}, {best['strength']}" if best else "")
        seconds = f"{row['seconds of maps']['refined']:.2f}"
        lines.append(
            f"| {row['scan']}, {row['pattern']} | {row['lines']} | " + " | ".join(cells) + f" | {told} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: Rows) -> Any:
    """Draw the PSNR of each scan by maps."""
    figure, axis = subplots(size=(10, 0.42 * len(rows) + 1.6))
    shown = {
        "kernel 6": ("0.6", "o"),
        "chosen kernel": ("tab:orange", "v"),
        "refined": ("tab:red", "*"),
        "complete": ("k", "|"),
    }
    places = np.arange(len(rows))
    for name, (color, marker) in shown.items():
        values = [row["maps"][name]["PSNR"] for row in rows]
        axis.plot(values, places, color=color, marker=marker, linestyle="", markersize=9, label=f"maps {MAPS[name]}")
    best = [row[BEST]["PSNR"] if BEST in row else np.nan for row in rows]
    axis.plot(best, places, color="tab:cyan", marker="^", linestyle="", label="BART, best kernel and strength")
    axis.set_yticks(places, [f"{row['scan']}, {row['pattern']}" for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.set_xlabel("root-sum-of-squares PSNR / dB")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _pair(scores: dict[str, Any] | None) -> str:
    return "-" if scores is None else f"{scores['PSNR']:.2f} ({scores['object PSNR']:.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--checkpoint", default=weights_for(2), help="weights: a shipped name or a .safetensors file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--resume", action="store_true", help="keep rows made by the same weights")
    parser.add_argument("--hours", type=float, default=0.0, help="begin no scan after so long; 0: no limit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
