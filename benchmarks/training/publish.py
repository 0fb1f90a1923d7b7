"""Make a training run the shipped weights: mrihvae/checkpoints/default.safetensors and its card, default.json.

    python -m benchmarks.training.publish runs/default
    python -m benchmarks.training.publish runs/restoration --name restoration
    python -m benchmarks.training.publish runs/multicoil --name multicoil
    python -m benchmarks.training.publish runs/ia_hvae --name ia_hvae
    python -m benchmarks.training.publish --name default

The last one publishes nothing: it writes the SHA-256 of the files into the card, whose text was changed by hand.
Other names than `default`, `multicoil` and `restoration` are weights that benchmarks alone need, and go to
benchmarks/weights. The card gets the licenses of the data and the run's settings and time; that of `default` also the
spread that benchmarks/singlecoil/calibration.py --fit found for these weights, and the scores on `val` that
benchmarks/singlecoil/quality.py gave them, so far as there are any for these very weights: publish again after it. The
log of `default` goes, thinned, to results/train_default.jsonl; the curves of any to results/train_NAME.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import HERE
from mrihvae.errors import InputError
from mrihvae.evaluation.figures import training_figure
from mrihvae.model.shipped import SHIPPED
from mrihvae.model.weights import fingerprint, load_card, load_model, save_weights, state_hashes
from mrihvae.utils.files import atomic_write

RESULTS = HERE / "results"
LICENSES = {
    "ulf_singlecoil/train": "raw k-space of a 0.055 T head scanner, volunteers; CC0 1.0",
    "t1ce/train": "T1 after contrast, J. Cheng, figshare 1512427; CC BY 4.0",
    "t1_brain/train": "T1 brain, OpenNeuro ds002748; CC0 1.0",
    "ms_t1_t2_flair/train": "T1, T2, FLAIR, Lesjak et al., Neuroinformatics 2016; CC BY 4.0",
    "t1_sagittal/train": "sagittal T1 heads at 3 T: United Imaging sample, BSD 2-Clause; studyforrest, PDDL",
    "spine/train": "spines, sct_tutorial_data; MIT",
    "train-images-idx3-ubyte.gz": "Fashion-MNIST, Xiao et al. 2017; MIT",
}
NAMES = ("default", "multicoil", "restoration")  # of shipped weights; others are for benchmarks alone
SCORED = ("singlecoil_random_4x", "singlecoil_random_8x")
LOG_LINES = 400


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of `mrihvae train --output`")
    parser.add_argument("--name", default="default", help="of the weights")
    parser.add_argument("--note", help="what the settings do not say about the run")
    arguments = parser.parse_args()
    try:
        if arguments.run is None:
            state_hashes(output_of(arguments.name))
        else:
            publish(arguments.run, arguments.name, arguments.note)
    except InputError as error:
        print(f"publish: error: {error}", file=sys.stderr)
        return 2
    return 0


def publish(run: Path, name: str, note: str | None) -> None:
    """Copy weights, card, log and curves."""
    weights = run / "weights.safetensors"
    model, card = load_model(str(weights)), load_card(weights)
    for dataset in card["data"]:
        dataset["license"] = LICENSES.get(dataset["path"], "unknown")
    if note:
        card["note"] = note
    if name == "default":
        fit = results_of("calibration_fit", fingerprint(weights))
        if fit is not None:
            card["spread"] = float(fit["spread"])
        scored = {protocol: results_of(protocol, fingerprint(weights)) for protocol in SCORED}
        card["scores"] = {protocol: means(found["volumes"]) for protocol, found in scored.items() if found is not None}
    output = output_of(name)
    output.parent.mkdir(exist_ok=True)
    save_weights(output, model, card)
    if name == "default":
        lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if "elbo" in line]
        with atomic_write(RESULTS / "train_default.jsonl") as temporary:
            temporary.write_text("".join(kept[:: max(1, len(kept) // LOG_LINES)]))
    training_figure(run / "log.jsonl", RESULTS / f"train_{name}.png")


def output_of(name: str) -> Path:
    """Return where weights of a name are published."""
    return (SHIPPED if name in NAMES else HERE / "weights") / f"{name}.safetensors"


def results_of(name: str, weights: str) -> dict[str, Any] | None:
    """Read results, or None if there are none for these weights."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("weights") == weights else None


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Average PSNR and SSIM over the volumes of each set of scans, for our methods and zero-filling."""
    return {
        f"{scans}, {method}": {
            key: round(float(np.mean([row[key] for row in rows if (row["set"], row["method"]) == (scans, method)])), 4)
            for key in ("PSNR", "SSIM")
        }
        for scans in dict.fromkeys(row["set"] for row in rows)
        for method in ("zero-filled", "amortized", "hybrid", "samples")
        if any((row["set"], row["method"]) == (scans, method) for row in rows)
    }


if __name__ == "__main__":
    sys.exit(main())
