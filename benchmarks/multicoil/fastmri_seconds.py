"""Seconds and memory at the size of fastMRI's knees: 640 x 368, twofold readout oversampling, matrix 320 x 320.

    python -m benchmarks.multicoil.fastmri_seconds --threads 2

times one slice of 15 coils and one of a single coil, from k-space to the image that is delivered, maps included, by the
function that `mrihvae reconstruct` calls, and writes fastmri_seconds_avx2.json and .md, or what the processor has else.
Beside it stand BART (`ecalib` and `pics`, on k-space as it is and without readout oversampling) and fastMRI's VarNet of
its default size with random weights, which takes k-space as it is. Times are medians of repeats after a warm-up:
seconds of the clock, and seconds of the processor, which tell the same on a busy machine. --slices N also runs the
command on a file of N slices in a process of its own, and tells its seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.random import RandomState

from benchmarks import HERE
from benchmarks.common.protocol import label
from benchmarks.common.provenance import provenance
from benchmarks.peers import bart, multicoil_peers
from benchmarks.singlecoil.timing import NOISE, phantom_scan
from mrihvae.data.scan import Scan
from mrihvae.inference.settings import InferenceSettings
from mrihvae.io.mrd.header import header_xml
from mrihvae.model.shipped import weights_for
from mrihvae.model.weights import load_model
from mrihvae.physics.fourier import center_crop, center_pad, fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import make_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume
from mrihvae.simulation.coil_fields import birdcage_fields
from mrihvae.utils.files import atomic_write

SHAPE, MATRIX = (640, 368), (320, 320)
PATTERN = Undersampling("random", 4, 0.08)
COILS = (15, 1)
STRENGTH = 0.005  # of BART's wavelet penalty; seconds hardly depend on it


def oversampled_phantom(coils: int) -> Scan:
    """Simulate one slice, always the same, whose object fills the central half of the readout."""
    rng, inner = RandomState(1), (SHAPE[0] // 2, SHAPE[1])
    image = ifft2c(torch.from_numpy(phantom_scan(inner).kspace[0]))
    received = birdcage_fields(inner, coils) * image if coils > 1 else image[None]
    white = (rng.randn(2, coils, *SHAPE) * NOISE / np.sqrt(2)).astype(np.float32)
    kspace = (fft2c(center_pad(received, SHAPE)) + torch.complex(*torch.from_numpy(white))).to(torch.complex64)
    shown = kspace[None].numpy() if coils > 1 else kspace.numpy()
    return Scan(f"oversampled_{SHAPE[0]}x{SHAPE[1]}x{coils}.h5", shown, matrix=MATRIX)


def contestants(coils: int, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Prepare what is timed: names, and what to call."""
    scan = oversampled_phantom(coils)
    mask = mask_of(scan, PATTERN)
    model = load_model(weights_for(min(coils, 2)))
    method = make_method("hybrid", model, InferenceSettings(precision=options.precision))
    found: dict[str, Callable[[], Any]] = {"mrihvae (hybrid)": lambda: reconstruct_volume(scan, mask, method)}
    if coils == 1:
        return found
    pattern = np.broadcast_to(mask, SHAPE)
    kspace = np.where(pattern, scan.kspace[0], 0).astype(np.complex64)
    inner = (SHAPE[0] // 2, SHAPE[1])
    smaller = fft2c(center_crop(ifft2c(torch.from_numpy(kspace)), inner)).numpy() * pattern[: inner[0]]
    if bart.version() is not None and not options.only_ours:
        for name, y in (("as it is", kspace), ("without oversampling", smaller)):
            known = pattern[: y.shape[-2]]
            found[f"BART, ecalib + pics, {name}"] = lambda y=y, known=known: multicoil_peers.reconstruct(
                "ecalib-wavelet", y, known, None, STRENGTH
            )
    if not options.only_ours:
        found["VarNet (default size)"] = _varnet(kspace, mask)
    return found


def _varnet(kspace: np.ndarray, mask: np.ndarray) -> Callable[[], Any]:
    from fastmri.models import VarNet

    torch.manual_seed(0)
    network = VarNet().eval()
    y = torch.view_as_real(torch.from_numpy(kspace))[None]
    lines = torch.from_numpy(mask).view(1, 1, 1, -1, 1)

    def run() -> Any:
        with torch.no_grad():
            return network(y, lines)

    return run


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Measure medians of the clock and of the processor, in this process and those it starts."""
    clock, processor = [], []
    for number in range(repeats + 1):
        began, before = time.perf_counter(), _processor()
        run()
        if number or not repeats:
            clock.append(time.perf_counter() - began)
            processor.append(_processor() - before)
    return {
        "seconds": round(float(np.median(clock)), 3),
        "least": round(min(clock), 3),
        "processor": round(float(np.median(processor)), 3),
    }


def _processor() -> float:
    """Give the seconds of the processor that this process and those it waited for have had."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def of_file(slices: int, options: argparse.Namespace) -> dict[str, float]:
    """Run the command on a file of so many slices of 15 coils; gives seconds a slice, and peak memory in MB."""
    scan = oversampled_phantom(COILS[0])
    mask = mask_of(scan, PATTERN)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        with h5py.File(path, "w") as file:
            kspace = file.create_dataset("kspace", (slices, *scan.kspace.shape[1:]), np.complex64)
            for k in range(slices):
                kspace[k] = np.where(mask, scan.kspace[0], 0) * (1 + 0.01 * k)
            file["mask"] = mask
            file["ismrmrd_header"] = header_xml(SHAPE, COILS[0], MATRIX, None, (1.0, 1.0, 1.0), "phantom").encode()
            file.attrs["acquisition"] = "phantom"
        words = ["reconstruct", str(path), "--output", folder, "--precision", options.precision]
        code = (
            f"import torch; torch.set_num_threads({options.threads}); from mrihvae.cli import main; "
            f"status = main({words!r}); "
            "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1]); "
            "raise SystemExit(status)"
        )
        began = time.perf_counter()
        shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - began
    peak = int(shown.split()[-1]) * 1024 / 1e6
    return {"slices": slices, "seconds": round(seconds, 1), "peak_MB": round(peak)}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="auto", help="of the network: auto, float32 or bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slices", type=int, default=0, help="also reconstruct a file of so many slices")
    parser.add_argument("--only-ours", action="store_true", help="neither BART nor VarNet")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of BART
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"fastmri_seconds: the load of this machine is {load:.1f}: look at seconds of the processor",
            file=sys.stderr,
        )
    found = {
        f"{SHAPE[0]} x {SHAPE[1]} x {coils}": {
            name: timed(run, options.repeats) for name, run in contestants(coils, options).items()
        }
        for coils in COILS
    }
    results = {
        **provenance(weights=("default", "multicoil")),
        "bart": bart.version(),
        "precision": options.precision,
        "load_before": round(load, 2),
        "pattern": label(PATTERN),
        "matrix": list(MATRIX),
        "repeats": options.repeats,
        "seconds": found,
        "file": of_file(options.slices, options) if options.slices else None,
    }
    path = options.results / f"fastmri_seconds_{results['instructions'].lower()}.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(text)
    print(text)
    return 0


def table(results: dict[str, Any]) -> str:
    """Lay out the results as a Markdown table."""
    lines = ["| size | method | seconds | seconds of the processor |", "|---|---|---:|---:|"]
    for size, methods in results["seconds"].items():
        for name, one in methods.items():
            lines.append(f"| {size} | {name} | {one['seconds']:.2f} | {one['processor']:.2f} |")
    notes = (
        f"One slice, {results['pattern']}, matrix {' x '.join(map(str, results['matrix']))}, maps included; "
        f"{results['threads']} threads, {results['instructions']}, precision {results['precision']}; mrihvae "
        f"{results['mrihvae']}, torch {results['torch']}, BART {results['bart']}."
    )
    file = results["file"]
    if file:
        notes += (
            f" A file of {file['slices']} slices: {file['seconds']} s and at most {file['peak_MB']} MB of memory for "
            "`mrihvae reconstruct`."
        )
    return "\n".join([*lines, "", notes, ""])


if __name__ == "__main__":
    sys.exit(main())
