"""Make the pictures that no table goes with: the head of README.md, and 8 coils at 4x for docs/results.md.

    python -m benchmarks.pictures --data DIR --varnet runs/varnet/weights.safetensors

Writes results/head.png, of the scan of 16 coils that comes with the package, under the mask of `mrihvae demo`, and
results/multicoil.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import HERE
from benchmarks.common.plots import shrink
from benchmarks.multicoil import run as multicoil
from benchmarks.multicoil.tables import LABELS
from benchmarks.peers.varnet import TrainedVarNet, load_varnet
from benchmarks.peers.varnet import reconstruct as varnet_image
from mrihvae.cli.demo import SCANS as DEMO_SCANS
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.comparison import draw_comparison
from mrihvae.evaluation.scores import score_volume
from mrihvae.io.fastmri import read_scan
from mrihvae.model.shipped import weights_for
from mrihvae.physics.fastmri_masks import effective_acceleration
from mrihvae.physics.sampling import Undersampling
from mrihvae.recon.catalog import load_method
from mrihvae.recon.undersampling import mask_of
from mrihvae.recon.volumes import reconstruct_volume

SCANS = "simulated, 8 coils"  # a set of protocols/multicoil.toml
COILS = "random_4x/8_patient09_study2_FLAIR.png"
METHODS = ("zero-filled", "tv", "bart-wavelet", "varnet", "hybrid")
HEAD = DEMO_SCANS / "pulseq_brain16.h5"
MASK = Undersampling("random", 4, 0.08)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        draw_head(read_scan(HEAD), load_varnet(options.varnet), options.results / "head.png")
        with tempfile.TemporaryDirectory() as temporary:
            write_coils(Path(temporary), options)
    except InputError as error:
        print(f"pictures: error: {error}", file=sys.stderr)
        return 2
    return 0


def draw_head(scan: Scan, network: TrainedVarNet, path: Path) -> None:
    """Draw a fully sampled scan under `MASK`: zero-filled, TV, VarNet, mrihvae, target and errors."""
    assert scan.target is not None
    mask = mask_of(scan, MASK)
    pattern = np.broadcast_to(mask, scan.kspace.shape[-2:])
    volumes = {
        "zero-filled": reconstruct_volume(scan, mask, load_method("zero-filled")),
        "tv": reconstruct_volume(scan, mask, load_method("tv")),
        "varnet": np.stack([varnet_image(network, one * pattern, pattern) for one in scan.kspace]),
        "hybrid": reconstruct_volume(scan, mask, load_method("hybrid", weights_for(scan.coils))),
    }
    images = {LABELS[name]: volume for name, volume in volumes.items()}
    scores = {name: score_volume(scan.target, volume) for name, volume in images.items()}
    title = f"3 T, 16 coils, random mask, effective acceleration {effective_acceleration(mask):.2f}"
    draw_comparison(path, title, images, scan.target, scores, mask)
    shrink(path)
    print(path)


def write_coils(folder: Path, options: argparse.Namespace) -> None:
    """Take the panel of a scan of 8 coils from the benchmark of several coils, run for that set alone."""
    words = [str(HERE.parent / "protocols" / "multicoil.toml"), "--varnet", str(options.varnet), "--sets", SCANS]
    words += ["--methods", *METHODS, "--results", str(folder / "results"), "--work", str(folder / "work")]
    (folder / "results").mkdir()
    if multicoil.main([*words, *(["--data", str(options.data)] if options.data else [])]):
        raise InputError("benchmarks.multicoil.run: failed; see what it said")
    _keep(folder / "work" / "multicoil" / COILS, options.results / "multicoil.png")


def _keep(source: Path, target: Path) -> None:
    """Copy a picture, small enough for the repository."""
    shrink(source)
    shutil.copyfile(source, target.with_suffix(".part"))
    target.with_suffix(".part").replace(target)
    print(target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--varnet", type=Path, required=True, help="weights of benchmarks/peers/varnet.py")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
