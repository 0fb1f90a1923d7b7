"""Seconds and memory of multi-coil methods on single slices, maps included: medians of repeated runs after a warm-up.

Called by `multicoil.py --time`. BART's are of its two commands, `ecalib` and `pics`, one after the other.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState

from benchmarks.common.protocol import label
from benchmarks.common.provenance import provenance
from benchmarks.multicoil.tables import multicoil_seconds_table
from benchmarks.singlecoil.timing import NOISE, phantom_scan, repeat
from mrihvae.coils.maps import estimate_maps
from mrihvae.coils.settings import CoilSettings
from mrihvae.data.scan import Scan
from mrihvae.physics.fourier import fft2c, ifft2c
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.undersampling import mask_of
from mrihvae.simulation.coil_fields import birdcage_fields
from mrihvae.utils.files import atomic_write

SIZES = ((256, 256, 8), (640, 372, 15))
PATTERN = Undersampling("random", 4, 0.08)
OWN_MAPS = ("nlinv", "varnet")
TIMED_AS = {"bart-wavelet": "ecalib-wavelet", "bart-tv": "ecalib-tv"}  # with the maps that BART finds itself
SLOW = ("tv", "bart-tv", "wavelet", "nlinv")  # are run at the first size alone
REPEATS = 3


def coil_phantom(height: int, width: int, coils: int) -> Scan:
    """Simulate one slice, always the same: the phantom of benchmarks/singlecoil/timing.py, received by a birdcage."""
    rng = RandomState(1)
    image = ifft2c(torch.from_numpy(phantom_scan((height, width)).kspace[0]))
    white = (rng.randn(2, coils, height, width) * NOISE / np.sqrt(2)).astype(np.float32)
    kspace = fft2c(birdcage_fields((height, width), coils) * image) + torch.complex(*torch.from_numpy(white))
    target = ifft2c(kspace).abs().square().sum(dim=0).sqrt()
    return Scan(
        f"phantom_{height}x{width}x{coils}.h5", kspace[None].to(torch.complex64).numpy(), target=target[None].numpy()
    )


def seconds_of(run: Callable[..., Any], name: str, scan: Scan) -> list[float]:
    """Time a method on the slice of a scan, from k-space to its image, maps included."""
    mask = np.broadcast_to(mask_of(scan, PATTERN), scan.kspace.shape[-2:])
    kspace = np.where(mask, scan.kspace[0], 0)

    def once() -> None:
        maps = np.zeros(0)
        if name not in OWN_MAPS and name not in TIMED_AS:
            y, known = torch.from_numpy(kspace), torch.from_numpy(np.ascontiguousarray(mask))
            maps = estimate_maps(y[None], known, CoilSettings())[0].numpy()
        run(kspace, mask, maps)

    return repeat(once, REPEATS)


def write_seconds(prepare: Callable[[str], Any], methods: list[str], options: argparse.Namespace) -> None:
    """Time every method, and write multicoil_seconds.json and .md."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"multicoil: the load of this machine is {load:.1f}: these seconds are not of one alone", file=sys.stderr)
    found: dict[str, dict[str, Any]] = {}
    for size in SIZES:
        scan, key = coil_phantom(*size), "x".join(map(str, size))
        found[key] = {}
        for name in methods:
            if size == SIZES[0] or name not in SLOW:
                seconds = seconds_of(prepare(TIMED_AS.get(name, name)).run, name, scan)
                found[key][name] = {"median": round(float(np.median(seconds)), 3), "least": round(min(seconds), 3)}
    memory = {}
    for size in SIZES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory["x".join(map(str, size))] = pool.apply(_peak, (options.checkpoint, size))
    results = {
        **provenance(weights=options.checkpoint),
        "load_before": round(load, 2),
        "pattern": label(PATTERN),
        "repeats": REPEATS,
        "seconds": found,
        "peak_memory_GiB of mrihvae (hybrid)": memory,
    }
    path = options.results / "multicoil_seconds.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    table = multicoil_seconds_table(results)
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(table)
    print(table)


def _peak(checkpoint: str, size: tuple[int, int, int]) -> float:
    """Reconstruct one slice in a process of its own, and give its peak memory in GiB."""
    from benchmarks.multicoil.run import Ours, contestant

    run = contestant("hybrid", Ours.load(checkpoint), None, [], 4.0).run
    scan = coil_phantom(*size)
    mask = np.broadcast_to(mask_of(scan, PATTERN), scan.kspace.shape[-2:])
    kspace = np.where(mask, scan.kspace[0], 0)
    maps = estimate_maps(torch.from_numpy(kspace)[None], torch.from_numpy(np.array(mask)), CoilSettings())[0]
    run(kspace, mask, maps.numpy())
    return round(_peak_of_this_process() / 2**20, 2)


def _peak_of_this_process() -> int:
    """Read the peak memory in KiB; that of `resource` has the parent's in it, which Linux hands on."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
