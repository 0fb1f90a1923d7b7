"""Make a training run the shipped weights: mrihvae/checkpoints/default.safetensors and its card, default.json.

    python benchmarks/publish_default.py runs/default

The card gets the licences of the data, the run's settings and time, and the scores on `val` from the results of
benchmarks/quality.py; the log goes, thinned, to results/train_default.jsonl and its curves to train_default.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mrihvae.errors import InputError
from mrihvae.figures import training_figure
from mrihvae.files import replacing
from mrihvae.weights import SHIPPED, load_card, load_model

RESULTS = Path(__file__).parent / "results"
LICENCES = {
    "ulf_singlecoil/train": "raw k-space of a 0.055 T head scanner, volunteers; CC0 1.0",
    "t1ce/train": "T1 after contrast, J. Cheng, figshare 1512427; CC BY 4.0",
    "t1_brain/train": "T1 brain, OpenNeuro ds002748; CC0 1.0",
    "ms_t1_t2_flair/train": "T1, T2, FLAIR, Lesjak et al., Neuroinformatics 2016; CC BY 4.0",
}
LOG_LINES = 400


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of `mrihvae train --output`")
    parser.add_argument("--note", help="what the settings do not say about the run")
    arguments = parser.parse_args()
    try:
        publish(arguments.run, arguments.note)
    except InputError as error:
        print(f"publish_default: error: {error}", file=sys.stderr)
        return 2
    return 0


def publish(run: Path, note: str | None) -> None:
    """Copy weights, card, log and curves."""
    load_model(str(run / "weights.safetensors"))
    card = load_card(run / "weights.safetensors")
    for dataset in card["data"]:
        dataset["licence"] = LICENCES.get(dataset["path"], "unknown")
    if note:
        card["note"] = note
    card["scores"] = {path.stem: means(path) for path in sorted(RESULTS.glob("singlecoil_*.json"))}
    with replacing(SHIPPED / "default.json") as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")
    with replacing(SHIPPED / "default.safetensors") as temporary:
        shutil.copyfile(run / "weights.safetensors", temporary)
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "elbo" in line]
    with replacing(RESULTS / "train_default.jsonl") as temporary:
        temporary.write_text("".join(kept[:: max(1, len(kept) // LOG_LINES)]))
    training_figure(run / "log.jsonl", RESULTS / "train_default.png")


def means(results: Path) -> dict[str, Any]:
    """Average PSNR and SSIM over the volumes of each set of scans, for our methods and zero-filling."""
    rows = json.loads(results.read_text())["volumes"]
    return {
        f"{scans}, {method}": {
            key: round(float(np.mean([row[key] for row in rows if (row["set"], row["method"]) == (scans, method)])), 4)
            for key in ("PSNR", "SSIM")
        }
        for scans in dict.fromkeys(row["set"] for row in rows)
        for method in ("zero-filled", "amortised", "hybrid")
    }


if __name__ == "__main__":
    sys.exit(main())
