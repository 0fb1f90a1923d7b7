"""What refinement of the latents buys, and for how many seconds: rules, steps, rounds and views against r alone.

    python -m benchmarks.singlecoil.refinement --data DIR
    python -m benchmarks.singlecoil.refinement --data DIR --study pnp

The first call runs ways of inference (`VARIANTS`) on training scans, from which the settings of
`mrihvae.inference.reconstruct` were chosen, and some on the scans of a protocol, which nothing was chosen on; the
second does so with the loop of PnP-HVAE around r and q (`PNP`). Writes results/refinement.json or
results/refinement_pnp.json, a table (.md) and a plot of quality over seconds (.png). A gain is the difference to r
alone in PSNR, slice by slice: its mean, its standard deviation over slices, and the share of slices that gain. Seconds
are of one slice after the other, the median; leave the machine alone if you want to quote them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import HERE
from benchmarks.common.plots import save, subplots
from benchmarks.common.protocol import Protocol, add_options, label, read_protocol, scan_files, spread
from benchmarks.common.provenance import provenance
from benchmarks.singlecoil.contestants import Ours, slicewise
from benchmarks.singlecoil.tune_classical import training_scans
from benchmarks.training.study import decoded_means_of_q
from mrihvae.data.scan import Scan
from mrihvae.errors import InputError
from mrihvae.evaluation.scores import score_volume
from mrihvae.inference.preparation import prepare
from mrihvae.inference.reconstruct import reconstruct
from mrihvae.inference.settings import InferenceSettings
from mrihvae.io.fastmri import read_scan
from mrihvae.model.hvae import HVAE
from mrihvae.pnp.reconstruct import reconstruct_scans
from mrihvae.pnp.settings import FOR_SCANS
from mrihvae.recon.undersampling import mask_of
from mrihvae.utils.config import from_dict
from mrihvae.utils.files import atomic_write

ALONE, THROUGH_Q, SHIPPED = "r alone", "q, zero-filled scan", "2 views, 2 rounds, refined (shipped)"
LOOP = "PnP, r, refined, K = 2"
ONE = {"views": 1, "rounds": 1, "sweeps": 0}
NEWTON = {**ONE, "rule": "gauss-newton"}
ADAM = {**ONE, "rule": "adam"}
VARIANTS: dict[str, dict[str, Any]] = {
    THROUGH_Q: {},
    ALONE: ONE,
    **{f"Gauss-Newton, N = {n}": {**NEWTON, "sweeps": n} for n in (1, 2, 3, 5)},
    **{f"line search, N = {n}": {**NEWTON, "iterations": 1, "sweeps": n} for n in (1, 3, 6)},
    **{f"Adam, N = {n}": {**ADAM, "sweeps": n} for n in (5, 15, 30)},
    **{f"plain gradient, N = {n}": {**ONE, "rule": "gradient", "sweeps": n} for n in (5, 15, 30)},
    "Adam, L1, N = 15": {**ADAM, "loss": "l1", "sweeps": 15},
    "Gauss-Newton, anchored at the prior, N = 1": {**NEWTON, "anchor": "prior", "sweeps": 1},
    "2 rounds": {**ONE, "rounds": 2},
    "3 rounds": {**ONE, "rounds": 3},
    "2 views": {**ONE, "views": 2},
    "2 views, 2 rounds": {**ONE, "views": 2, "rounds": 2},
    "2 rounds, refined": {"views": 1},
    SHIPPED: {},
    "4 views, 2 rounds, refined": {"views": 4},
    "2 views, 3 rounds, refined": {"rounds": 3},
}
PNP: dict[str, dict[str, Any]] = {
    **{f"PnP, q, K = {n}": {"encoder": "complete", "sweeps": 0, "iterations": n} for n in (1, 3, 10)},
    **{f"PnP, q, refined, K = {n}": {"encoder": "complete", "iterations": n} for n in (1, 3)},
    **{f"PnP, r, K = {n}": {"sweeps": 0, "iterations": n} for n in (1, 2, 4)},
    **{f"PnP, r, refined, K = {n}": {"iterations": n} for n in (1, 2, 4)},
    **{f"PnP, r, refined, K = 2, gamma = {gamma}": {"gamma": gamma} for gamma in (0.05, 0.1, 0.5)},
    "PnP, r, refined, K = 2, tau = 0.8": {"tau": 0.8},
}
STUDIES = {  # what is run on training scans, and what on others
    "refinement": (
        tuple(VARIANTS),
        (ALONE, *(f"Gauss-Newton, N = {n}" for n in (1, 2, 3, 5)), "2 views, 2 rounds", SHIPPED),
    ),
    "pnp": ((ALONE, SHIPPED, *PNP), (ALONE, SHIPPED, LOOP)),
}
ALL = (*VARIANTS, *PNP)
TRAINING = "training scans"
Rows = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(max(1, options.threads))
    try:
        if options.data is None:
            raise InputError("--data: give the data directory, or set MRIHVAE_DATA")
        protocol, ours = read_protocol(options.protocol), Ours.load(options.checkpoint)
        results = {
            **provenance(options.protocol),
            "load_before": round(os.getloadavg()[0], 2),
            "checkpoint": Path(options.checkpoint).name,
            "weights": ours.fingerprint,
            "rows": measure(protocol, ours.model, options),
        }
    except InputError as error:
        print(f"refinement: error: {error}", file=sys.stderr)
        return 2
    path = options.results / (
        "refinement.json" if options.study == "refinement" else f"refinement_{options.study}.json"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    with atomic_write(path.with_suffix(".md")) as temporary:
        temporary.write_text(refinement_table(results))
    save(over_seconds(results["rows"]), path.with_suffix(".png"))
    print(refinement_table(results))
    return 0


def measure(protocol: Protocol, model: HVAE, options: argparse.Namespace) -> Rows:
    """Run all variants; gives a row per set of scans, pattern and variant."""
    on_training, on_others = STUDIES[options.study]
    groups = [(TRAINING, [scan for scan, _ in training_scans(options.data)], on_training)]
    for scans in protocol.scans:
        read = [read_scan(file) for file in scan_files(scans, options.data, options.work)]
        groups.append((scans.name, [scan.single_slice(k) for scan in read for k in range(len(scan.kspace))], on_others))
    rows = []
    for name, slices, variants in groups:
        for pattern in protocol.patterns:
            found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in variants}
            for one in tqdm(spread(slices, options.slices), f"{name}, {label(pattern)}"):
                mask = mask_of(one, pattern)
                for variant in variants:
                    found[variant].append(_psnr_and_seconds(model, one, mask, variant))
            rows += [
                {"set": name, "pattern": label(pattern), "variant": variant, **summary(values, found[ALONE])}
                for variant, values in found.items()
            ]
    return rows


def summary(values: list[tuple[float, float]], alone: list[tuple[float, float]]) -> dict[str, float]:
    """Summarize (PSNR, seconds) of slices, beside those of r alone."""
    gains = np.array([psnr for psnr, _ in values]) - np.array([psnr for psnr, _ in alone])
    if not np.isfinite(gains).all():
        raise InputError("a reconstruction is not finite: a step is too large; lower it in VARIANTS")
    return {
        "slices": len(values),
        "PSNR": round(float(np.mean([psnr for psnr, _ in values])), 3),
        "gain_dB": round(float(gains.mean()), 3),
        "gain_std_dB": round(float(gains.std()), 3),
        "gaining": round(float((gains > 0).mean()), 3),
        "seconds": round(float(np.median([seconds for _, seconds in values])), 3),
    }


def _psnr_and_seconds(model: HVAE, scan: Scan, mask: np.ndarray, variant: str) -> tuple[float, float]:
    """Reconstruct a scan of one slice, and score it."""
    if scan.target is None:
        raise InputError(f"{scan.name}: has no target to score against; leave it out of the folder")

    def solve(kspace: np.ndarray, known: np.ndarray) -> np.ndarray:
        y, m = torch.from_numpy(kspace)[None].to(torch.complex64), torch.from_numpy(np.array(known))
        if variant == THROUGH_Q:
            return through_q(model, y, m)[0].numpy()
        if variant in PNP:
            return reconstruct_scans(model, y, m, None, replace(FOR_SCANS, **PNP[variant]))[0][0].numpy()
        return reconstruct(model, y, m, None, from_dict(InferenceSettings, VARIANTS[variant], variant))[0].numpy()

    began = time.perf_counter()
    volume = slicewise(scan, mask, solve)
    return score_volume(scan.target, volume)["PSNR"], time.perf_counter() - began


def through_q(model: HVAE, kspace: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Take the zero-filled scan for a complete one: decode q's means and keep measured bins; complex (slices, H, W)."""
    with torch.no_grad():
        problem = prepare(model, kspace, mask)
        decoded = decoded_means_of_q(model, problem.measured)
        return problem.images(torch.where(problem.mask, problem.measured, decoded))


def refinement_table(results: dict[str, Any]) -> str:
    """Lay out gains over r alone: a row per variant, a column per set of scans and pattern."""
    rows: Rows = results["rows"]
    columns = list(dict.fromkeys((row["set"], row["pattern"]) for row in rows))
    lines = ["| inference | " + " | ".join(f"{name}, {pattern}" for name, pattern in columns) + " | s / slice |"]
    lines.append("| --- |" + " --- |" * (len(columns) + 1))
    for variant in (one for one in ALL if any(row["variant"] == one for row in rows)):
        cells = []
        for column in columns:
            found = [row for row in rows if (row["set"], row["pattern"], row["variant"]) == (*column, variant)]
            cells.append("".join(_cell(row) for row in found))
        times = [row["seconds"] for row in rows if row["variant"] == variant and row["set"] == TRAINING]
        lines.append(f"| {variant} | " + " | ".join(cells) + f" | {np.median(times) if times else np.nan:.2f} |")
    foot = (
        "PSNR / dB of r alone; of the others what they gain over it, mean ± standard deviation over slices. "
        f"Seconds: of training scans, {results['threads']} threads."
    )
    return "\n".join(lines) + f"\n\n{foot}\n"


def _cell(row: dict[str, Any]) -> str:
    return f"{row['PSNR']:.2f}" if row["variant"] == ALONE else f"{row['gain_dB']:+.2f} ± {row['gain_std_dB']:.2f}"


def over_seconds(rows: Rows) -> Any:
    """Draw gains over seconds on training scans, the variants of one rule joined, a panel per pattern."""
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    figure, axes = subplots(1, len(patterns), size=(6.4 * len(patterns), 4.8), squeeze=False)
    for axis, pattern in zip(axes[0], patterns):
        points = {row["variant"]: row for row in rows if (row["set"], row["pattern"]) == (TRAINING, pattern)}
        points.pop(THROUGH_Q, None)
        families: dict[str, list[str]] = {}
        for variant in points:
            families.setdefault(re.split(", [NK] = ", variant)[0], []).append(variant)
        for family, members in families.items():
            x, y = ([points[member][key] for member in members] for key in ("seconds", "gain_dB"))
            axis.plot(x, y, "*" if family == SHIPPED else "o-", markersize=12 if family == SHIPPED else 5, label=family)
            for member, *place in zip(members, x, y):
                if re.search(", [NK] = ", member):
                    axis.annotate(member.split(" = ")[-1], place, xytext=(3, 4), textcoords="offset points", fontsize=7)
        axis.axhline(0, color="k", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xlabel("seconds per slice, median")
        axis.set_title(f"{TRAINING}, {pattern}; numbers are N or K")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("PSNR over r alone / dB, mean over slices")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=HERE.parent / "protocols/singlecoil_calibration.toml")
    parser.add_argument("--study", choices=tuple(STUDIES), default="refinement", help="default: refinement")
    parser.add_argument("--slices", type=int, default=16, help="at most this many of each set, evenly spread")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
