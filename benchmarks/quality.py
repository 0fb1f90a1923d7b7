"""Reconstruct the scans of a protocol with every method on the same masks, and score them with fastMRI's metrics.

    python benchmarks/quality.py protocols/singlecoil_random_4x.toml --data DIR

writes benchmarks/results/PROTOCOL.json, a Markdown table beside it, and a panel per volume below --work.
Seconds are per slice, one volume after the other, with the number of threads given in the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulated_scans import simulate_folder
from tqdm import tqdm

from mrihvae import __version__
from mrihvae.errors import InputError
from mrihvae.evaluate import score_volume
from mrihvae.fastmri_files import list_files, read_scan
from mrihvae.figures import volume_panel
from mrihvae.files import replacing
from mrihvae.masks import effective_acceleration
from mrihvae.settings import from_dict
from mrihvae.volumes import Method, Undersampling, lines_of, reconstruct_volume
from mrihvae.weights import find_weights, load_card, load_model

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class ScanSet:
    """A folder of the data directory: raw k-space, or images that become simulated scans."""

    name: str
    path: str
    every: int = 0  # 0: raw k-space; n: simulate from every nth image


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is run."""

    mask_type: str
    acceleration: int
    center_fraction: float
    methods: tuple[str, ...]
    scans: tuple[ScanSet, ...]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--methods", nargs="+", help="instead of the protocol's")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="simulated scans and panels")
    arguments = parser.parse_args()
    try:
        if arguments.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        benchmark(arguments)
    except InputError as error:
        print(f"quality: error: {error}", file=sys.stderr)
        return 2
    return 0


def read_protocol(path: Path) -> Protocol:
    """Read a protocol; unknown keys are errors."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a readable protocol ({error}); check the file") from error
    values["scans"] = [from_dict(ScanSet, scans, f"{path}, scans") for scans in values.get("scans", [])]
    return from_dict(Protocol, values, str(path))


def benchmark(arguments: argparse.Namespace) -> None:
    """Run everything and write the results."""
    protocol = read_protocol(arguments.protocol)
    model = load_model(arguments.checkpoint)
    undersampling = Undersampling(protocol.mask_type, protocol.acceleration, protocol.center_fraction)
    methods = {name: Method(name, model) for name in arguments.methods or protocol.methods}
    rows: list[dict[str, Any]] = []
    for scans in protocol.scans:
        for file in tqdm(list_files(folder_of(scans, arguments)), scans.name):
            scan = read_scan(file)
            if scan.target is None:
                raise InputError(f"{file}: has no target to score against; leave it out of the folder")
            lines = lines_of(scan, undersampling)
            volumes = {}
            for name, method in methods.items():
                reconstruct_volume(scan.one(0), lines, method)  # loads what it needs; not timed
                began = time.perf_counter()
                volumes[name] = reconstruct_volume(scan, lines, method)
                seconds = (time.perf_counter() - began) / len(volumes[name])
                about = {"set": scans.name, "file": file.name, "slices": len(scan.kspace), "method": name}
                effective = round(effective_acceleration(lines), 3)
                rows.append({**about, "R": effective, **score_volume(scan.target, volumes[name]), "seconds": seconds})
            shown = {name: volumes[name] for name in volumes if name != "amortised"}
            title = f"{scans.name}, {scan.name}, R = {effective_acceleration(lines):.2f}"
            volume_panel(
                arguments.work / arguments.protocol.stem / f"{scan.name.removesuffix('.h5')}.png",
                title,
                shown,
                scan.target,
            )
    provenance = {
        "mrihvae": __version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "protocol": arguments.protocol.name,
        "checkpoint": arguments.checkpoint,
        "training_steps": load_card(find_weights(arguments.checkpoint))["counters"]["step"],
        "inference": dataclasses.asdict(Method("hybrid", model).inference),
    }
    name = arguments.protocol.stem
    with replacing(arguments.results / f"{name}.json") as temporary:
        temporary.write_text(json.dumps({**provenance, "volumes": rows}, indent=1) + "\n")
    table = markdown(rows)
    with replacing(arguments.results / f"{name}.md") as temporary:
        temporary.write_text(table)
    print(table)


def folder_of(scans: ScanSet, arguments: argparse.Namespace) -> Path:
    """Give the folder of raw scans, or simulate scans once and give theirs."""
    source: Path = arguments.data / scans.path
    if not scans.every:
        return source
    output: Path = arguments.work / "scans" / f"{scans.path.replace('/', '_')}_every{scans.every}"
    if not output.is_dir():
        part = output.with_name(f"{output.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        for _ in tqdm(simulate_folder(source, part, scans.every), f"simulating {scans.name}"):
            pass
        part.rename(output)
    return output


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay out means over volumes, a row per method, a group of columns per set of scans."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["| method | " + " | ".join(f"{name}: PSNR, SSIM, NMSE" for name in sets) + " | s / slice |"]
    lines.append("|---" * (len(sets) + 2) + "|")
    for method in methods:
        cells = []
        for name in sets:
            group = [row for row in rows if row["set"] == name and row["method"] == method]
            mean = {key: float(np.mean([row[key] for row in group])) for key in ("PSNR", "SSIM", "NMSE")}
            cells.append(f"{mean['PSNR']:.2f}, {mean['SSIM']:.3f}, {mean['NMSE']:.4f}")
        seconds = np.median([row["seconds"] for row in rows if row["method"] == method])
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {seconds:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
