"""`mrihvae evaluate`: fastMRI's scores of reconstructions, per volume, per acquisition and overall."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, TextIO

from mrihvae.cli import options
from mrihvae.cli.console import progress
from mrihvae.evaluation.scores import METRICS, Evaluation, VolumeScores, evaluate
from mrihvae.utils.files import atomic_write
from mrihvae.utils.text import printable

SHOWN = ("NMSE", "PSNR", "SSIM", "MSE")


def run(arguments: options.Evaluate) -> None:
    """Score, print the table on standard output and write the files asked for."""
    evaluation = evaluate(
        arguments.target_path,
        arguments.predictions_path,
        arguments.challenge,
        arguments.acquisition,
        arguments.acceleration,
        lambda pairs: progress(pairs, "scoring"),
    )
    print(table(evaluation))
    if arguments.json:
        about = {
            "challenge": arguments.challenge,
            "filter": {"acquisition": arguments.acquisition, "acceleration": arguments.acceleration},
            "versions": {package: _version(package) for package in ("fastmri", "mrihvae")},
        }
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps({**about, **as_dict(evaluation)}, indent=2, allow_nan=False) + "\n")
    if arguments.csv:
        with (
            atomic_write(arguments.csv) as temporary,
            temporary.open("w", newline="", errors="backslashreplace") as file,
        ):
            write_csv(evaluation, file)
    for path in filter(None, (arguments.json, arguments.csv)):
        print(f"scores: {path}", file=sys.stderr)


def table(evaluation: Evaluation) -> str:
    """Lay out the volumes, the means per acquisition if there are several, and fastMRI's overall line."""
    lines: list[tuple[str, ...]] = [("file", "acquisition", *SHOWN, "slices")]
    for row in _sorted_rows(evaluation):
        lines.append((row.file, row.acquisition, *_format_scores(row.scores()), str(row.slices)))
    names = evaluation.acquisitions()
    for name in names if len(names) > 1 else []:
        part = evaluation.of(name)
        slices = sum(row.slices for row in part.rows)
        lines.append((f"mean of {len(part.rows)}", name, *_format_scores(part.means()), str(slices)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [[cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)] for line in lines]
    numbers = [[cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)] for line in lines]
    rows = ["  ".join(text + number) for text, number in zip(texts, numbers, strict=True)]
    return printable("\n".join([*rows, "", summary(evaluation)]), keep="\n")


def summary(evaluation: Evaluation) -> str:
    """Write the means +/- 2 standard deviations as `fastmri.evaluate` does."""
    means, stddevs = evaluation.means(), evaluation.stddevs()
    return " ".join(f"{name} = {means[name]:.4g} +/- {2 * stddevs[name]:.4g}" for name in METRICS)


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return all numbers for JSON; a number that is not finite (the PSNR of a perfect prediction) becomes null."""
    return {
        "overall": _totals(evaluation),
        "acquisitions": {name: _totals(evaluation.of(name)) for name in evaluation.acquisitions()},
        "volumes": [
            {"file": row.file, "acquisition": row.acquisition, "slices": row.slices, **_finite(row.scores())}
            for row in _sorted_rows(evaluation)
        ],
    }


def write_csv(evaluation: Evaluation, file: TextIO) -> None:
    """Write the volumes, with full precision, to an open text file."""
    writer = csv.writer(file)
    writer.writerow(("file", "acquisition", "slices", *METRICS))
    for row in _sorted_rows(evaluation):
        writer.writerow((row.file, row.acquisition, row.slices, *row.scores().values()))


def _sorted_rows(evaluation: Evaluation) -> list[VolumeScores]:
    return sorted(evaluation.rows, key=lambda row: row.file)


def _format_scores(scores: Mapping[str, float]) -> list[str]:
    return [f"{scores[name]:.4g}" for name in SHOWN]


def _totals(evaluation: Evaluation) -> dict[str, Any]:
    means, stddevs = _finite(evaluation.means()), _finite(evaluation.stddevs())
    return {"volumes": len(evaluation.rows), "means": means, "stddevs": stddevs}


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
