"""Train the weights that are shipped, or that benchmarks need, from packing the data to weights to publish.

    python -m benchmarks.training.train --data DIR --output runs/default
    python -m benchmarks.training.train --data DIR --output runs/restoration --settings restoration
    python -m benchmarks.training.train --data DIR --output runs/ia_hvae --settings ia_hvae
    python -m benchmarks.training.train --data DIR --output runs/default --unpacked
    python -m benchmarks.training.train --packed slices.h5 --output runs/large --settings large --device cuda

The first call packs the training slices into one file of at most 50 MB, OUTPUT/slices.h5, which machines without the
data, fastmri, sigpy and nibabel can train from, and starts a run with train_SETTINGS.json; the same call again goes on
where the run stopped. OUTPUT/weights.safetensors (files of at most 16 MiB) and its card are there after every
checkpoint; `publish.py OUTPUT` makes them the shipped ones. With --data, settings that have `validate_every` are scored
on the `val` folders meanwhile. With --unpacked (always the same for one run) nothing is packed, and all slices are
used, not only those that fit into the file. --go-on begins where weights/SETTINGS.safetensors are: they are what is
left of a run whose checkpoint is lost. Further options go to `mrihvae train`, such as `--workers 14` for a GPU.
Several processes: `torchrun --nproc-per-node N` in front, and --packed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks import HERE
from mrihvae.cli.main import main as mrihvae
from mrihvae.errors import InputError

SOURCES = (
    "ulf_singlecoil/train=0.2",
    "images/t1ce/train=0.26",
    "images/t1_brain/train=0.08",
    "images/ms_t1_t2_flair/train=0.26",
    "images/t1_sagittal/train=0.12",
    "images/spine/train=0.08",
)
VALIDATION = {  # sets to score weights on while they train; heart and knee are anatomies that no training data have
    "raw 0.055 T": "ulf_singlecoil/val",
    "T1ce": "images/t1ce/val",
    "T1/T2/FLAIR": "images/ms_t1_t2_flair/val",
    "T1 brain": "images/t1_brain/val",
    "spine": "images/spine/val",
    "heart": "images/heart/val",
    "knee": "images/knee/val",
}
MAGNITUDES = ("images/t1ce/train=0.35", "images/t1_brain/train=0.3", "images/ms_t1_t2_flair/train=0.35")
RUNS = {  # of settings that begin with weights: their data, and which weights
    "restoration": (MAGNITUDES, ["--weights", "default"]),
    "multicoil": (SOURCES, ["--weights", "default"]),
    "model2": (SOURCES, ["--guess-weights", "multicoil"]),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MRIHVAE_DATA"), help="default: $MRIHVAE_DATA")
    parser.add_argument("--packed", type=Path, help="slices that were packed before, in place of --data")
    parser.add_argument("--unpacked", action="store_true", help="train on --data itself")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--go-on", action="store_true", help="begin with weights/NAME.safetensors of an earlier run")
    parser.add_argument("--settings", default="default", help="which benchmarks/train_NAME.json")
    options, further = parser.parse_known_args(arguments)
    try:
        sources, begun = RUNS.get(options.settings, (SOURCES, []))
        if options.unpacked and (options.packed or options.data is None):
            raise InputError("--unpacked: needs --data, or MRIHVAE_DATA, and no --packed")
        if options.unpacked:
            inputs = [f"{options.data}/{source}" for source in sources]
        else:
            inputs = [str(options.packed or _packed(options.data, options.output, sources))]
        settings = HERE / "training" / f"train_{options.settings}.json"
        if not settings.is_file():
            raise InputError(f"--settings {options.settings}: {settings} is not there")
    except InputError as error:
        print(f"train: error: {error}", file=sys.stderr)
        return 2
    resuming = (options.output / "checkpoint.safetensors").is_file()
    earlier = HERE / "weights" / f"{options.settings}.safetensors"
    how = ["--resume"] if resuming else ["--settings", str(settings), *begun]
    if not resuming and options.go_on:
        how = ["--go-on", str(earlier)]
    if options.data is not None and "validate_every" in json.loads(settings.read_text()).get("training", {}):
        how += ["--validation", *(f"{options.data}/{folder}" for folder in VALIDATION.values())]
    return mrihvae(["train", *inputs, "--output", str(options.output), *how, *further])


def _packed(data: Path | None, output: Path, sources: tuple[str, ...]) -> Path:
    """Pack the training slices, unless that was done before."""
    packed = output / "slices.h5"
    if not packed.is_file():
        from benchmarks.training.pack_slices import main as pack

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("--packed: several processes need slices that were packed before; give the file")
        if data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA, or give --packed")
        output.mkdir(parents=True, exist_ok=True)
        if pack([*(f"{data}/{source}" for source in sources), "--output", str(packed)]):
            raise InputError(f"{packed}: could not be made")
    return packed


if __name__ == "__main__":
    sys.exit(main())
